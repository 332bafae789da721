"""One batch size of a benchmark: what is called, and what a failure of a part costs the others."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
from torch import Tensor, nn

from effvit.deploy.export import Exported
from effvit.deploy.speed import candidates, contest
from effvit.deploy.speed.benchmark import benchmark
from effvit.deploy.speed.forms import Form, Prepared
from effvit.timing import Timing

QUICK: dict[str, Any] = {"rounds": 2, "min_round_seconds": 0.0, "warmup_seconds": 0.0}


class Counted(nn.Module):
    """Counts its calls, also those of its copies."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x.mean((2, 3))

    def __deepcopy__(self, memo: object) -> Counted:
        return self


def test_the_control_is_the_first_model_again(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = Counted(), Counted()

    def measure(calls: Mapping[str, Callable[[], object]], **_: Any) -> dict[str, Timing]:
        for model in (first, second):
            model.calls = 0
        calls["control: "]()
        assert (first.calls, second.calls) == (1, 0)
        return {
            name: Timing(samples_ms=(1.0,), cpu_samples_ms=(1.0,), calls_per_round=1, stable=True) for name in calls
        }

    monkeypatch.setattr(contest, "measure", measure)
    result = benchmark([first, second], batch_sizes=[1], image_size=8, form="contiguous", **QUICK)
    assert [row.is_control for row in result.rows] == [False, False, True]


def test_where_the_time_goes_is_told_for_a_file_that_takes_pixels(
    export_once: Callable[..., tuple[Exported, str]],
) -> None:
    path = export_once("onnx", preprocessing=True)[0].path
    result = benchmark([path], batch_sizes=[1], num_threads=1, num_breakdowns=1, **QUICK)
    assert [shares.model for shares in result.shares] == ["tiny"] and not result.missing


def test_a_breakdown_that_fails_costs_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> dict[str, float]:
        raise RuntimeError("no profiler\nsecond line")

    monkeypatch.setattr(contest, "torch_shares", broken)
    result = benchmark([Counted()], batch_sizes=[2], image_size=8, num_breakdowns=1, **QUICK)
    assert len(result.rows) == 2 and not result.shares
    assert [(m.batch_size, m.reason) for m in result.missing] == [(2, "where its time goes: no profiler")]


def test_forms_that_fail_are_told_beside_the_one_that_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: Tensor) -> Prepared:
        raise ValueError("not this way\nsecond line")

    forms = [
        Form(name="contiguous", text="broken", prepare=broken),
        Form(name="contiguous", text="whole", prepare=lambda images: Prepared(call=images.sum)),
    ]
    monkeypatch.setattr(candidates, "torch_forms", lambda *_, **__: forms)
    result = benchmark(["efficientvit_tiny"], batch_sizes=[1], image_size=32, **QUICK)
    assert (result.rows[0].form, result.rows[0].failed) == ("whole", {"broken": "not this way"})
