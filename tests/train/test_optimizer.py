from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import timm
import torch
from helpers import randomise
from hypothesis import given
from hypothesis import strategies as st
from timm.optim import create_optimizer_v2, param_groups_layer_decay
from timm.scheduler.cosine_lr import CosineLRScheduler
from timm.utils.clip_grad import dispatch_clip_grad
from torch import nn

import effvit
from effvit.errors import ConfigError
from effvit.train.config import TrainConfig
from effvit.train.optimizer import clip_gradients, learning_rate_at, make_optimizer

PEAK = 4e-3


def scheduled(count: int, **options: Any) -> list[float]:
    """What timm's schedule gives at 0 .. count - 1."""
    optimizer = torch.optim.SGD([{"params": [nn.Parameter(torch.zeros(1))], "lr": PEAK}])
    scheduler = CosineLRScheduler(optimizer, lr_min=1e-5, warmup_lr_init=1e-6, **options)
    found = []
    for position in range(count):
        (scheduler.step if scheduler.t_in_epochs else scheduler.step_update)(position)
        found.append(optimizer.param_groups[0]["lr"])
    return found


@given(st.integers(2, 400), st.integers(0, 20), st.integers(1, 7))
def test_by_epochs_the_schedule_is_timms(epochs: int, warmup: int, steps_per_epoch: int) -> None:
    warmup = min(warmup, epochs - 1)
    config = TrainConfig(epochs=epochs, warmup_share=warmup / epochs, schedule_unit="epoch", learning_rate=PEAK)
    num_steps = epochs * steps_per_epoch
    ours = [learning_rate_at(step, num_steps, config, steps_per_epoch=steps_per_epoch) for step in range(num_steps)]
    expected = scheduled(epochs, t_initial=epochs, warmup_t=warmup, warmup_prefix=False)
    assert ours == pytest.approx([rate for rate in expected for _ in range(steps_per_epoch)], rel=1e-9)


@given(st.integers(2, 1000), st.floats(0, 0.9), st.integers(1, 50))
def test_by_steps_the_schedule_is_timms(num_steps: int, share: float, steps_per_epoch: int) -> None:
    config = TrainConfig(warmup_share=share, learning_rate=PEAK)
    ours = [learning_rate_at(step, num_steps, config, steps_per_epoch=steps_per_epoch) for step in range(num_steps)]
    warmup = round(share * num_steps)
    length = max(num_steps - warmup - 1, 1)
    options = {"t_initial": length, "warmup_t": warmup, "warmup_prefix": True, "t_in_epochs": False}
    assert ours == pytest.approx(scheduled(num_steps, **options), rel=1e-9)


@given(st.integers(2, 2000), st.floats(0, 1))
def test_schedule_rises_to_the_peak_and_falls_to_the_floor(num_steps: int, warmup_share: float) -> None:
    config = TrainConfig(warmup_share=warmup_share)
    rates = [learning_rate_at(step, num_steps, config, steps_per_epoch=1) for step in range(num_steps)]
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


def test_only_the_peak_grows_with_the_batch() -> None:
    config = TrainConfig(batch_size=2048, learning_rate=1e-3, base_batch_size=512, warmup_share=0.5)
    rates = [learning_rate_at(step, 10, config, steps_per_epoch=5) for step in range(10)]
    assert rates[0] == config.warmup_learning_rate
    assert rates[5] == pytest.approx(4e-3)
    assert rates[-1] == pytest.approx(config.min_learning_rate)


def ours_and_timms() -> tuple[nn.Module, nn.Module]:
    """The paper's M0, by this package and by timm."""
    return effvit.create_model("efficientvit_m0", num_classes=7), timm.create_model("efficientvit_m0", num_classes=7)


def groups_of(optimizer: torch.optim.Optimizer) -> Counter[tuple[int, float, float]]:
    """How many weights there are with each size of tensor, decay and rate: names differ between packages."""
    return Counter(
        (parameter.numel(), group["weight_decay"], round(group["lr"] * group.get("timm_scale", 1.0), 12))
        for group in optimizer.param_groups
        for parameter in group["params"]
    )


