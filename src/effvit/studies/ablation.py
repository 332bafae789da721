"""Table 6 and Figure 7 made anew: every row plain and at the base's measured speed, its cost, speed and accuracy.

One function over one folder:

    widths/       the widths of the rescaled rows, and how they were found
    speed.json    everybody's speed, measured in turns; exported/ has the ONNX files
    runs/         a run folder for each network and seed

Everything that is there is taken from there, so the study may be interrupted at any moment, and several commands may
train parts of it side by side. What it was made with must not change; more rows and more seeds may come.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch

from effvit.analysis.ablations import BASE, Ablation
from effvit.analysis.cost import count_costs
from effvit.analysis.scaling import Match
from effvit.environment import environment
from effvit.errors import ConfigError
from effvit.files import make_output_folder
from effvit.model.config import EfficientViTConfig
from effvit.model.network import EfficientViT
from effvit.studies.ablation_speed import Speeds, measure_speeds
from effvit.studies.ablation_widths import SpeedSettings, find_widths
from effvit.studies.budget import Budget
from effvit.studies.listeners import Listeners
from effvit.studies.training import Entrant, Trained


@dataclass(frozen=True, kw_only=True)
class Version:
    """A row at the base's widths, or at those that give it the base's speed."""

    ablation: Ablation
    """The row."""
    rescaled: bool
    """Whether the widths are scaled."""
    percent: int
    """To what, in percent of the base's."""
    config: EfficientViTConfig
    """The network; its name is unique in a study."""
    num_params: int
    """Parameters, with as many classes as the pictures have."""
    num_macs: int
    """Multiply-accumulates of one picture of the study's size."""

    @property
    def entrant(self) -> Entrant:
        """The network as it is trained; a row whose scaled widths are the base's is trained once."""
        key = self.ablation.key
        name = (f"row{key}" if key.isdigit() else key) + ("" if self.percent == 100 else f"-at-{self.percent}")
        config = self.config
        return Entrant(name=name, make=lambda: EfficientViT(config), description={"network": config.to_dict()})


