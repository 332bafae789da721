"""The paper's stopwatch, on a clock that the candidates themselves move."""

from __future__ import annotations

import pytest

from effvit.deploy.speed import paper_protocol
from effvit.deploy.speed.paper_protocol import measure_as_paper


class Clock:
    """Time that passes only when a candidate works or is waited for."""

    def __init__(self) -> None:
        self.now = 0.0
        self.calls: list[str] = []

    def perf_counter(self) -> float:
        return self.now

    def process_time(self) -> float:
        return 2 * self.now

    def call(self, name: str, seconds: float) -> None:
        self.calls.append(name)
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(paper_protocol, "time", clock)
    return clock


def test_ten_seconds_of_warm_up_then_sixty_measured_one_after_the_other(clock: Clock) -> None:
    done: list[tuple[int, int]] = []
    calls = {"a": lambda: clock.call("a", 0.5), "b": lambda: clock.call("b", 2.0)}
    result = measure_as_paper(calls, on_round=lambda *p: done.append(p))
    assert (result["a"].num_rounds, result["b"].num_rounds) == (120, 30)
    assert clock.calls == ["a"] * (20 + 120) + ["b"] * (5 + 30)
    assert done == [(1, 2), (2, 2)]
    assert result["a"].cpu_ms == pytest.approx(1000)


def test_the_mean_stands_for_all_calls(clock: Clock) -> None:
    durations = iter([1.0, 1.0, 4.0])
    result = measure_as_paper({"a": lambda: clock.call("a", next(durations))}, warmup_seconds=0, measured_seconds=6)
    assert result["a"].latency_ms == pytest.approx(2000)
    assert result["a"].samples_ms == pytest.approx((1000, 1000, 4000))


def test_a_device_that_runs_ahead_is_waited_for(clock: Clock) -> None:
    def wait() -> None:
        clock.now += 0.75

    result = measure_as_paper(
        {"a": lambda: clock.call("a", 0.25)}, warmup_seconds=0, measured_seconds=3, synchronize=wait
    )
    assert result["a"].samples_ms == pytest.approx((1000, 1000, 1000))


@pytest.mark.parametrize(
    ("durations", "stable"),
    [
        ((1.0, 1.0, 1.0, 1.0), True),
        ((1.0, 1.04), True),
        ((1.2, 1.2, 1.0, 1.0), False),
        ((1.0, 1.2), False),
        ((9,), False),
    ],
)
def test_a_model_that_still_warmed_up_is_not_stable(clock: Clock, durations: list[float], stable: bool) -> None:
    remaining = iter(durations)
    call = {"a": lambda: clock.call("a", next(remaining))}
    result = measure_as_paper(call, warmup_seconds=0, measured_seconds=sum(durations))
    assert result["a"].stable is stable


def test_the_numbers_are_the_papers() -> None:
    assert (paper_protocol.BATCH_SIZE, paper_protocol.NUM_THREADS) == (16, 1)
    assert (paper_protocol.WARMUP_SECONDS, paper_protocol.MEASURED_SECONDS) == (10, 60)
