"""The networks of Figure 3 brought to one speed: widths for each share of attention, and all measured together.

First each network for itself: the nearest width, then the inner widths that meet the speed. Each is kept in a file as
soon as it is found, so an interrupted search goes on where it was. What counts in the end is one measurement in which
all networks of a family take turns with the baseline, made anew some times: where weights lie in memory alone changes a
time by some percent. Those that miss their speed have their inner widths changed by what they miss, until none does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median
from typing import Any

from effvit.analysis.ratios.families import Subnetwork
from effvit.analysis.scaling import CONTROL, SpeedMeter
from effvit.environment import environment
from effvit.errors import RunError
from effvit.files import make_output_folder, write_json
from effvit.studies.attention_share_curves import Curve, SpeedMember, SpeedSet, SpeedSettings, build, meter_for
from effvit.studies.attention_share_search import read_found, search_all, write_found
from effvit.studies.kept import as_json, read_same
from effvit.timing import Spread

_ATTEMPTS = 8
"""Measurements of all networks together before a machine is called too restless."""


def match_curves(
    curves: Sequence[Curve],
    folder: Path,
    settings: SpeedSettings,
    *,
    on_note: Callable[[str], None] = lambda _: None,
    meter: SpeedMeter | None = None,
) -> SpeedSet:
    """Find the widths at which all networks of a family have their speed, or take what was found before.

    Args:
        curves: Of one baseline.
        folder: Where widths and the measurement are kept; made if it is not there.
        settings: How to measure.
        on_note: Told in a line what was found.
        meter: What measures; None for the usual one.

    Raises:
        ConfigError: If two shares are the same network, or no width has the speed.
        RunError: If the folder holds what was found with other settings, or the networks, measured together, are not
            equally fast however often widths are looked for.
    """
    baseline = curves[0].baseline
    meter = meter or meter_for(baseline, settings)
    wanted = {curve.name_of(count): (curve, count) for curve in curves for count in curve.counts}
    folder = make_output_folder(folder)
    for name in wanted:
        read_found(folder / f"{name}.json", wanted[name], settings)  # refused before anything is measured
    found = search_all(wanted, folder, settings, meter, on_note)
    together = folder / "together.json"
    for attempt in range(1, _ATTEMPTS + 1):
        networks = {
            name: replace(baseline, num_attention=count, width=found[name].width, inner=found[name].inner)
            for name, (_, count) in wanted.items()
        }
        kept = _measured(together, networks, baseline, settings, meter, on_note)
        speeds = {name: Spread(**values) for name, values in kept["speeds"].items()}
        excess = {name: speeds[name].median / curve.speed for name, (curve, _) in wanted.items()}
        off = [name for name in wanted if abs(excess[name] - 1) > settings.tolerance]
        if not off:
            break
        on_note(f"attempt {attempt}, not within {settings.tolerance:.1%}: {_listed(off, speeds)}")
        for name in off:
            found[name] = found[name].corrected(excess[name])
            write_found(folder / f"{name}.json", wanted[name], settings, found[name])
    else:
        raise RunError(
            f"{baseline.family}: after {_ATTEMPTS} corrections {_listed(off, speeds)}, not within"
            f" {settings.tolerance:.1%} (and the baseline at {speeds[CONTROL].median:.3f}x of itself): let nothing else"
            " run, and go on with the same command, or allow a larger tolerance"
        )
    return SpeedSet(
        baseline=baseline,
        members=tuple(
            SpeedMember(name=name, curve=curve, network=networks[name], search=found[name].match, speed=speeds[name])
            for name, (curve, _) in wanted.items()
        ),
        control=speeds[CONTROL],
        rounds=settings.together_rounds,
        builds=settings.together_builds,
        environment=kept["environment"],
    )


def _measured(
    path: Path,
    networks: Mapping[str, Subnetwork],
    baseline: Subnetwork,
    settings: SpeedSettings,
    meter: SpeedMeter,
    on_note: Callable[[str], None],
) -> Any:
    """Measure all networks together, or read the measurement of just these."""
    asked = as_json({"networks": {name: n.to_dict() for name, n in networks.items()}, **asdict(settings)})
    kept = read_same(path, asked)
    if kept is None:
        on_note(f"measuring all {len(networks)} networks of {baseline.family} together")
        medians: dict[str, list[float]] = {}
        for _ in range(settings.together_builds):
            made = {name: build(network) for name, network in networks.items()}
            for name, speed in meter.together(made, build(baseline), settings.together_rounds).items():
                medians.setdefault(name, []).append(speed.median)
        speeds = {name: Spread(median(m), min(m), max(m))._asdict() for name, m in medians.items()}
        kept = {"settings": asked, "speeds": speeds, "environment": environment()}
        write_json(path, kept)
    return kept


def _listed(names: Sequence[str], speeds: Mapping[str, Spread]) -> str:
    return ", ".join(f"{name} runs at {speeds[name].median:.3f}x" for name in names)
