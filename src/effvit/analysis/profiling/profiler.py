"""Measured time of models by operator: wall time without a profiler, its parts from torch's profiler."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from effvit import timing
from effvit.analysis.cost import Costs, count_costs
from effvit.analysis.profiling.attribution import OperatorTime, cascades, module_ranges, operators_of
from effvit.analysis.profiling.causes import cause_of
from effvit.analysis.profiling.records import ModelProfile, Operator, Profile
from effvit.analysis.profiling.spans import Span, event_cost_us, merge, record
from effvit.analysis.roofline import Peaks, measure_peaks
from effvit.errors import ConfigError, first_line
from effvit.model.network import EfficientViT
from effvit.model.side_by_side import find_models
from effvit.model.sources import FoundModel

_RECORDED_SECONDS = 3.0
"""About how long a model runs under the profiler."""
_PASSES = (5, 15)
"""Fewest and most passes recorded."""


@dataclass(frozen=True, kw_only=True)
class _Entrant:
    """A model ready to run."""

    model: FoundModel
    network: nn.Module
    images: Tensor
    costs: Costs
    is_compiled: bool

    def run(self) -> object:
        return self.network(self.images)


def profile(
    models: Sequence[str | Path | nn.Module | FoundModel],
    *,
    device: torch.device | str = "cpu",
    batch_size: int = 16,
    image_size: tuple[int, int] | None = None,
    weights: str | Path | None = None,
    compiled: bool = False,
    num_threads: int | None = None,
    rounds: int = 10,
    min_round_seconds: float = 0.2,
    passes: int | None = None,
    peaks: Peaks | None = None,
    on_step: Callable[[str], object] = lambda _: None,
    on_round: Callable[[int, int], None] | None = None,
) -> Profile:
    """Find out where the time of a forward pass goes.

    The wall time is measured without a profiler, the models taking turns. Then each runs a few passes under torch's
    profiler; of every stretch of time the lower quartile of the passes counts, less what the recording costs. What
    share of a pass operators take is seen in passes without anything else; which module they belong to in passes with a
    range around each module. Both are scaled to the wall time, so operators and the time between them add up to it.

    On CUDA an operator's time is that of its kernels. A compiled network's kernels have the costliest class of what is
    fused in them, and only its products are known to the cost counter: no modules, no heads.

    Args:
        models: Whatever `find_model` takes, or what it gave.
        device: Where they run.
        batch_size: Pictures per pass.
        image_size: Height and width in pixels; None for each model's own.
        weights: See `find_model`; hardly any operator's time depends on them.
        compiled: Whether torch.compile makes them first.
        num_threads: Threads within an operator; None for torch's setting.
        rounds: Samples of the wall time.
        min_round_seconds: About how long one is.
        passes: How many are recorded of each model; None for as many as take about three seconds, 5 to 15.
        peaks: The machine's limits, in the type of the models; None to measure them.
        on_step: Told what is being done.
        on_round: Told (rounds done, rounds in all).

    Raises:
        ConfigError: If there is no model, one is named twice, is unknown or does not run on such pictures, they are not
            all of one floating-point type, or a device or number is not allowed.
    """
    device = torch.device(device)
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"the time of operators can be seen on cpu and cuda, not on {device.type}")
    for name, number in (("batch size", batch_size), ("passes", passes)):
        if number is not None and number < 1:
            raise ConfigError(f"{name} must be at least 1, got {number}")
    if faults := timing.faults_of(rounds, min_round_seconds, 0.0):
        raise ConfigError("profile: " + "; ".join(faults))
    with timing.num_threads(num_threads) as threads, torch.inference_mode(), _kernels_have_names(compiled):
        found = find_models(models, image_size=image_size, weights=weights)
        entrants = [_ready(model, device, batch_size, compiled, on_step) for model in found]
        dtype = _common_dtype(entrants)
        if peaks is None:
            on_step("measuring what this machine can do at most")
            peaks = measure_peaks(device, dtype, threads)
        on_step("measuring without the profiler")
        timings = timing.measure(
            {entrant.model.label: entrant.run for entrant in entrants},
            rounds=rounds,
            min_round_seconds=min_round_seconds,
            warmup_seconds=min_round_seconds,
            synchronize=timing.synchronizer(device),
            on_round=on_round,
        )
        cost_us = event_cost_us()
        profiles = []
        for entrant in entrants:
            on_step(f"recording {entrant.model.label}")
            profiles.append(_profile(entrant, timings[entrant.model.label], device, cost_us, passes))
    return Profile(models=tuple(profiles), device=device.type, num_threads=threads, event_cost_us=cost_us, peaks=peaks)


def _ready(
    model: FoundModel, device: torch.device, batch_size: int, compiled: bool, on_step: Callable[[str], object]
) -> _Entrant:
    """Count the costs, copy the network to the device, compile it, run it once."""
    on_step(f"counting the costs of {model.label}")
    costs = count_costs(model.network, model.input_size, batch_size=batch_size)
    network = copy.deepcopy(model.network).eval().to(device)
    images = torch.randn(batch_size, *model.input_size, device=device).to(costs.tensor_type)
    if compiled:
        on_step(f"compiling {model.label}: minutes on a slow processor")
        torch.compiler.reset()
        network.compile()
    try:
        network(images)
    except Exception as error:  # whatever a network raises: it runs on meta tensors and not here
        raise ConfigError(f"{model.label} does not run on {device}: {first_line(error)}") from error
    return _Entrant(model=model, network=network, images=images, costs=costs, is_compiled=compiled)


def _common_dtype(entrants: Sequence[_Entrant]) -> torch.dtype:
    """The type of all models: one roofline has one."""
    types = {entrant.costs.dtype: entrant.costs.tensor_type for entrant in entrants}
    if len(types) > 1:
        raise ConfigError(
            f"models beside each other must be of one floating-point type, got {', '.join(sorted(types))}"
        )
    (dtype,) = types.values()
    return dtype


def _profile(
    entrant: _Entrant, measured: timing.Timing, device: torch.device, cost_us: float, passes: int | None
) -> ModelProfile:
    """Record one model and scale what was seen to its wall time."""
    on_cuda = device.type == "cuda"
    fewest, most = _PASSES
    passes = passes or min(most, max(fewest, math.ceil(_RECORDED_SECONDS * 1e3 / measured.latency_ms)))
    plain = merge(record(entrant.run, passes=passes, device=device))
    heads: dict[str, int] = {}
    ranged = plain
    if not entrant.is_compiled:
        heads = cascades(entrant.network)
        with module_ranges(entrant.network):
            ranged = merge(record(entrant.run, passes=passes, device=device))
    times = operators_of(
        ranged,
        entrant.costs,
        event_cost_us=cost_us,
        on_cuda=on_cuda,
        heads=heads,
        is_compiled=entrant.is_compiled,
    )
    total = sum(unit.microseconds for unit in times)
    if total <= 0:
        raise ConfigError(f"torch's profiler saw no operator of {entrant.model.label} on {device}")
    wall_ms = measured.latency_ms
    operators_ms = min(wall_ms, _kernels_us(plain) / 1e3) if on_cuda else wall_ms * _busy_share(plain, cost_us)
    return ModelProfile(
        label=entrant.model.label,
        is_ours=isinstance(entrant.model.network, EfficientViT),
        is_compiled=entrant.is_compiled,
        input_size=entrant.model.input_size,
        batch_size=len(entrant.images),
        dtype=entrant.costs.dtype,
        num_params=entrant.costs.num_params,
        num_macs=entrant.costs.num_macs,
        timing=measured,
        between_ms=wall_ms - operators_ms,
        operators=tuple(_operator(unit, unit.microseconds / total * operators_ms) for unit in times),
    )


def _operator(unit: OperatorTime, ms: float) -> Operator:
    call = unit.call
    return Operator(
        name=unit.name,
        module=unit.module,
        kind=unit.kind,
        cause=cause_of(unit.name, unit.kind, call, is_wrapper=unit.is_wrapper),
        ms=ms,
        num_macs=0 if call is None else call.num_macs,
        bytes_moved=0 if call is None else call.bytes_moved,
        is_counted=call is not None,
        head=None if unit.head is None else f"{unit.head[0]} head {unit.head[1]}",
    )


def _busy_share(root: Span, cost_us: float) -> float:
    """Share of a pass in which an operator runs."""
    busy = between = 0.0
    stack = [root]
    while stack:
        span = stack.pop()
        if span.is_operator:
            busy += sum(inner.own_us(cost_us) for inner in span.walk())
        else:
            between += span.own_us(cost_us)
            stack.extend(span.children)
    return busy / (busy + between)


def _kernels_us(root: Span) -> float:
    return sum(duration for span in root.walk() for _, duration in span.kernels)


@contextmanager
def _kernels_have_names(compiled: bool) -> Iterator[None]:
    """Let the kernels that torch.compile makes for a CPU tell the profiler their names; those for CUDA always do."""
    if not compiled:
        yield
        return
    import torch._inductor.config as inductor

    with inductor.patch({"cpp.enable_kernel_profile": True}):
        yield
