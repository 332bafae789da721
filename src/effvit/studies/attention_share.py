"""Figure 3 made anew: accuracy and memory-bound share of networks of equal speed over their share of attention.

One function over one folder:

    FAMILY/*.json         the widths of each network, and how they were found
    FAMILY/together.json  all networks of the family measured in turns: the proof that they are equally fast
    FAMILY/memory.json    where their time goes
    runs/                 a run folder for each network and seed

Everything that is there is taken from there, so the study may be interrupted at any moment. What it was made with must
not change; more shares, speeds, families and seeds may come.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from effvit.analysis.ratios.families import FAMILIES, Subnetwork, find_family, subnetwork
from effvit.environment import environment
from effvit.errors import ConfigError
from effvit.files import make_output_folder
from effvit.studies.attention_share_curves import Curve, SpeedMember, SpeedSet, SpeedSettings
from effvit.studies.attention_share_memory import Cost, Memory, cost_of, memory_of
from effvit.studies.attention_share_speed import match_curves
from effvit.studies.budget import Budget
from effvit.studies.listeners import Listeners
from effvit.studies.training import Entrant, Trained

SHARES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
"""The shares of Figure 3."""
SPEED = 1.25
"""How many times as fast as the baseline the networks of the paper's first curves are; the others have 1.5."""
BASELINE = "baseline"
"""Ends the name under which a family's baseline is profiled."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """One network of the figure."""

    member: SpeedMember
    """The network, its curve and its measured speed."""
    cost: Cost
    """Parameters and MACs."""
    memory: Memory
    """Where its time goes."""
    trained: tuple[Trained, ...] = ()
    """Its trainings, a seed each."""

    @property
    def share(self) -> float:
        """Share of its layers that are attention, 0..1."""
        return self.member.network.share

    @property
    def top1(self) -> dict[int, float]:
        """Seed -> share of right predictions after the last epoch, 0..1; failed trainings are left out."""
        return {result.seed: result.top1 for result in self.trained if result.top1 is not None}


@dataclass(frozen=True, kw_only=True)
class ShareStudy:
    """What came out."""

    speeds: Mapping[str, SpeedSet]
    """Family -> its networks and the measurement of all of them."""
    baselines: Mapping[str, tuple[Cost, Memory]]
    """Family -> its baseline's cost and time."""
    points: tuple[Point, ...]
    """Every network: by family, speed and share."""
    speed_settings: SpeedSettings
    """How speed was measured."""
    budget: Budget | None
    """What was trained on; None where nothing was."""
    command: str
    """The command line."""
    environment: Mapping[str, Any]
    """The machine that wrote the report; speeds and runs have their own."""

    def curves(self) -> list[tuple[Curve, list[Point]]]:
        """The lines of the figure, each with its points."""
        curves = dict.fromkeys(point.member.curve for point in self.points)
        return [(curve, [point for point in self.points if point.member.curve == curve]) for curve in curves]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: everything in the tables, unrounded, and what it was made with."""
        return {
            "analysis": "ratios",
            "command": self.command,
            "environment": dict(self.environment),
            "speed": asdict(self.speed_settings),
            "training": None if self.budget is None else self.budget.to_dict(),
            "families": {
                name: {
                    "baseline": found.baseline.to_dict(),
                    "baseline_cost": asdict(self.baselines[name][0]),
                    "baseline_memory": asdict(self.baselines[name][1]),
                    "control": found.control._asdict(),
                    "rounds_together": found.rounds,
                    "builds_together": found.builds,
                    "environment_of_speed": dict(found.environment),
                }
                for name, found in self.speeds.items()
            },
            "networks": [_plain(point) for point in self.points],
        }


def plan_curves(
    families: Sequence[str],
    *,
    image_size: tuple[int, int],
    shares: Sequence[float] = SHARES,
    speeds: Sequence[float] = (SPEED,),
    widths: Sequence[int] | None = None,
    num_classes: int = 1000,
) -> dict[str, list[Curve]]:
    """The curves of a study, by family.

    Args:
        families: Names of `effvit.analysis.ratios.families.FAMILIES`.
        image_size: Height and width of the pictures, in pixels.
        shares: Shares of attention, 0..1.
        speeds: How many times as fast as the baseline.
        widths: The baselines' widths, one for each family; None for those of their authors.
        num_classes: Classes.

    Raises:
        ConfigError: If a family is unknown or named twice, or a number is not allowed.
    """
    if not families or len(set(families)) != len(families):
        raise ConfigError(f"name one or more different families of {', '.join(FAMILIES)}; got {list(families)}")
    for what, numbers in (("shares", shares), ("speeds", speeds)):
        if not numbers or len(set(numbers)) != len(numbers):
            raise ConfigError(f"{what} must be one or more different numbers, got {list(numbers)}")
    if not all(0 < speed <= 10 for speed in speeds):
        raise ConfigError(f"speeds must be above 0 and at most 10, got {list(speeds)}")
    if widths is not None and len(widths) != len(families):
        raise ConfigError(f"widths must be as many as families, {len(families)}, got {list(widths)}")
    found: dict[str, list[Curve]] = {}
    for index, name in enumerate(families):
        family = find_family(name)
        baseline = subnetwork(
            name,
            family.num_attention / family.num_layers,
            width=family.width if widths is None else widths[index],
            image_size=image_size,
            num_classes=num_classes,
        )
        baseline.to_dict()  # refuses a picture size that does not suit the patches
        found[name] = [Curve(baseline=baseline, speed=speed, shares=tuple(sorted(shares))) for speed in speeds]
    return found


def study_attention_share(
    curves: Mapping[str, Sequence[Curve]],
    folder: Path | str,
    *,
    budget: Budget | None = None,
    speed_settings: SpeedSettings | None = None,
    command: str = "",
    listeners: Listeners | None = None,
) -> ShareStudy:
    """Bring all networks to their speed, profile them, train them; whatever is in the folder is taken as it is.

    Args:
        curves: From `plan_curves`, with as many classes as the pictures have.
        folder: Where everything is kept.
        budget: What to train on; None for speed and memory alone.
        speed_settings: How speed is measured.
        command: The command line, for the records.
        listeners: Whom to tell.

    Raises:
        ConfigError: If a network cannot reach its speed, or does not suit the pictures.
        RunError: If the folder holds something that was made with other settings, the machine is too restless for
            equal speeds, or every training failed.
        DataError: If too many pictures cannot be read.
    """
    tell, how = listeners or Listeners(), speed_settings or SpeedSettings()
    if budget is not None:
        for baseline in (curve.baseline for family in curves.values() for curve in family):
            budget.check(baseline.family, baseline.num_classes, baseline.image_size)
    folder = make_output_folder(folder)
    speeds = {name: match_curves(c, folder / name, how, on_note=tell.on_note) for name, c in curves.items()}
    baselines: dict[str, tuple[Cost, Memory]] = {}
    memory: dict[str, Memory] = {}
    for name, found in speeds.items():
        label = f"{name}-{BASELINE}"
        networks = {label: found.baseline, **{member.name: member.network for member in found.members}}
        memory.update(memory_of(networks, folder / name / "memory.json", how, on_note=tell.on_note))
        baselines[name] = cost_of(found.baseline), memory[label]
    members = [member for found in speeds.values() for member in found.members]
    trained: list[Trained] = []
    if budget is not None:
        entrants = [_entrant(member.name, member.network) for member in members]
        trained = budget.train(entrants, folder / "runs", command=command, tell=tell)
    return ShareStudy(
        speeds=speeds,
        baselines=baselines,
        points=tuple(
            Point(
                member=member,
                cost=cost_of(member.network),
                memory=memory[member.name],
                trained=tuple(result for result in trained if result.name == member.name),
            )
            for member in members
        ),
        speed_settings=how,
        budget=budget,
        command=command,
        environment=environment(),
    )


def _entrant(name: str, network: Subnetwork) -> Entrant:
    return Entrant(name=name, make=network.make, description={"network": network.to_dict()})


def _plain(point: Point) -> dict[str, Any]:
    member = point.member
    return {
        "name": member.name,
        **member.network.to_dict(),
        "target_speed": member.curve.speed,
        "speed": member.speed._asdict(),
        "achieved": member.achieved,
        "search": member.search.to_dict(),
        **asdict(point.cost),
        "memory": asdict(point.memory),
        "trainings": [result.to_dict() for result in point.trained],
    }
