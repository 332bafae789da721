"""The one stopwatch: warm up, synchronise, interleave the candidates, report median and spread.

Clocks drift (frequency, temperature, neighbours on the machine), so two numbers taken one after
the other cannot be compared. Here the candidates take turns, A B C A B C, and are compared round by
round: whatever slowed a round slowed all of its candidates.
"""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch

from effvit.errors import ConfigError

_STABLE = 0.05
"""Warm-up ends when two consecutive stretches agree within this share."""
_PATIENCE = 4
"""Warm-up gives up on stability after this many times the seconds asked for."""


class Spread(NamedTuple):
    """Median and quartiles of some samples, in the unit of the samples."""

    median: float
    p25: float
    p75: float


@dataclass(frozen=True, kw_only=True)
class Timing:
    """What one candidate took, round by round."""

    samples_ms: tuple[float, ...]
    """Wall time of one call, mean over the calls of each round, in milliseconds."""
    cpu_samples_ms: tuple[float, ...]
    """The same in processor time of the whole process: above wall time when several threads work."""
    calls_per_round: int
    """How many calls each sample is the mean of."""
    stable: bool
    """Whether the warm-up settled; if not, read the numbers with care."""
    samples_joules: tuple[float, ...] | None = None
    """Energy of one call in each round, in joules; None where the machine does not tell."""
    statistic: Literal["median", "mean"] = "median"
    """What stands for all samples: the median, or the mean as in the paper's protocol."""

    @property
    def latency_ms(self) -> float:
        """Wall time of one call: the median, or whatever `statistic` says."""
        return statistics.fmean(self.samples_ms) if self.statistic == "mean" else spread(self.samples_ms).median

    @property
    def latency_ms_p25(self) -> float:
        """Lower quartile of the wall time."""
        return spread(self.samples_ms).p25

    @property
    def latency_ms_p75(self) -> float:
        """Upper quartile of the wall time."""
        return spread(self.samples_ms).p75

    @property
    def cpu_ms(self) -> float:
        """Median processor time of one call, summed over threads."""
        return spread(self.cpu_samples_ms).median

    @property
    def joules(self) -> float | None:
        """Median energy of one call, of the whole device: what else ran on it is in it."""
        return None if self.samples_joules is None else spread(self.samples_joules).median

    @property
    def num_rounds(self) -> int:
        """How many samples were taken."""
        return len(self.samples_ms)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: the summary and every sample."""
        return {
            "latency_ms": self.latency_ms,
            "latency_ms_p25": self.latency_ms_p25,
            "latency_ms_p75": self.latency_ms_p75,
            "cpu_ms": self.cpu_ms,
            "joules": self.joules,
            "num_rounds": self.num_rounds,
            "calls_per_round": self.calls_per_round,
            "stable": self.stable,
            "statistic": self.statistic,
            "samples_ms": list(self.samples_ms),
            "cpu_samples_ms": list(self.cpu_samples_ms),
            "samples_joules": None if self.samples_joules is None else list(self.samples_joules),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Timing:
        """Read what `to_dict` wrote; what follows from the samples is computed anew."""
        joules = values.get("samples_joules")
        return cls(
            samples_ms=tuple(values["samples_ms"]),
            cpu_samples_ms=tuple(values["cpu_samples_ms"]),
            calls_per_round=values["calls_per_round"],
            stable=values["stable"],
            samples_joules=None if joules is None else tuple(joules),
            statistic=values.get("statistic", "median"),
        )


def spread(samples: Sequence[float]) -> Spread:
    """Median and quartiles (linear interpolation between samples); a single sample is its own spread."""
    if len(samples) == 1:
        return Spread(samples[0], samples[0], samples[0])
    p25, median, p75 = statistics.quantiles(samples, n=4, method="inclusive")
    return Spread(median, p25, p75)


def paired_ratio(numerator: Timing, denominator: Timing) -> Spread:
    """How many times as long the numerator takes, computed round by round.

    Args:
        numerator: For a speed-up, the rival.
        denominator: For a speed-up, the one that should be faster.

    Returns:
        Median and quartiles of the ratios of the rounds; above 1 where the denominator is faster.

    Raises:
        ConfigError: If the two were not measured in the same rounds.
    """
    if numerator.num_rounds != denominator.num_rounds:
        raise ConfigError(
            "a paired ratio needs two timings of one measurement, "
            f"got {numerator.num_rounds} and {denominator.num_rounds} rounds"
        )
    return spread([a / b for a, b in zip(numerator.samples_ms, denominator.samples_ms, strict=True)])


def unpaired_ratio(numerator: Timing, denominator: Timing) -> Spread:
    """How many times as long the numerator takes, where the two were measured apart: between what quartiles allow."""
    return Spread(
        numerator.latency_ms / denominator.latency_ms,
        numerator.latency_ms_p25 / denominator.latency_ms_p75,
        numerator.latency_ms_p75 / denominator.latency_ms_p25,
    )


def measure(
    candidates: Mapping[str, Callable[[], object]],
    *,
    rounds: int = 20,
    min_round_seconds: float = 0.2,
    warmup_seconds: float = 1.0,
    synchronize: Callable[[], None] | None = None,
    energy: Callable[[], float] | None = None,
    on_round: Callable[[int, int], None] | None = None,
) -> dict[str, Timing]:
    """Time candidates in interleaved rounds.

    Args:
        candidates: Label to a function without arguments; one call is what is timed.
        rounds: Samples per candidate.
        min_round_seconds: A sample repeats the call until about this much time has passed.
        warmup_seconds: Time each candidate runs first, longer (up to four times) until it is stable.
        synchronize: Waits for the device, see `synchronizer`; None where calls return when done.
        energy: Joules used since some fixed moment; None where the machine does not tell.
        on_round: Told (rounds done, rounds in all) after each round.

    Returns:
        Label to timing, in the order of `candidates`.

    Raises:
        ConfigError: If there is nothing to measure or a number is not positive.
    """
    faults = [] if candidates else ["no candidates"]
    if faults := [*faults, *faults_of(rounds, min_round_seconds, warmup_seconds)]:
        raise ConfigError("measure: " + "; ".join(faults))
    wait, joules = synchronize or (lambda: None), energy or (lambda: 0.0)
    repeats: dict[str, int] = {}
    stable: dict[str, bool] = {}
    for label, call in candidates.items():
        seconds, stable[label] = _warm_up(call, warmup_seconds, wait)
        repeats[label] = max(1, math.ceil(min_round_seconds / seconds))
    samples: dict[str, list[_Sample]] = {label: [] for label in candidates}
    for done in range(1, rounds + 1):
        for label, call in candidates.items():
            if repeats[label] > 1:
                call()  # the caches still hold the previous candidate; a long single call hardly notices
            samples[label].append(_sample(call, repeats[label], wait, joules))
        if on_round is not None:
            on_round(done, rounds)
    return {
        label: Timing(
            samples_ms=tuple(sample.wall * 1e3 for sample in samples[label]),
            cpu_samples_ms=tuple(sample.cpu * 1e3 for sample in samples[label]),
            calls_per_round=repeats[label],
            stable=stable[label],
            samples_joules=None if energy is None else tuple(sample.joules for sample in samples[label]),
        )
        for label in candidates
    }


def synchronizer(device: torch.device | str) -> Callable[[], None] | None:
    """The function that waits until a device has done its work; None for the CPU, which needs none."""
    device = torch.device(device)
    if device.type == "cpu":
        return None
    accelerator: Any = getattr(torch, device.type, None)
    if not hasattr(accelerator, "synchronize"):
        raise ConfigError(f"cannot time on device {device}: torch cannot wait for it")
    if device.type == "mps":
        return lambda: torch.mps.synchronize()  # there is one, and it takes no device
    return lambda: accelerator.synchronize(device)


@contextmanager
def num_threads(count: int | None) -> Iterator[int]:
    """Run torch's operators on this many threads inside the block, and restore the setting after it.

    Args:
        count: Threads within an operator; None leaves torch's setting.

    Yields:
        The number in force.

    Raises:
        ConfigError: If the count is not positive.
    """
    before = torch.get_num_threads()
    if count is not None and count < 1:
        raise ConfigError(f"number of threads must be at least 1, got {count}")
    try:
        torch.set_num_threads(before if count is None else count)
        yield torch.get_num_threads()
    finally:
        torch.set_num_threads(before)


def faults_of(rounds: int, min_round_seconds: float, warmup_seconds: float) -> list[str]:
    """What is not allowed in these arguments of `measure`, in words; nothing if all is."""
    faults = []
    if rounds < 1:
        faults.append(f"rounds must be at least 1, got {rounds}")
    if not 0 <= min_round_seconds < math.inf:
        faults.append(f"min_round_seconds must be 0 or more, got {min_round_seconds}")
    if not 0 <= warmup_seconds < math.inf:
        faults.append(f"warmup_seconds must be 0 or more, got {warmup_seconds}")
    return faults


class _Sample(NamedTuple):
    """One call, mean over some: wall and processor seconds, joules."""

    wall: float
    cpu: float
    joules: float


def _warm_up(call: Callable[[], object], seconds: float, wait: Callable[[], None]) -> tuple[float, bool]:
    """Run until `seconds` have passed and two stretches agree; seconds per call, and whether they agreed."""
    start = time.perf_counter()
    last = _sample(call, 1, wait).wall
    while True:
        stretch = max(1, math.ceil(seconds / 4 / last)) if last > 0 else 1
        now = _sample(call, stretch, wait).wall
        stable = abs(now - last) <= _STABLE * last
        passed = time.perf_counter() - start
        if passed >= seconds and (stable or passed >= _PATIENCE * seconds):
            return max(now, 1e-9), stable
        last = now


def _sample(
    call: Callable[[], object], repeats: int, wait: Callable[[], None], energy: Callable[[], float] = lambda: 0.0
) -> _Sample:
    """One call, mean over `repeats`, with the garbage collector held back."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        wait()
        joules, cpu, wall = energy(), time.process_time(), time.perf_counter()
        for _ in range(repeats):
            call()
        wait()
        wall, cpu, joules = time.perf_counter() - wall, time.process_time() - cpu, energy() - joules
    finally:
        if collecting:
            gc.enable()
    return _Sample(wall / repeats, cpu / repeats, joules / repeats)
