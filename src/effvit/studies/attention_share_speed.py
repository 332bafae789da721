"""The networks of Figure 3 brought to one speed: a width for each share of attention, and all of them measured together.

Every width is kept in a file of its own as soon as it is found, so an interrupted search goes on where it was. What
counts in the end is not the searches but one measurement in which all networks of a family take turns with the
baseline: it must find each of them within the tolerance, else the search of those that are not begins anew.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from effvit.analysis.ratios.families import Subnetwork, find_family, subnetwork
from effvit.analysis.scaling import CONTROL, Match, SpeedMeter, Trial, match_speed
from effvit.deploy.rewrite import rewrite
from effvit.environment import environment
from effvit.errors import ConfigError, RunError
from effvit.files import make_output_folder, read_json, write_json
from effvit.timing import Spread

_ATTEMPTS = 3
"""Measurements of all networks together before a machine is called too restless."""
_POWER = 1.5
"""How speed is taken to fall with width, for the first guess only."""


@dataclass(frozen=True, kw_only=True)
class SpeedSettings:
    """How speed is measured."""

    batch_size: int = 16
    """Pictures per call; 16 and one thread are the paper's for the CPU."""
    num_threads: int = 1
    """Threads within an operator, on the CPU."""
    device: str = "cpu"
    """Where it is measured."""
    tolerance: float = 0.03
    """Share by which a network may miss its speed, above 0 and below 1."""
    rounds: int = 7
    """Of a trial in the search of a width."""
    confirm_rounds: int = 31
    """Of the measurement that ends the search, and of that of all networks together."""
    round_seconds: float = 0.05
    """About how long a sample is."""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Networks of a family that should all be equally fast: one line of Figure 3."""

    baseline: Subnetwork
    """The family's network as its authors share it out; what speed is relative to."""
    speed: float
    """How many times as fast as the baseline."""
    shares: tuple[float, ...]
    """Shares of attention asked for, 0..1."""

    @property
    def counts(self) -> tuple[int, ...]:
        """Attention layers of each network, in the order of the shares."""
        wanted = self.baseline
        return tuple(
            subnetwork(wanted.family, share, width=wanted.width, image_size=wanted.image_size).num_attention
            for share in self.shares
        )

    def name_of(self, num_attention: int) -> str:
        """What one of its networks is called in a folder."""
        return f"{self.baseline.family}-{self.speed:g}x-attention-{num_attention:02d}"


@dataclass(frozen=True, kw_only=True)
class SpeedMember:
    """A network that has its speed."""

    name: str
    """Unique in a study."""
    curve: Curve
    """What it is a point of."""
    network: Subnetwork
    """The network."""
    match: Match
    """How its width was found."""
    speed: Spread
    """How many times as fast as the baseline, measured together with all others."""

    @property
    def achieved(self) -> float:
        """Measured speed over the one it should have."""
        return self.speed.median / self.curve.speed


@dataclass(frozen=True, kw_only=True)
class SpeedSet:
    """All networks of a family, and the measurement that shows them to be equally fast."""

    baseline: Subnetwork
    """What speed is relative to."""
    members: tuple[SpeedMember, ...]
    """Curve by curve, in the order of the shares."""
    control: Spread
    """The baseline over itself: what the machine's noise looks like."""
    rounds: int
    """Of the measurement together."""
    environment: Mapping[str, Any]
    """The machine that measured."""


def deployed(network: nn.Module, image_size: tuple[int, int]) -> nn.Module:
    """The form that is timed and profiled: ours rewritten for this picture size, others as they are."""
    from effvit.model.network import EfficientViT

    return rewrite(network, image_size=image_size) if isinstance(network, EfficientViT) else network.eval()


