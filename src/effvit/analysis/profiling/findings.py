"""What a profile found, in sentences: the largest costs of each model, what is behind them, what would remove them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from effvit.analysis.profiling.causes import CAUSES, COMPUTING
from effvit.analysis.profiling.records import ModelProfile, Operator, Profile, Sum, digits, pattern
from effvit.analysis.profiling.remedies import remedy
from effvit.analysis.roofline import Peaks

NUM_FINDINGS = 3
"""Costs told of each model."""
_MOSTLY = 0.4
"""Share of a cost from which on one place or operator is named alone."""
_RANKS = ("most", "second", "third")


def findings(profile: Profile) -> tuple[str, ...]:
    """The largest costs of each model, one text each: how much, where, how near to the limit, what would remove it."""
    return tuple(
        _finding(rank, cause, total, model, profile)
        for model in profile.models
        for rank, (cause, total) in zip(_RANKS, list(costs_of(model).items())[:NUM_FINDINGS], strict=False)
    )


def costs_of(model: ModelProfile) -> dict[str, Sum]:
    """Cause to what it costs, the largest first; with the time between operators they add up to the wall time."""
    sums = dict(model.by(lambda operator: operator.cause))
    sums["between"] = Sum(ms=model.between_ms, num_calls=0, num_macs=0, bytes_moved=0)
    return dict(sorted(sums.items(), key=lambda item: -item[1].ms))


def _finding(rank: str, cause: str, total: Sum, model: ModelProfile, profile: Profile) -> str:
    operators = [operator for operator in model.operators if operator.cause == cause]
    parts = (
        f"{model.label}, {rank}: {total.ms / model.wall_ms:.0%} of the time ({digits(total.ms)} of"
        f" {digits(model.wall_ms)} ms) {_named(cause, operators)}{_place(operators)}.",
        _evidence(cause, total, model, profile.peaks),
        remedy(cause, total, model, profile),
    )
    return " ".join(part for part in parts if part)


def _named(cause: str, operators: Sequence[Operator]) -> str:
    """What the cost is called, and which operators it is where that is not said."""
    if cause == "between":
        return "no operator runs"
    if cause in COMPUTING:
        return f"goes to {CAUSES[cause]}"
    names = _largest(operators, lambda operator: operator.name.replace("aten::", "").removesuffix("_"))
    return f"goes to {CAUSES[cause]} ({', '.join(name for name, _ in names)})"


def _place(operators: Sequence[Operator]) -> str:
    """How many calls, and where most of the time is: a module's name with its numbers taken out."""
    if not operators:
        return ""
    text = f", {len(operators)} call{'s' * (len(operators) > 1)}"
    if not any(operator.module for operator in operators):
        return text  # a compiled network has no modules
    places = _largest(operators, lambda operator: pattern(operator.module) or "(the network itself)")
    return f"{text}, " + " and ".join(f"{share:.0%} of it in `{place}`" for place, share in places)


def _largest(operators: Sequence[Operator], key: Callable[[Operator], str]) -> list[tuple[str, float]]:
    """The key that most of the time has, and the next if the first is not most of it, each with its share."""
    times: dict[str, float] = {}
    for operator in operators:
        times[key(operator)] = times.get(key(operator), 0.0) + operator.ms
    total = sum(times.values()) or 1.0
    shares = sorted(((name, time / total) for name, time in times.items()), key=lambda item: -item[1])
    return shares[: 1 if shares[0][1] >= _MOSTLY else 2]


def _evidence(cause: str, total: Sum, model: ModelProfile, peaks: Peaks) -> str:
    """How near the cost comes to what the machine can do."""
    if cause in COMPUTING and total.num_macs:
        limit = "arithmetic" if total.intensity >= peaks.ridge else "memory"
        return (
            f"That is {total.num_macs / model.num_macs:.0%} of the MACs at {digits(total.macs_per_second / 1e9)}"
            f" GMAC/s; this machine's {limit} allows {digits(peaks.attainable(total.intensity) / 1e9)}, which would"
            f" take {total.roofline_ms(peaks) / model.wall_ms:.1%} of today's time."
        )
    if total.bytes_moved:
        return (
            f"It moves {digits(total.bytes_moved / 1e6)} MB at {digits(total.bytes_per_second / 1e9)} GB/s; this"
            f" machine copies at {digits(peaks.bytes_per_second / 1e9)},"
            f" in its caches at {digits(peaks.cache_bytes_per_second / 1e9)}."
        )
    return ""
