"""The stopwatch, on a clock that the candidates themselves move: every expected number is exact."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch

from effvit import timing
from effvit.errors import ConfigError
from effvit.timing import Timing, measure, num_threads, paired_ratio, spread, synchronizer, unpaired_ratio


class Clock:
    """Wall and processor time that pass only when a candidate works."""

    def __init__(self) -> None:
        self.wall = self.cpu = 0.0
        self.calls: list[str] = []

    def perf_counter(self) -> float:
        return self.wall

    def process_time(self) -> float:
        return self.cpu

    def candidate(self, name: str, seconds: Callable[[], float], threads: int = 1) -> Callable[[], None]:
        def call() -> None:
            self.calls.append(name)
            self.wall += seconds()
            self.cpu += seconds() * threads

        return call


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(timing, "time", clock)
    return clock


def of(*samples_ms: float) -> Timing:
    return Timing(samples_ms=samples_ms, cpu_samples_ms=samples_ms, calls_per_round=1, stable=True)


def test_a_sample_is_the_time_of_one_call(clock: Clock) -> None:
    calls = {
        "a": clock.candidate("a", lambda: 0.002),
        "b": clock.candidate("b", lambda: 0.5, threads=3),
    }
    result = measure(calls, rounds=5, min_round_seconds=0.0199, warmup_seconds=0.1)
    assert list(result) == ["a", "b"]
    assert result["a"].latency_ms == pytest.approx(2)
    assert result["a"].calls_per_round == 10
    assert result["b"].latency_ms == pytest.approx(500)
    assert result["b"].cpu_ms == pytest.approx(1500)
    assert result["b"].calls_per_round == 1
    assert result["a"].num_rounds == result["b"].num_rounds == 5
    assert result["a"].stable and result["b"].stable


def test_candidates_take_turns(clock: Clock) -> None:
    calls = {name: clock.candidate(name, lambda: 1.0) for name in "abc"}
    measure(calls, rounds=3, min_round_seconds=0, warmup_seconds=0)
    assert "".join(clock.calls).endswith("abcabcabc")
    assert "".join(clock.calls[:-9]) == "aabbcc"  # each is warmed up on its own before the first round


def test_one_call_in_front_of_a_short_sample_is_not_timed(clock: Clock) -> None:
    # A candidate whose first call after another candidate's is slow, as with caches that the other has filled.
    def seconds() -> float:
        return 0.01 if clock.calls[-2:] == ["a", "a"] else 0.09

    calls = {"a": clock.candidate("a", seconds), "b": clock.candidate("b", lambda: 0.01)}
    result = measure(calls, rounds=4, min_round_seconds=0.05, warmup_seconds=0.1)
    assert result["a"].samples_ms == pytest.approx([10] * 4)


def test_a_machine_that_slows_down_does_not_change_the_ratio(clock: Clock) -> None:
    done = 0

    def progress(finished: int, total: int) -> None:
        nonlocal done
        done = finished
        assert total == 8

    calls = {
        "a": clock.candidate("a", lambda: 1.0 + done),
        "b": clock.candidate("b", lambda: 2 * (1.0 + done)),
        "again": clock.candidate("again", lambda: 1.0 + done),
    }
    result = measure(calls, rounds=8, min_round_seconds=0, warmup_seconds=0, on_round=progress)
    assert done == 8
    assert result["a"].latency_ms_p75 > 1.3 * result["a"].latency_ms_p25  # the drift is there
    assert paired_ratio(result["b"], result["a"]) == pytest.approx((2, 2, 2))
    assert paired_ratio(result["again"], result["a"]) == pytest.approx((1, 1, 1))


def test_warm_up_lasts_until_the_candidate_is_stable(clock: Clock) -> None:
    # Compiling: the first calls are slow, well beyond the second asked for.
    calls = {"a": clock.candidate("a", lambda: 0.5 / len(clock.calls) if len(clock.calls) < 8 else 0.01)}
    result = measure(calls, rounds=3, min_round_seconds=0.1, warmup_seconds=1)
    assert result["a"].samples_ms == pytest.approx([10] * 3)
    assert result["a"].stable


def test_a_candidate_that_never_settles_is_said_to_be_unstable(clock: Clock) -> None:
    calls = {"a": clock.candidate("a", lambda: 0.2 * 1.2 ** len(clock.calls))}
    result = measure(calls, rounds=1, min_round_seconds=0, warmup_seconds=1)
    assert not result["a"].stable
    assert clock.wall < 10  # and it was not waited for for ever


def test_work_that_is_still_under_way_is_waited_for(clock: Clock) -> None:
    pending = 0.0

    def enqueue() -> None:
        nonlocal pending
        pending += 0.25
        clock.wall += 0.001

    def synchronize() -> None:
        nonlocal pending
        clock.wall += pending
        pending = 0.0

    result = measure({"a": enqueue}, rounds=2, min_round_seconds=1, warmup_seconds=0, synchronize=synchronize)
    assert result["a"].latency_ms == pytest.approx(251)
    unsynchronized = measure({"a": enqueue}, rounds=2, min_round_seconds=1, warmup_seconds=0)
    assert unsynchronized["a"].latency_ms == pytest.approx(1)


def test_energy_is_that_of_the_samples_alone(clock: Clock) -> None:
    calls = {"a": clock.candidate("a", lambda: 0.5), "b": clock.candidate("b", lambda: 0.5)}
    used = {"a": 3.0, "b": 5.0}
    result = measure(
        calls, rounds=2, min_round_seconds=2, warmup_seconds=0, energy=lambda: sum(used[name] for name in clock.calls)
    )
    assert result["a"].samples_joules == (3.0, 3.0) and result["b"].joules == 5.0
    assert measure(calls, rounds=1, min_round_seconds=0, warmup_seconds=0)["a"].joules is None


def test_the_real_clock() -> None:
    result = measure({"a": lambda: sum(range(1000))}, rounds=3, min_round_seconds=0.001, warmup_seconds=0)
    assert 0 < result["a"].latency_ms_p25 <= result["a"].latency_ms <= result["a"].latency_ms_p75
    assert result["a"].to_dict()["samples_ms"] == list(result["a"].samples_ms)


def test_garbage_collection_is_held_back_and_given_back() -> None:
    seen: list[bool] = []

    def fail() -> None:
        seen.append(gc.isenabled())
        raise ZeroDivisionError("broken candidate")

    with pytest.raises(ZeroDivisionError, match="broken candidate"):
        measure({"a": fail}, rounds=1)
    assert seen == [False]
    assert gc.isenabled()


@pytest.mark.parametrize("count", [1, 2, 3, 4, 11])
def test_spread_is_the_usual_quartiles(count: int) -> None:
    samples = torch.rand(count).tolist()
    assert spread(samples) == pytest.approx(np.percentile(samples, [50, 25, 75]))


def test_a_ratio_needs_the_same_rounds() -> None:
    assert paired_ratio(of(2, 9, 4), of(1, 3, 4)).median == 2
    with pytest.raises(ConfigError, match="got 2 and 3 rounds"):
        paired_ratio(of(1, 2), of(1, 2, 3))


def test_a_ratio_of_two_runs_is_as_wide_as_both() -> None:
    assert unpaired_ratio(of(8, 10, 10, 10, 12), of(2, 2, 2, 2, 2)) == (5, 5, 5)
    assert unpaired_ratio(of(8, 8, 10, 12, 12), of(4, 4, 5, 6, 6)) == pytest.approx((2, 8 / 6, 3))


def test_a_timing_is_what_it_was_after_json() -> None:
    timing = Timing(
        samples_ms=(1.0, 2.0), cpu_samples_ms=(1.0, 1.0), calls_per_round=3, stable=False, samples_joules=(0.5, 0.25)
    )
    assert Timing.from_dict(json.loads(json.dumps(timing.to_dict()))) == timing
    assert Timing.from_dict(of(1, 2).to_dict()) == of(1, 2)


def test_all_faults_of_a_measurement_are_named_at_once() -> None:
    faults = r"no candidates; rounds must be at least 1, got 0; min_round_seconds .* got -1; warmup_seconds .* nan"
    with pytest.raises(ConfigError, match=faults):
        measure({}, rounds=0, min_round_seconds=-1, warmup_seconds=float("nan"))


@pytest.fixture
def _restore_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("_restore_threads")
def test_threads_are_restored_whatever_happens() -> None:
    torch.set_num_threads(2)
    with num_threads(1) as count:
        assert count == torch.get_num_threads() == 1
        with num_threads(None) as inner:
            assert inner == 1
    assert torch.get_num_threads() == 2
    with pytest.raises(ZeroDivisionError, match="inside"), num_threads(1):
        raise ZeroDivisionError("inside")
    assert torch.get_num_threads() == 2
    with pytest.raises(ConfigError, match="at least 1, got 0"), num_threads(0):
        pass


def test_only_devices_that_run_ahead_need_synchronising(monkeypatch: pytest.MonkeyPatch) -> None:
    assert synchronizer("cpu") is None
    waited: list[object] = []
    monkeypatch.setattr(torch.cuda, "synchronize", waited.append)
    wait = synchronizer("cuda:0")
    assert wait is not None
    wait()
    assert waited == [torch.device("cuda:0")]
    with pytest.raises(ConfigError, match="cannot time on device meta"):
        synchronizer("meta")
