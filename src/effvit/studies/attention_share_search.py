"""The widths of each network of Figure 3, found for itself and kept in a file as soon as they are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from effvit.analysis.ratios.families import INNER_PERCENTS, find_family
from effvit.analysis.scaling import Match, match_speed, nearest_width
from effvit.analysis.speed_meter import SpeedMeter
from effvit.errors import ConfigError
from effvit.files import write_json
from effvit.studies.attention_share_curves import Curve, SpeedSettings, build
from effvit.studies.kept import as_json, read_kept

_POWER = 1.5
"""How speed is taken to fall with width, for the first guess and to see whether a step of it comes nearer."""
_INNER_POWER = 0.7
"""How speed is taken to fall with the inner widths when they are corrected."""


@dataclass(frozen=True)
class Found:
    """What a network's speed is made of."""

    width: int
    inner: int
    match: Match

    def corrected(self, excess: float) -> Found:
        """With inner widths for a speed that is `excess` times too high; by a percent at least."""
        wanted = self.inner * excess ** (1 / _INNER_POWER)
        inner = max(self.inner + 1, round(wanted)) if excess > 1 else min(self.inner - 1, round(wanted))
        return replace(self, inner=min(max(inner, INNER_PERCENTS[0]), INNER_PERCENTS[-1]))

    def stepped(self, excess: float, step: int) -> Found | None:
        """With the next width for a speed that is `excess` times too high; None where that would miss it by more."""
        width = self.width + (step if excess > 1 else -step)
        is_nearer = width > 0 and abs(excess * (self.width / width) ** _POWER - 1) < abs(excess - 1)
        return replace(self, width=width, inner=100) if is_nearer else None


def search_all(
    wanted: Mapping[str, tuple[Curve, int]],
    folder: Path,
    settings: SpeedSettings,
    meter: SpeedMeter,
    on_note: Callable[[str], None],
) -> dict[str, Found]:
    """Each network's widths; searched for where they are not kept."""
    found: dict[str, Found] = {}
    for name, entry in wanted.items():
        path = folder / f"{name}.json"
        kept = read_found(path, entry, settings)
        if kept is None:
            kept = _find(name, *entry, settings, meter, _guess(entry[0], found))
            write_found(path, entry, settings, kept)
            speed = kept.match.confirmed.speed.median
            on_note(f"{name}: width {kept.width}, {kept.inner} % inside, {speed:.3f} times the baseline's speed")
        found[name] = kept
    return found


def _find(name: str, curve: Curve, count: int, settings: SpeedSettings, meter: SpeedMeter, start: int) -> Found:
    """The width that comes nearest to the speed, and the inner width that meets it."""
    family = find_family(curve.baseline.family)
    baseline, like = build(curve.baseline), replace(curve.baseline, num_attention=count)
    width = nearest_width(
        lambda width: build(replace(like, width=width)),
        family.widths(like.width),
        baseline,
        measure=meter,
        speed=curve.speed,
        start=start,
        rounds=settings.rounds,
    )
    reasons = []
    for candidate in (width, width - family.step, width + family.step):  # inner widths may not reach as far as a step
        if candidate not in family.widths(like.width):
            continue
        try:
            match = match_speed(
                lambda inner, candidate=candidate: build(replace(like, width=candidate, inner=inner)),  # type: ignore[misc]
                INNER_PERCENTS,
                baseline,
                measure=meter,
                speed=curve.speed,
                tolerance=settings.tolerance,
                start=100,
                rounds=settings.rounds,
                confirm_rounds=settings.confirm_rounds,
                label=f"{name}: width {candidate}, inner widths in percent",
            )
        except ConfigError as error:
            reasons.append(error)
            continue
        return Found(width=candidate, inner=match.width, match=match)
    raise reasons[0]


def _guess(curve: Curve, found: Mapping[str, Found]) -> int:
    """Where to begin: at the width of the curve's network before, which has about as much attention."""
    before = [entry.width for entry in found.values() if entry.match.target == curve.speed]
    return before[-1] if before else max(1, round(curve.baseline.width / curve.speed ** (1 / _POWER)))


def _asked(entry: tuple[Curve, int], settings: SpeedSettings) -> Any:
    curve, count = entry
    return as_json({"baseline": curve.baseline.to_dict(), "speed": curve.speed, "count": count, **asdict(settings)})


def read_found(path: Path, entry: tuple[Curve, int], settings: SpeedSettings) -> Found | None:
    """What is kept of a network; None if nothing is, RunError if it was found with other settings."""
    kept = read_kept(path, _asked(entry, settings))
    if kept is None:
        return None
    return Found(width=kept["width"], inner=kept["inner"], match=Match.from_dict(kept["match"]))


def write_found(path: Path, entry: tuple[Curve, int], settings: SpeedSettings, found: Found) -> None:
    """Keep it."""
    values = {"width": found.width, "inner": found.inner, "match": found.match.to_dict()}
    write_json(path, {"settings": _asked(entry, settings), **values})
