"""The networks of Figure 3 brought to one speed: widths for each share of attention, and all measured together.

First each network for itself: the nearest width, then the inner widths that meet the speed. Each is kept in a file as
soon as it is found, so an interrupted search goes on where it was. What counts in the end is how fast all networks of
a family are when they take turns with the baseline. Those that surely miss their speed have their inner widths changed
by what they miss, or where that did not help their width by a step if that comes nearer, until none does and the error
is below half of the tolerance.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from effvit.analysis.ratios.families import Subnetwork, find_family
from effvit.analysis.speed_meter import CONTROL, SpeedMeter
from effvit.errors import RunError
from effvit.files import make_output_folder
from effvit.studies.attention_share_curves import Curve, SpeedMember, SpeedSet, SpeedSettings, meter_for
from effvit.studies.attention_share_search import read_found, search_all, write_found
from effvit.studies.attention_share_together import Together

_MEASUREMENTS, _CORRECTIONS = 40, 8
"""Measurements of all networks together, and changes of their widths, before a machine is called too restless."""
_HELPED = 0.7
"""A change of inner widths that leaves more than this share of the error did not help."""


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
    together = Together(path=folder / "together.json", baseline=baseline, settings=settings)
    targets = {name: curve.speed for name, (curve, _) in wanted.items()}

    def networks() -> dict[str, Subnetwork]:
        return {
            name: replace(baseline, num_attention=count, width=found[name].width, inner=found[name].inner)
            for name, (_, count) in wanted.items()
        }

    together.take_kept(networks())
    num_corrections = 0
    excess_before: dict[str, float] = {}
    while not together.is_within(targets, unsure=together.num_measurements == _MEASUREMENTS):
        wrong = together.wrong(targets)
        if together.num_measurements == _MEASUREMENTS or (wrong and num_corrections == _CORRECTIONS):
            raise RunError(_too_restless(together, targets))
        num_corrections += bool(wrong)
        for name in wrong:
            excess = together.speed(name).median / targets[name]
            is_stuck = name in excess_before and abs(excess - 1) > _HELPED * abs(excess_before[name] - 1)
            # A small network's speed hardly follows its inner widths where its products are tiny already.
            stepped = found[name].stepped(excess, find_family(baseline.family).step) if is_stuck else None
            found[name] = stepped or found[name].corrected(excess)
            excess_before[name] = excess
            write_found(folder / f"{name}.json", wanted[name], settings, found[name])
            together.forget(name)
        together.measure(networks(), meter)
        on_note(_progress(together, targets))
    together.settle(networks())
    return SpeedSet(
        baseline=baseline,
        members=tuple(
            SpeedMember(name=name, curve=curve, network=network, search=found[name].match, speed=together.speed(name))
            for (name, network), (curve, _) in zip(networks().items(), wanted.values(), strict=True)
        ),
        control=together.speed(CONTROL),
        rounds=settings.together_rounds,
        builds=min(len(together.samples[name]) for name in wanted),
        environment=together.environment,
    )


def _progress(together: Together, targets: Mapping[str, float]) -> str:
    worst = max(targets, key=lambda name: together.off(name, targets[name]))
    return (
        f"{together.baseline.family}: all {len(targets)} measured together; furthest from its speed is {worst}, off by"
        f" {together.off(worst, targets[worst]):.1%} ± {together.error(worst):.1%}"
        f" in {len(together.samples[worst])} builds"
    )


def _too_restless(together: Together, targets: Mapping[str, float]) -> str:
    tolerance = together.settings.tolerance
    off = ", ".join(
        f"{name} runs at {together.speed(name).median:.3f}x ± {together.error(name):.1%}"
        for name, target in targets.items()
        if together.off(name, target) > tolerance
    )
    return (
        f"{together.baseline.family}: after {together.num_measurements} measurements together {off}, not within"
        f" {tolerance:.1%} (and the baseline at {together.speed(CONTROL).median:.3f}x of itself): let nothing else run,"
        " and go on with the same command, or allow a larger tolerance"
    )
