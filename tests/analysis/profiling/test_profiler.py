"""The whole profile of small networks: shares add up, every operator has its place, bad input is told in one line."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import pytest
import timm
import torch
from profiles import PEAKS
from torch import nn

import effvit
from effvit.analysis.profiling import profiler
from effvit.analysis.profiling.causes import CAUSES
from effvit.analysis.profiling.places import blocks, stages
from effvit.analysis.profiling.profiler import profile
from effvit.analysis.profiling.records import Profile
from effvit.errors import ConfigError
from effvit.operators import CLASSES

QUICK: Mapping[str, Any] = {
    "batch_size": 2,
    "image_size": (64, 64),
    "rounds": 2,
    "min_round_seconds": 0,
    "passes": 2,
    "peaks": PEAKS,
}


@pytest.fixture(scope="module")
def measured() -> Profile:
    """Three kinds of networks, once for all tests."""
    given = {"img_size": 64, "embed_dim": 24, "depths": (1, 1), "num_heads": (2, 2), "window_size": 4}
    swin = timm.create_model("swin_tiny_patch4_window7_224", **given)
    return profile([effvit.create_model("efficientvit_tiny"), swin, "timm:mobilenetv3_small_050"], **QUICK)


def test_shares_add_up_to_one_and_times_to_the_wall_time(measured: Profile) -> None:
    assert [model.label for model in measured.models] == [
        *("efficientvit_tiny", "SwinTransformer", "timm:mobilenetv3_small_050")
    ]
    for model in measured.models:
        assert list(model.shares) == list(CLASSES)
        assert sum(model.shares.values()) == pytest.approx(1)
        assert model.operators_ms + model.between_ms == pytest.approx(model.wall_ms)
        assert 0 < model.between_share < 1 and 0 < model.memory_share < 1
        assert {operator.cause for operator in model.operators} <= set(CAUSES) - {"between"}
        assert sum(operator.num_macs for operator in model.operators) == model.num_macs
        for rows in (stages(model), blocks(model)):
            assert sum(o.ms for group in rows.values() for o in group) == pytest.approx(model.operators_ms)


def test_only_a_pooling_has_no_class(measured: Profile) -> None:
    names = {name for model in measured.models for name in model.unclassified}
    assert names <= {"aten::mean", "aten::adaptive_avg_pool2d"}


def test_only_networks_with_heads_of_their_own_have_heads(measured: Profile) -> None:
    ours, *others = measured.models
    assert ours.is_ours and len(ours.heads()) > 1 and not any(model.heads() for model in others)
    assert sum(total.ms for total in ours.heads().values()) < ours.operators_ms


def test_a_record_is_json(measured: Profile) -> None:
    record = json.loads(json.dumps(measured.to_dict()))
    assert record["peaks"]["ridge"] == 10
    for values, model in zip(record["models"], measured.models, strict=True):
        assert sum(row["ms"] for row in values["layers"]) == pytest.approx(values["operators_ms"])
        assert values["memory_share"] == pytest.approx(model.memory_share)


def test_the_network_given_is_left_as_it_is() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    profile([network], **QUICK)
    assert network.training and not any(module._forward_hooks for module in network.modules())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_threads_are_set_for_the_time_and_restored() -> None:
    before = torch.get_num_threads()
    assert profile([nn.Conv2d(3, 4, 1)], num_threads=2, **QUICK).num_threads == 2
    assert torch.get_num_threads() == before


def test_what_is_done_is_told() -> None:
    steps: list[str] = []
    rounds: list[tuple[int, int]] = []
    profile([nn.Conv2d(3, 4, 1)], on_step=steps.append, on_round=lambda *step: rounds.append(step), **QUICK)
    assert steps == ["counting the costs of Conv2d", "measuring without the profiler", "recording Conv2d"]
    assert rounds == [(1, 2), (2, 2)]


def test_limits_are_measured_if_they_are_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Any, ...]] = []
    monkeypatch.setattr(profiler, "measure_peaks", lambda *arguments: asked.append(arguments) or PEAKS)
    found = profile([nn.Conv2d(3, 4, 1).double()], **{**QUICK, "peaks": None, "num_threads": 1})
    assert asked == [(torch.device("cpu"), torch.float64, 1)] and found.peaks is PEAKS
    assert found.models[0].dtype == "float64"


class Wrong(nn.Module):
    """Runs on shapes, and not on numbers."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.device.type != "meta":
            raise RuntimeError("out of luck\nand more")
        return x * 2


@pytest.mark.parametrize(
    ("models", "given", "message"),
    [
        ([], {}, "at least one model is needed, got none"),
        (["efficientvit_m9"], {}, "unknown model 'efficientvit_m9'; nearest: efficientvit_m"),
        ([nn.Conv2d(3, 4, 1)], {"batch_size": 0}, "batch size must be at least 1, got 0"),
        ([nn.Conv2d(3, 4, 1)], {"device": "mps"}, "the time of operators can be seen on cpu and cuda, not on mps"),
        ([nn.Conv2d(3, 4, 1)], {"passes": 0}, "passes must be at least 1, got 0"),
        ([nn.Conv2d(3, 4, 1)], {"rounds": 0}, "profile: rounds must be at least 1, got 0"),
        ([nn.Linear(3, 4)], {}, "the network does not run on an input of 2x3x64x64"),
        (
            [nn.Conv2d(3, 4, 1), nn.Conv2d(3, 5, 1).double()],
            {},
            "models beside each other must be of one floating-point type, got float32, float64",
        ),
        ([Wrong()], {}, "Wrong does not run on cpu: out of luck"),
        ([nn.Identity()], {}, "torch's profiler saw no operator of Identity on cpu"),
    ],
)
def test_bad_input_is_told_in_one_line(models: list[Any], given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match="^" + re.escape(message)) as caught:
        profile(models, **{**QUICK, **given})
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_a_compiled_network_has_its_kernels_classified() -> None:
    (model,) = profile([effvit.create_model("efficientvit_tiny")], compiled=True, **QUICK).models
    assert model.is_compiled and sum(model.shares.values()) == pytest.approx(1)
    names = {operator.name for operator in model.operators}
    assert any("cpp_fused_" in name for name in names) and not any(o.cause == "batch_norm" for o in model.operators)
    # Inductor writes the smallest of the products (a squeeze-and-excite of one pixel) into a kernel of its own.
    assert 0.999 * model.num_macs <= sum(operator.num_macs for operator in model.operators) <= model.num_macs
    assert set(model.unclassified) <= {"aten::mean"} | {name for name in names if "mean" in name}