@dataclass(frozen=True, kw_only=True)
class AblationStudy:
    """What came out."""

    base: EfficientViTConfig
    """The network that the rows change."""
    versions: tuple[Version, ...]
    """The rows in the paper's order, plain and then rescaled."""
    matches: Mapping[str, Match | str]
    """Key of a row -> how its scaled widths were found, or why there are none; empty where nothing was rescaled."""
    speed_settings: SpeedSettings
    """How speed was measured."""
    speeds: Speeds | None
    """By names of configurations; None where it was left out."""
    speed_records: Mapping[str, Any] = field(default_factory=dict)
    """All samples, by runtime."""
    budget: Budget | None
    """What was trained on; None where nothing was."""
    trained: tuple[Trained, ...] = ()
    """Every training."""
    command: str = ""
    """The command line."""
    environment: Mapping[str, Any]
    """The machine that wrote the report; the runs and the speeds have their own."""

    def trainings(self, version: Version) -> list[Trained]:
        """The trainings of a network, a seed each."""
        return [result for result in self.trained if result.name == version.entrant.name]

    def top1(self, version: Version) -> dict[int, float]:
        """Seed -> share of right predictions after the last epoch, 0..1; failed trainings are left out."""
        return {r.seed: r.top1 for r in self.trainings(version) if r.top1 is not None}

    @property
    def base_version(self) -> Version:
        """Row 1."""
        return self.versions[0]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: everything in the tables, unrounded, and what it was made with."""
        return {
            "analysis": "ablations",
            "command": self.command,
            "environment": dict(self.environment),
            "base": self.base.to_dict(),
            "training": None if self.budget is None else self.budget.to_dict(),
            "speed": asdict(self.speed_settings),
            "networks": [self._network(version) for version in self.versions],
            "not_rescaled": {key: reason for key, reason in self.matches.items() if isinstance(reason, str)},
            "not_measured": {} if self.speeds is None else self.speeds.missing,
            "measurements": dict(self.speed_records),
        }

    def _network(self, version: Version) -> dict[str, Any]:
        ablation, name = version.ablation, version.config.name
        match = self.matches.get(ablation.key) if version.rescaled else None
        eager = None if self.speeds is None else self.speeds.eager.get(name)
        onnx = None if self.speeds is None else self.speeds.onnx.get(name)
        return {
            "row": ablation.key,
            "text": ablation.text,
            "changes": dict(ablation.changes),
            "rescaled": version.rescaled,
            "percent": version.percent,
            "widths": [stage.width for stage in version.config.stages],
            "num_params": version.num_params,
            "num_macs": version.num_macs,
            "eager": eager and eager.to_dict(),
            "onnx": onnx and onnx.to_dict(),
            "match": match.to_dict() if isinstance(match, Match) else None,
            "trainings": [result.to_dict() for result in self.trainings(version)],
            "paper": asdict(ablation.reported),
        }


def study_ablations(
    base: EfficientViTConfig,
    ablations: Sequence[Ablation],
    folder: Path | str,
    *,
    budget: Budget | None = None,
    rescale: bool = True,
    speeds: bool = True,
    speed_settings: SpeedSettings | None = None,
    command: str = "",
    listeners: Listeners | None = None,
) -> AblationStudy:
    """Make the rows, find their widths, measure their speed, train them; whatever is in the folder is taken as it is.

    Args:
        base: A network of the family, at the study's picture size and number of classes.
        ablations: From `find_ablations`; the base's row is the first.
        folder: Where everything is kept.
        budget: What to train on; None for cost and speed alone.
        rescale: Whether each row comes at the base's speed too.
        speeds: Whether speed is measured. The search of widths measures on its own, in processor time.
        speed_settings: How.
        command: The command line, for the records.
        listeners: Whom to tell.

    Raises:
        ConfigError: If the base is no network of the family, or its classes are not the pictures'.
        RunError: If the folder holds something that was made with other settings, or every training failed.
        DataError: If too many pictures cannot be read.
    """
    tell, how = listeners or Listeners(), speed_settings or SpeedSettings()
    _check(base, ablations, budget)
    plain = plan_versions(base, ablations)
    folder = make_output_folder(folder)
    matches: dict[str, Match | str] = {}
    if rescale and len(ablations) > 1:
        tell.on_note("looking for the widths at which the rows are as fast as the base")
        matches = find_widths(
            ablations, base, folder / "widths", how, on_row=lambda row, found: tell.on_note(_found(row, found))
        )
    versions = []
    for version in plain:
        versions.append(version)
        match = matches.get(version.ablation.key)
        if isinstance(match, Match):
            versions.append(_version(version.ablation, base, match.width, rescaled=True))
    found: Speeds | None = None
    records: dict[str, Any] = {}
    if speeds:
        different = {version.config.name: version.config for version in versions}
        found, records = measure_speeds(
            list(different.values()), folder, how, command=command, on_round=tell.on_round, on_step=tell.on_note
        )
    trained: list[Trained] = []
    if budget is not None:
        entrants = {version.entrant.name: version.entrant for version in versions}
        trained = budget.train(list(entrants.values()), folder / "runs", command=command, tell=tell)
    return AblationStudy(
        base=base,
        versions=tuple(versions),
        matches=matches,
        speed_settings=how,
        speeds=found,
        speed_records=records,
        budget=budget,
        trained=tuple(trained),
        command=command,
        environment=environment(),
    )


def plan_versions(base: EfficientViTConfig, ablations: Sequence[Ablation]) -> list[Version]:
    """The rows at the base's widths: what can be said of a study before anything is measured."""
    return [_version(ablation, base, 100, rescaled=False) for ablation in ablations]


def _version(ablation: Ablation, base: EfficientViTConfig, percent: int, *, rescaled: bool) -> Version:
    config = ablation.config(base, percent=percent)
    num_params, num_macs = _cost_of(config)
    return Version(
        ablation=ablation,
        rescaled=rescaled,
        percent=percent,
        config=config,
        num_params=num_params,
        num_macs=num_macs,
    )


@cache
def _cost_of(config: EfficientViTConfig) -> tuple[int, int]:
    """Parameters and multiply-accumulates of one picture; counting takes a third of a second."""
    with torch.device("meta"):
        network = EfficientViT(config).eval()
    costs = count_costs(network, (config.in_channels, *config.image_size))
    return costs.num_params, costs.num_macs


def _check(base: EfficientViTConfig, ablations: Sequence[Ablation], budget: Budget | None) -> None:
    if not ablations or ablations[0].key != BASE.key:
        raise ConfigError(f"a study of ablations begins with row {BASE.key}, got {[row.key for row in ablations]}")
    if budget is not None:
        budget.check("the network", base.num_classes, base.image_size)


def _found(ablation: Ablation, match: Match | str) -> str:
    if isinstance(match, str):
        return f"row {ablation.key}, {ablation.text}: not rescaled: {match}"
    speed = match.confirmed.speed.median
    return f"row {ablation.key}, {ablation.text}: widths at {match.width} % have {speed:.3f} times the base's speed"
