"""What torch's profiler saw, as a tree of plain spans, and how long each of them really took.

On a CPU every nested event costs time of its own, which the profiler books on the event around it: about a microsecond,
more than some operators take. It is measured (`event_cost_us`) and taken off (`Span.own_us`). On CUDA the kernels' time
counts, which the profiler leaves alone.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.profiler import ProfilerActivity, record_function

from effvit.errors import ConfigError
from effvit.silence import silence

PASS = "effvit: pass"
"""Name of the range around one forward pass."""


@dataclass(frozen=True, kw_only=True)
class Span:
    """One event on the thread that runs the network: an operator or a named range."""

    name: str
    gaps_us: tuple[float, ...]
    """Time in the span itself: before its first child, between two of them, after the last; one more than children."""
    children: tuple[Span, ...] = ()
    """What was called inside, in order."""
    kernels: tuple[tuple[str, float], ...] = ()
    """Name and microseconds of what was started on the GPU here and in no child."""

    @property
    def is_operator(self) -> bool:
        """Whether it is an operator or a generated kernel, and not a range that somebody named."""
        return "::" in self.name or "cpp_fused_" in self.name or self.name.startswith("triton_")

    def own_us(self, event_cost_us: float) -> float:
        """Time on the CPU in the span itself: without its children, and without what recording them cost."""
        return max(0.0, sum(self.gaps_us) - event_cost_us * len(self.children))

    def walk(self) -> Iterator[Span]:
        """The span and all below it, parents first, in order of time."""
        yield self
        for child in self.children:
            yield from child.walk()


def record(call: Callable[[], object], *, passes: int, device: torch.device) -> list[Span]:
    """Run some passes under the profiler.

    Args:
        call: One forward pass.
        passes: How many.
        device: Where it runs.

    Returns:
        The root span of each pass, what happened in it below.
    """
    on_cuda = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_cuda else [])]
    with silence(), torch.profiler.profile(activities=activities, acc_events=True) as profiler:  # it talks in C++
        for _ in range(passes):
            with record_function(PASS):
                call()
                if on_cuda:
                    torch.cuda.synchronize(device)
    return [as_span(event) for event in profiler.events() or [] if _is_pass(event)]


def _is_pass(event: Any) -> bool:
    return event.name == PASS and event.cpu_parent is None and not event.is_async and event.device_type.name == "CPU"


def as_span(event: Any) -> Span:
    """A `FunctionEvent` of torch's profiler with all below it."""
    inner = sorted(event.cpu_children, key=lambda child: child.time_range.start)
    ends = [event.time_range.start, *(child.time_range.end for child in inner)]
    starts = [*(child.time_range.start for child in inner), event.time_range.end]
    return Span(
        name=event.name,
        gaps_us=tuple(start - end for start, end in zip(starts, ends, strict=True)),
        children=tuple(map(as_span, inner)),
        # A range is seen on the GPU too, under its own name: what ran in it is there already.
        kernels=tuple((k.name, float(k.duration)) for k in event.kernels if k.name != event.name),
    )


def merge(passes: Sequence[Span]) -> Span:
    """One pass with the lower quartile of every stretch of time: what else runs on the machine only ever adds to one.

    Args:
        passes: Recorded one after the other. Those that did not run what most ran are left out.

    Raises:
        ConfigError: If there is none.
    """
    if not passes:
        raise ConfigError("torch's profiler recorded no pass")
    outlines = [tuple((span.name, len(span.children), len(span.kernels)) for span in root.walk()) for root in passes]
    usual = statistics.mode(outlines)
    return _typical([root for root, outline in zip(passes, outlines, strict=True) if outline == usual])


def _typical(spans: Sequence[Span]) -> Span:
    """Spans of one outline."""
    first = spans[0]
    return Span(
        name=first.name,
        gaps_us=tuple(map(_lower_quartile, zip(*(span.gaps_us for span in spans), strict=True))),
        children=tuple(map(_typical, zip(*(span.children for span in spans), strict=True))),
        kernels=tuple(
            (name, _lower_quartile([span.kernels[index][1] for span in spans]))
            for index, (name, _) in enumerate(first.kernels)
        ),
    )


def _lower_quartile(times: Sequence[float]) -> float:
    return sorted(times)[(len(times) - 1) // 4]


def event_cost_us(calls: int = 200, samples: int = 5) -> float:
    """What recording one event costs on this machine, in microseconds: tiny operators with the profiler and without."""
    tiny = torch.zeros(1)

    def seconds() -> float:
        start = time.perf_counter()
        for _ in range(calls):
            tiny.reshape(1, 1).flatten()
        return time.perf_counter() - start

    with torch.inference_mode():
        plain = min(seconds() for _ in range(samples))
        with silence(), torch.profiler.profile(activities=[ProfilerActivity.CPU], acc_events=True) as profiler:
            recorded = min(seconds() for _ in range(samples))
    events = sum(1 for event in profiler.events() or [] if event.name.startswith("aten::")) / samples
    return max(0.0, (recorded - plain) / events * 1e6)
