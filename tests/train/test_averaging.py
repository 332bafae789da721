from __future__ import annotations

import pytest
import torch
from torch import nn

import effvit
from effvit.train.averaging import make_average, update_average
from effvit.train.config import TrainConfig

NUM_STEPS = 5


def drifting() -> nn.Module:
    return effvit.create_model("efficientvit_tiny", num_classes=3, image_size=32)


def drift(model: nn.Module, step: int) -> None:
    """A step of training for everything: weights and the statistics of the norms move, the counters count."""
    generator = torch.Generator().manual_seed(step)
    with torch.no_grad():
        for value in model.state_dict().values():
            if value.is_floating_point():
                value.add_(torch.randn(value.shape, generator=generator))
            else:
                value.add_(1)


@pytest.mark.parametrize("warmup", [False, True])
def test_average_is_the_moving_average_of_weights_and_statistics(warmup: bool) -> None:
    decay = 0.6
    model = drifting()
    average = make_average(model, TrainConfig(ema_decay=decay, ema_warmup=warmup))
    expected = {name: value.double() for name, value in model.state_dict().items()}
    for step in range(NUM_STEPS):
        drift(model, step)
        update_average(average, model, step)
        now = min(decay, 1 - (1 + step) ** (-2 / 3)) if warmup else decay
        for name, value in model.state_dict().items():
            expected[name] = now * expected[name] + (1 - now) * value.double()
    counters = 0
    for name, value in average.module.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value.double(), expected[name], rtol=1e-5, atol=1e-5, msg=name)
        else:
            assert value == model.state_dict()[name] == NUM_STEPS, name
            counters += 1
    assert counters > 0
    assert any("running_var" in name for name in expected)


def test_average_starts_as_a_copy_and_leaves_the_network_alone() -> None:
    model = drifting()
    average = make_average(model, TrainConfig(ema_decay=0.9))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    drift(model, 0)
    for name, value in average.module.state_dict().items():
        assert torch.equal(value, before[name]), name
    after = {name: value.clone() for name, value in model.state_dict().items()}
    update_average(average, model, 0)
    for name, value in model.state_dict().items():
        assert torch.equal(value, after[name]), name
    assert model.training
    assert not average.module.training
