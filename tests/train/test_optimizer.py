from __future__ import annotations

import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st

import effvit
from effvit.train.config import TrainConfig
from effvit.train.optimizer import learning_rate_at, make_optimizer


@given(st.integers(2, 2000), st.floats(0, 1))
def test_schedule_rises_to_the_peak_and_falls_to_the_floor(num_steps: int, warmup_share: float) -> None:
    config = TrainConfig(warmup_share=warmup_share)
    rates = [learning_rate_at(step, num_steps, config) for step in range(num_steps)]
    warmup = round(warmup_share * num_steps)
    assert rates[:warmup] == sorted(rates[:warmup])
    assert rates[warmup:] == sorted(rates[warmup:], reverse=True)
    assert max(rates) <= config.learning_rate
    if warmup:
        assert rates[0] == config.warmup_learning_rate
    if warmup < num_steps:
        assert rates[warmup] == pytest.approx(config.learning_rate)
    if warmup < num_steps - 1:
        assert rates[-1] == pytest.approx(config.min_learning_rate)


def test_half_way_is_half_the_height() -> None:
    config = TrainConfig(warmup_share=0, learning_rate=1.0, min_learning_rate=0.0)
    assert learning_rate_at(50, 101, config) == pytest.approx(0.5)


@pytest.mark.parametrize("name", ["effvit", "timm"])
def test_every_weight_is_trained_once_and_norms_are_not_decayed(name: str) -> None:
    if name == "effvit":
        model: torch.nn.Module = effvit.create_model("efficientvit_tiny", num_classes=3, image_size=32)
    else:
        model = timm.create_model("resnet18", num_classes=3)
    optimizer = make_optimizer(model, TrainConfig(weight_decay=0.5))
    trained = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert len(trained) == len(set(trained))
    assert set(trained) == {id(p) for p in model.parameters()}
    undecayed = {id(p) for g in optimizer.param_groups if g["weight_decay"] == 0 for p in g["params"]}
    for parameter_name, parameter in model.named_parameters():
        expected = parameter.ndim == 1 or "attention_biases" in parameter_name
        assert (id(parameter) in undecayed) == expected, parameter_name
