"""How far several trainings are, and how long the rest will take."""

from __future__ import annotations

import time
from typing import NamedTuple

from effvit.train.records import StepReport


class StudyStep(NamedTuple):
    """Where all the trainings are, after a step of one of them."""

    name: str
    """The entrant's."""
    seed: int
    """Its seed."""
    run: int
    """From 1, among those that were not finished at the beginning."""
    num_runs: int
    """How many those are."""
    step: StepReport
    """Where this one is."""
    share_done: float
    """Of all their epochs, 0..1."""
    seconds_left: float | None
    """For all of them, if the rest goes as fast; None before anything can be said."""


class StudyClock:
    """How much of the missing runs is done, and how long the rest takes at the pace so far."""

    def __init__(self, num_runs: int) -> None:
        self._num_runs, self._run = num_runs, 0
        self._started = time.monotonic()
        self._name, self._seed = "", 0
        self._found: float | None = None
        self._found_before = 0.0

    def begin(self, name: str, seed: int) -> None:
        """The next run begins."""
        self._run += 1
        self._name, self._seed, self._found = name, seed, None

    def at(self, step: StepReport) -> StudyStep:
        """Where everything is."""
        epochs = step.epoch - 1 + (step.step / step.num_steps if step.phase == "train" else 1.0)
        share = epochs / step.num_epochs
        if self._found is None:
            # What was there from an interrupted run took no time now.
            first = 1 / step.num_steps / step.num_epochs if step.phase == "train" else 0.0
            self._found = share - first
            self._found_before += self._found
        done = self._run - 1 + share
        gained = done - self._found_before
        left = None
        if gained > 0:
            left = (time.monotonic() - self._started) / gained * (self._num_runs - done)
        return StudyStep(self._name, self._seed, self._run, self._num_runs, step, done / self._num_runs, left)
