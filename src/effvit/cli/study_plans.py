"""What the verbs that train many networks ask for in the same way: seeds, settings, photos, and who is told."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from effvit.cli.options import assignments_of
from effvit.errors import ConfigError

if TYPE_CHECKING:
    from effvit.cli.plans import TrainingPlan
    from effvit.cli.study_progress import StudyProgress
    from effvit.studies.listeners import Listeners

RECIPE = "scratch_small"
"""Where settings come from unless another recipe is named."""

Data = Annotated[str | None, typer.Option(help="Photos to train on, as `effvit train` takes them.", metavar="DATA")]
Epochs = Annotated[int | None, typer.Option(help="Passes over the photos.", show_default="the recipe's")]
Seeds = Annotated[str, typer.Option(help="Each network is trained with each of these.")]
Recipe = Annotated[str, typer.Option(help="Other settings of the training, see `effvit recipes`.")]
Settings = Annotated[
    list[str] | None, typer.Option("--set", help="Any other setting: field=value, augmentation.field=value.")
]
SpeedBatch = Annotated[int, typer.Option(help="Pictures per call where speed is measured.")]
Threads = Annotated[int, typer.Option(help="Threads within an operator.")]
StudyWorkers = Annotated[int | None, typer.Option(help="Processes that decode photos.", show_default="the recipe's")]
Train = Annotated[bool, typer.Option(help="Train what is missing; --no-train reports what is finished.")]
Folder = Annotated[Path | None, typer.Option(help="Folder of the study.", metavar="DIR")]


def parse_seeds(text: str) -> tuple[int, ...]:
    """`0,1` -> (0, 1).

    Raises:
        ConfigError: If it is anything but different whole numbers from 0 up.
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(re.fullmatch(r"\d+", part) for part in parts) or len(set(map(int, parts))) != len(parts):
        raise ConfigError(f"--seeds must be different whole numbers with commas between them, got {text!r}")
    return tuple(map(int, parts))


def plan_study(
    data: str | None,
    flags: Mapping[str, Any],
    settings: Sequence[str],
    recipe: str,
    *,
    decided: Mapping[str, str] | None = None,
) -> TrainingPlan:
    """Settings and photos of a study, and the network that its flags name.

    Args:
        data: The photos; None for none.
        flags: As `assignments_of` takes them.
        settings: What `--set` says.
        recipe: Where the other settings come from.
        decided: Field -> who decides it: what `--set` would have no effect on.

    Raises:
        ConfigError: If a setting is not allowed, would have no effect, or there is a teacher.
        DataError: If the photos cannot be used.
    """
    from effvit.cli.plans import plan_training

    for field, who in {"seed": "--seeds", **(decided or {})}.items():
        if any(text.partition("=")[0].strip() == field for text in settings):
            raise ConfigError(f"--set {field} has no effect here: {who} decides it")
    plan = plan_training(data, assignments_of(flags, settings), weights=None, recipe=recipe)
    if plan.config.distillation.teacher:
        raise ConfigError("a study trains on labels alone; leave out the teacher")
    return plan


def listeners_of(bar: StudyProgress) -> Listeners:
    """Notes on the log, the rest on the bar."""
    from effvit.cli.render import say
    from effvit.studies.listeners import Listeners

    return Listeners(on_note=say, on_round=bar.on_round, on_step=bar.on_step, on_run=bar.on_run)
