"""Whom a study tells how far it is: measurements, trainings and what was found take hours."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from effvit.studies.progress import StudyStep
from effvit.studies.training import Trained


@dataclass(frozen=True, kw_only=True)
class Listeners:
    """Each may be left out."""

    on_note: Callable[[str], None] = lambda _: None
    """Told in a line what was found or begins."""
    on_round: Callable[[int, int], None] | None = None
    """Told (done, total) while speeds are measured."""
    on_step: Callable[[StudyStep], None] | None = None
    """Told where the trainings are after every step."""
    on_run: Callable[[Trained], None] | None = None
    """Told of every training that ended."""