def meter_for(baseline: Subnetwork, settings: SpeedSettings) -> SpeedMeter:
    """What compares two networks of the baseline's family."""
    return SpeedMeter(
        input_size=(3, *baseline.image_size),
        batch_size=settings.batch_size,
        device=settings.device,
        num_threads=settings.num_threads,
        prepare=partial(deployed, image_size=baseline.image_size),
        round_seconds=settings.round_seconds,
    )


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
    wanted = _wanted(curves)
    folder = make_output_folder(folder)
    for name in wanted:
        _read_match(folder / f"{name}.json", wanted[name], settings)  # refused before anything is measured
    together = folder / "together.json"
    for attempt in range(1, _ATTEMPTS + 1):
        matches = _matches(wanted, folder, settings, meter, on_note)
        networks = {
            name: replace(baseline, num_attention=wanted[name][1], width=matches[name].width) for name in wanted
        }
        asked = _as_json({"networks": {n: network.to_dict() for n, network in networks.items()}, **asdict(settings)})
        kept = read_json(together) if together.is_file() else {}
        if kept.get("settings") != asked:
            on_note(f"measuring all {len(networks)} networks of {baseline.family} together")
            made = {name: _build(network) for name, network in networks.items()}
            measured = meter.together(made, _build(baseline), settings.confirm_rounds)
            speeds = {name: speed._asdict() for name, speed in measured.items()}
            kept = {"settings": asked, "speeds": speeds, "environment": environment()}
        speeds = {name: Spread(**values) for name, values in kept["speeds"].items()}
        off = [n for n in wanted if abs(speeds[n].median / wanted[n][0].speed - 1) > settings.tolerance]
        if not off:
            write_json(together, kept)
            break
        on_note(f"attempt {attempt}: not within {settings.tolerance:.1%} together: {_listed(off, speeds)}")
        for name in off:
            (folder / f"{name}.json").unlink(missing_ok=True)
    else:
        raise RunError(
            f"{baseline.family}: measured together, {_listed(off, speeds)}, not within {settings.tolerance:.1%} of the"
            f" speed that was found for each alone (the baseline has {speeds[CONTROL].median:.3f}x of its own); let nothing"
            " else run, or allow a larger tolerance"
        )
    return SpeedSet(
        baseline=baseline,
        members=tuple(
            SpeedMember(name=name, curve=curve, network=networks[name], match=matches[name], speed=speeds[name])
            for name, (curve, _) in wanted.items()
        ),
        control=speeds[CONTROL],
        rounds=settings.confirm_rounds,
        environment=kept["environment"],
    )


def _wanted(curves: Sequence[Curve]) -> dict[str, tuple[Curve, int]]:
    """Name -> curve and number of attention layers, each network once."""
    found: dict[str, tuple[Curve, int]] = {}
    for curve in curves:
        for share, count in zip(curve.shares, curve.counts, strict=True):
            name = curve.name_of(count)
            if name in found:
                num_layers = find_family(curve.baseline.family).num_layers
                raise ConfigError(
                    f"{curve.baseline.family}: two of the shares {', '.join(f'{s:g}' for s in curve.shares)} are the same"
                    f" network, {count} of {num_layers} layers ({share:g} and another); leave one out"
                )
            found[name] = curve, count
    return found


def _matches(
    wanted: Mapping[str, tuple[Curve, int]],
    folder: Path,
    settings: SpeedSettings,
    meter: SpeedMeter,
    on_note: Callable[[str], None],
) -> dict[str, Match]:
    """The width of each network, searched for where it is not kept."""
    found: dict[str, Match] = {}
    baseline: nn.Module | None = None
    for name, entry in wanted.items():
        curve, count = entry
        path = folder / f"{name}.json"
        kept = _read_match(path, entry, settings)
        if kept is None:
            baseline = baseline or _build(curve.baseline)
            kept = match_speed(
                lambda width, like=curve.baseline, count=count: _build(replace(like, num_attention=count, width=width)),
                find_family(curve.baseline.family).widths(curve.baseline.width),
                baseline,
                measure=meter,
                speed=curve.speed,
                tolerance=settings.tolerance,
                start=_guess(curve, found),
                rounds=settings.rounds,
                confirm_rounds=settings.confirm_rounds,
                label=f"{name} ({count / find_family(curve.baseline.family).num_layers:.0%} attention)",
            )
            write_json(path, {"settings": _asked(entry, settings), "match": kept.to_dict()})
            on_note(f"{name}: width {kept.width} has {kept.confirmed.speed.median:.3f} times the baseline's speed")
        found[name] = kept
    return found


def _guess(curve: Curve, found: Mapping[str, Match]) -> int:
    """Where to begin: at the width of the curve's network before, which has about as much attention."""
    before = [match.width for match in found.values() if match.target == curve.speed]
    return before[-1] if before else max(1, round(curve.baseline.width / curve.speed ** (1 / _POWER)))


def _asked(entry: tuple[Curve, int], settings: SpeedSettings) -> Any:
    curve, count = entry
    return _as_json({"baseline": curve.baseline.to_dict(), "speed": curve.speed, "count": count, **asdict(settings)})


def _read_match(path: Path, entry: tuple[Curve, int], settings: SpeedSettings) -> Match | None:
    if not path.is_file():
        return None
    kept = read_json(path)
    if kept.get("settings") != _asked(entry, settings):
        raise RunError(f"{path} was found with other settings: give another folder, or remove that file")
    return Match.from_dict(kept["match"])


def _build(network: Subnetwork) -> nn.Module:
    """With random weights, always the same; speed does not depend on them, and no other random number is used up."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return network.make().eval()


def _listed(names: Sequence[str], speeds: Mapping[str, Spread]) -> str:
    return ", ".join(f"{name} runs at {speeds[name].median:.3f}x" for name in names)


def _as_json(value: Any) -> Any:
    """As it would be read back."""
    return json.loads(json.dumps(value))
