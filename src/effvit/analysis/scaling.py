"""Networks of equal speed: the width at which a network runs as fast as it should, found by measuring.

MACs and parameters do not tell speed, so accuracies can only be compared between networks that were brought to the same
measured throughput (Sec. 2.1 and Table 6 of the paper do so and do not say how). Here each candidate takes turns
with the baseline and is judged by the ratio of the two, round by round: what disturbs the machine disturbs both.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from effvit.analysis.speed_meter import RelativeSpeed
from effvit.analysis.width_search import next_index, search
from effvit.errors import ConfigError
from effvit.timing import Spread

MAX_CONFIRMATIONS = 8
"""Widths that are measured at length before a search is given up."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One width, measured."""

    width: int
    """What was given to `make`."""
    speed: Spread
    """How many times as fast as the baseline."""
    rounds: int
    """In how many rounds."""

    @property
    def error(self) -> float:
        """Standard error of the median, estimated from the quartiles as for a normal distribution, at least.

        Rounds of one copy are not independent.
        """
        return 1.2533 * (self.speed.p75 - self.speed.p25) / 1.349 / math.sqrt(self.rounds)


@dataclass(frozen=True, kw_only=True)
class Match:
    """The width at which a network has its speed, and how it was found."""

    width: int
    """The width."""
    target: float
    """How many times as fast as the baseline it should be."""
    confirmed: Trial
    """Its last, longest measurement."""
    trials: tuple[Trial, ...]
    """Everything measured, in order; a width measured at length stands there twice."""

    @property
    def achieved(self) -> float:
        """Measured speed over target: 1 for an exact match."""
        return self.confirmed.speed.median / self.target

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""

        def plain(trial: Trial) -> dict[str, Any]:
            return {**asdict(trial), "speed": trial.speed._asdict(), "error": trial.error}

        return {
            "width": self.width,
            "target": self.target,
            "achieved": self.achieved,
            "confirmed": plain(self.confirmed),
            "trials": [plain(trial) for trial in self.trials],
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Match:
        """Read what `to_dict` wrote."""

        def trial(entry: Mapping[str, Any]) -> Trial:
            return Trial(width=entry["width"], speed=Spread(**entry["speed"]), rounds=entry["rounds"])

        return cls(
            width=values["width"],
            target=values["target"],
            confirmed=trial(values["confirmed"]),
            trials=tuple(map(trial, values["trials"])),
        )


def match_speed(
    make: Callable[[int], nn.Module],
    widths: Sequence[int],
    baseline: nn.Module,
    *,
    measure: RelativeSpeed,
    speed: float = 1.0,
    tolerance: float = 0.03,
    start: int | None = None,
    rounds: int = 7,
    confirm_rounds: int = 31,
    label: str = "the network",
    on_trial: Callable[[Trial], None] | None = None,
) -> Match:
    """Find the width at which a network is `speed` times as fast as a baseline.

    The bracket around the target is narrowed in few rounds each; the best width and, if need be, its neighbours are
    then measured at length, until one is within half the tolerance. Time need not rise steadily
    with width (processors like some multiples), so a neighbour can be better than what the search ends on.

    Args:
        make: The network of a width.
        widths: What may be tried; any order.
        baseline: What the speed is relative to.
        measure: How two networks are compared, usually a `SpeedMeter`.
        speed: How many times as fast as the baseline; 1 for equally fast.
        tolerance: Largest allowed share by which the confirmed speed misses the target.
        start: The width to try first; None for the middle.
        rounds: Of each trial in the search.
        confirm_rounds: Of each measurement in the end.
        label: What the network is called in an error.
        on_trial: Told of each measurement.

    Returns:
        The width whose confirmed speed is nearest to the target.

    Raises:
        ConfigError: If a number is not allowed, or no width has the speed, naming the nearest.
    """
    widths = sorted(set(widths))
    _check(widths, speed, tolerance, rounds, confirm_rounds)
    trials: list[Trial] = []

    def excess_of(index: int, rounds: int) -> float:
        """Measure a width: the logarithm of its speed over the target, above 0 where it is too fast."""
        trial = Trial(width=widths[index], speed=measure(make(widths[index]), baseline, rounds), rounds=rounds)
        trials.append(trial)
        if on_trial is not None:
            on_trial(trial)
        return math.log(trial.speed.median / speed)

    tried = search(lambda index: excess_of(index, rounds), widths, start, enough=tolerance / 4)
    confirmed: dict[int, float] = {}
    index = min(tried, key=lambda i: abs(tried[i]))
    while index not in confirmed and len(confirmed) < MAX_CONFIRMATIONS:
        confirmed[index] = excess_of(index, confirm_rounds)
        if abs(confirmed[index]) <= tolerance / 2:
            break
        index = next_index(index, confirmed, {**tried, **confirmed}, widths)
    best = min(confirmed, key=lambda i: abs(confirmed[i]))
    found = next(trial for trial in reversed(trials) if trial.width == widths[best] and trial.rounds == confirm_rounds)
    if abs(found.speed.median / speed - 1) > tolerance:
        raise ConfigError(f"{label}: {_no_match(trials, best, widths, speed, tolerance)}")
    return Match(width=widths[best], target=speed, confirmed=found, trials=tuple(trials))


def nearest_width(
    make: Callable[[int], nn.Module],
    widths: Sequence[int],
    baseline: nn.Module,
    *,
    measure: RelativeSpeed,
    speed: float = 1.0,
    start: int | None = None,
    rounds: int = 7,
    on_trial: Callable[[Trial], None] | None = None,
) -> int:
    """The width whose speed comes nearest to the target, however far it is: for coarse widths, before a finer search.

    Arguments and errors are those of `match_speed`.
    """
    widths = sorted(set(widths))
    _check(widths, speed, 0.5, rounds, rounds)

    def excess_of(index: int) -> float:
        trial = Trial(width=widths[index], speed=measure(make(widths[index]), baseline, rounds), rounds=rounds)
        if on_trial is not None:
            on_trial(trial)
        return math.log(trial.speed.median / speed)

    tried = search(excess_of, widths, start, enough=0.0)
    return widths[min(tried, key=lambda index: abs(tried[index]))]


def _check(widths: Sequence[int], speed: float, tolerance: float, rounds: int, confirm_rounds: int) -> None:
    faults = [] if widths else ["no widths to try"]
    if widths and widths[0] < 1:
        faults.append(f"widths must be positive, got {widths[0]}")
    if not 0 < speed < math.inf:
        faults.append(f"speed must be above 0, got {speed}")
    if not 0 < tolerance < 1:
        faults.append(f"tolerance must be above 0 and below 1, got {tolerance}")
    if min(rounds, confirm_rounds) < 1:
        faults.append(f"rounds must be at least 1, got {rounds} and {confirm_rounds}")
    if faults:
        raise ConfigError("match_speed: " + "; ".join(faults))


def _no_match(trials: Sequence[Trial], best: int, widths: Sequence[int], speed: float, tolerance: float) -> str:
    """Why there is no match, with the speeds nearest to it."""
    last = {trial.width: trial.speed.median for trial in trials}
    wanted = f"{speed:.3g} times the baseline's speed"
    here = f"{last[widths[best]]:.3g}x"
    if best == 0 and last[widths[0]] < speed:
        return f"cannot reach {wanted}: the narrowest that may be tried, width {widths[0]}, has {here}"
    if best == len(widths) - 1 and last[widths[-1]] > speed:
        return f"cannot be as slow as {wanted}: the widest that may be tried, width {widths[-1]}, has {here}"
    near = sorted(sorted(last, key=lambda width: abs(math.log(last[width] / speed)))[:3])
    shown = ", ".join(f"{width} ({last[width]:.3g}x)" for width in near)
    return f"no width has {wanted} within {100 * tolerance:.3g} %; nearest: {shown}; allow more or finer widths"
