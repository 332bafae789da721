"""Spans: time is split without a remainder, a disturbed pass does not count, recording costs nothing in the end."""

from __future__ import annotations

import re
from itertools import chain
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from effvit.analysis.profiling import spans
from effvit.analysis.profiling.spans import PASS, Span, as_span, event_cost_us, merge, record
from effvit.errors import ConfigError

CPU = torch.device("cpu")


def event(name: str, start: float, end: float, *children: Any, kernels: Any = ()) -> Any:
    interval = SimpleNamespace(start=start, end=end)
    return SimpleNamespace(name=name, time_range=interval, cpu_children=list(children), kernels=list(kernels))


def test_a_span_has_the_time_that_its_children_have_not() -> None:
    late, early = event("aten::b", 60, 90), event("aten::a", 10, 30)
    span = as_span(event(PASS, 0, 100, late, early))
    assert [child.name for child in span.children] == ["aten::a", "aten::b"]
    assert span.gaps_us == (10, 30, 10)
    assert span.own_us(0.0) == 50 and span.own_us(1.5) == 47
    assert sum(inner.own_us(0.0) for inner in span.walk()) == 100
    assert span.own_us(1000.0) == 0


def test_kernels_come_along() -> None:
    kernels = [SimpleNamespace(name="gemm", device=0, duration=7)]
    assert as_span(event("aten::mm", 0, 1, kernels=kernels)).kernels == (("gemm", 7.0),)


def test_a_range_seen_on_the_gpu_is_no_kernel() -> None:
    kernels = [SimpleNamespace(name=name, device=0, duration=7) for name in (PASS, "triton_poi_fused_add_0")]
    assert as_span(event(PASS, 0, 1, kernels=kernels)).kernels == (("triton_poi_fused_add_0", 7.0),)


def test_one_disturbed_stretch_of_a_pass_is_not_believed() -> None:
    passes = [
        Span(name=PASS, gaps_us=(1, gap), children=(Span(name="aten::mm", gaps_us=(time,)),))
        for gap, time in ((2, 900), (500, 10), (2, 11), (3, 12), (4, 13))
    ]
    merged = merge(passes)
    assert merged.gaps_us == (1, 2) and merged.children[0].gaps_us == (11,)


def test_a_pass_that_ran_something_else_is_left_out() -> None:
    usual = Span(name=PASS, gaps_us=(1, 1), children=(Span(name="aten::mm", gaps_us=(5,)),))
    first = Span(name=PASS, gaps_us=(1, 1), children=(Span(name="aten::compile", gaps_us=(10_000,)),))
    assert merge([first, usual, usual]) == usual


def test_no_pass_is_an_error() -> None:
    with pytest.raises(ConfigError, match=re.escape("torch's profiler recorded no pass")):
        merge([])


def test_a_recorded_pass_has_the_operators_that_ran(capfd: pytest.CaptureFixture[str]) -> None:
    layers = nn.Sequential(nn.Linear(8, 8), nn.GELU()).eval()
    with torch.inference_mode():
        passes = record(lambda: layers(torch.ones(2, 8)), passes=3, device=CPU)
    assert len(passes) == 3 and {span.name for span in passes} == {PASS}
    names = [span.name for span in merge(passes).walk() if span.is_operator]
    assert names.index("aten::addmm") < names.index("aten::gelu")
    assert capfd.readouterr() == ("", "")


def test_an_event_costs_what_recording_adds_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock on which a sample takes a second without the profiler and three with it."""
    calls, samples = 5, 2
    times = chain.from_iterable((start, start + long) for long in (1.0, 3.0) for start in (0.0,) * samples)
    monkeypatch.setattr(spans, "time", SimpleNamespace(perf_counter=lambda: next(times)))
    num_events = 2e6 / event_cost_us(calls=calls, samples=samples)
    assert num_events == pytest.approx(round(num_events)) and round(num_events) % calls == 0  # a few for each call
    assert 2 * calls <= num_events <= 6 * calls
