"""The paper's own way of measuring: a traced network, 10 s of warm-up, 60 s measured, the mean.

Source: arXiv:2305.07027, Sec. 4, and the official `speed_test.py`. On the CPU: batch 16, one thread, float32. On
CUDA: autocast to float16, a large batch of a power of two (2048 on the authors' V100). Models come one after the
other, so what the machine does meanwhile is in the ratios: use it to stand beside the paper's numbers,
and `effvit.timing.measure` to compare models.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence

from effvit.timing import Timing

BATCH_SIZE = 16
"""Pictures per call on the CPU."""
CUDA_BATCH_SIZE = 2048
"""Pictures per call on CUDA, halved until it fits."""
NUM_THREADS = 1
"""Threads on the CPU."""
WARMUP_SECONDS = 10.0
"""Time each model runs before it is measured."""
MEASURED_SECONDS = 60.0
"""Time each model is measured, summed over calls."""
_STABLE = 0.05
"""The halves of the samples of a model that had warmed up agree within this share."""


def measure_as_paper(
    candidates: Mapping[str, Callable[[], object]],
    *,
    warmup_seconds: float = WARMUP_SECONDS,
    measured_seconds: float = MEASURED_SECONDS,
    synchronize: Callable[[], None] | None = None,
    on_round: Callable[[int, int], None] | None = None,
) -> dict[str, Timing]:
    """Time candidates one after the other, call by call.

    Args:
        candidates: Label to a function without arguments.
        warmup_seconds: Time each runs first.
        measured_seconds: Calls are timed until they took this long in all.
        synchronize: Waits for the device, see `effvit.timing.synchronizer`; None where calls return when done.
        on_round: Told (candidates done, candidates in all).

    Returns:
        Label to timing, each sample one call, the mean standing for all.
    """
    timings = {}
    for done, (label, call) in enumerate(candidates.items(), start=1):
        wait = synchronize or (lambda: None)
        start = time.perf_counter()
        while time.perf_counter() - start < warmup_seconds:
            call()
        wait()
        timings[label] = _timed(call, measured_seconds, wait)
        if on_round is not None:
            on_round(done, len(candidates))
    return timings


def _timed(call: Callable[[], object], seconds: float, wait: Callable[[], None]) -> Timing:
    wall: list[float] = []
    cpu: list[float] = []
    total = 0.0
    while total < seconds or not wall:
        cpu_start, start = time.process_time(), time.perf_counter()
        call()
        wait()
        wall.append(time.perf_counter() - start)
        cpu.append(time.process_time() - cpu_start)
        total += wall[-1]
    return Timing(
        samples_ms=tuple(sample * 1e3 for sample in wall),
        cpu_samples_ms=tuple(sample * 1e3 for sample in cpu),
        calls_per_round=1,
        stable=_settled(wall),
        statistic="mean",
    )


def _settled(samples: Sequence[float]) -> bool:
    """Whether both halves of the samples agree: the script that this follows does not watch its warm-up."""
    middle = len(samples) // 2
    if middle == 0:
        return False
    first, second = statistics.fmean(samples[:middle]), statistics.fmean(samples[middle:])
    return abs(second - first) <= _STABLE * first