@pytest.mark.parametrize("which", ["effvit", "timm"])
def test_groups_are_those_of_timms_optimizer(which: str) -> None:
    ours, timms = ours_and_timms()
    mine = make_optimizer(ours if which == "effvit" else timms, TrainConfig(weight_decay=0.3, learning_rate=PEAK))
    reference = create_optimizer_v2(timms, opt="adamw", lr=PEAK, weight_decay=0.3)
    assert groups_of(mine) == groups_of(reference)
    assert {decay for _, decay, _ in groups_of(mine)} == {0.0, 0.3}
    for group in mine.param_groups:
        assert (group["betas"], group["eps"]) == ((0.9, 0.999), 1e-8)


@pytest.mark.parametrize("which", ["effvit", "timm"])
def test_layers_slow_down_as_in_timm(which: str) -> None:
    ours, timms = ours_and_timms()
    config = TrainConfig(weight_decay=0.3, learning_rate=PEAK, layer_decay=0.7)
    mine = make_optimizer(ours if which == "effvit" else timms, config)
    reference = torch.optim.AdamW(
        param_groups_layer_decay(timms, 0.3, no_weight_decay_list=timms.no_weight_decay(), layer_decay=0.7), lr=PEAK
    )
    for group in reference.param_groups:
        group["timm_scale"] = group["lr_scale"]  # timm's scheduler multiplies by it at every step
    assert groups_of(mine) == groups_of(reference)
    rates = {rate for _, _, rate in groups_of(mine)}
    assert len(rates) == 8  # stem, six blocks, head
    assert max(rates) == pytest.approx(PEAK)
    assert all(group["initial_lr"] == group["lr"] for group in mine.param_groups)


def test_layer_decay_needs_layers() -> None:
    with pytest.raises(ConfigError, match="a Sequential does not tell"):
        make_optimizer(nn.Sequential(nn.Linear(2, 2)), TrainConfig(layer_decay=0.9))
    make_optimizer(nn.Sequential(nn.Linear(2, 2)), TrainConfig())


@pytest.mark.parametrize("name", ["effvit", "timm"])
def test_every_weight_is_trained_once_and_norms_are_not_decayed(name: str) -> None:
    if name == "effvit":
        model: nn.Module = effvit.create_model("efficientvit_tiny", num_classes=3, image_size=32)
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


def with_gradients(scale: float) -> nn.Module:
    model = randomise(effvit.create_model("efficientvit_tiny", num_classes=3, image_size=32))
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        parameter.grad = scale * torch.randn(parameter.shape, generator=generator)
    return model


def test_gradients_are_clipped_as_in_the_papers_code() -> None:
    ours, reference = with_gradients(0.1), with_gradients(0.1)
    clip_gradients(ours, TrainConfig(clip_grad=0.02))
    dispatch_clip_grad(reference.parameters(), value=0.02, mode="agc")
    before = dict(with_gradients(0.1).named_parameters())
    expected = dict(reference.named_parameters())
    for name, parameter in ours.named_parameters():
        assert parameter.grad is not None
        assert torch.equal(parameter.grad, expected[name].grad), name
        assert not torch.equal(parameter.grad, before[name].grad), name  # head, norms and bias tables too


def test_units_of_clipping() -> None:
    """A bias table is clipped head by head, a weight output by output, a norm whole."""
    model = with_gradients(10.0)
    clip_gradients(model, TrainConfig(clip_grad=0.02))
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        flat = parameter.detach()[None] if parameter.dim() == 1 else parameter.detach()
        gradients = parameter.grad[None] if parameter.dim() == 1 else parameter.grad
        norms, gradient_norms = flat.flatten(1).norm(dim=1), gradients.flatten(1).norm(dim=1)
        torch.testing.assert_close(gradient_norms, 0.02 * norms.clamp(min=1e-3), msg=name)


def test_small_gradients_and_no_clipping_change_nothing() -> None:
    for scale, share in ((1e-9, 0.02), (10.0, 0.0)):
        model = with_gradients(scale)
        clip_gradients(model, TrainConfig(clip_grad=share))
        for parameter, before in zip(model.parameters(), with_gradients(scale).parameters(), strict=True):
            assert parameter.grad is not None
            assert before.grad is not None
            assert torch.equal(parameter.grad, before.grad)
