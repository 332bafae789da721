"""How far several trainings are: a bar over all of them where somebody watches, and a line for each that ended."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from effvit.cli.render import cell, log, say

if TYPE_CHECKING:
    from effvit.studies.progress import StudyStep
    from effvit.studies.training import Trained


class StudyProgress:
    """Listens to `effvit.studies.training.train_all`, and to the measurements around it."""

    def __init__(self) -> None:
        console = log()
        self._bar = Progress(
            TextColumn("{task.fields[run]}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %,"),
            TimeElapsedColumn(),
            TextColumn("gone{task.fields[left]}"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._left = ""
        self._task = self._bar.add_task("", total=1.0, run="...", left="")
        self._trained_now: set[tuple[str, int]] = set()

    def __enter__(self) -> StudyProgress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def on_step(self, at: StudyStep) -> None:
        """Move the bar."""
        self._trained_now.add((at.name, at.seed))
        self._left = "" if at.seconds_left is None else duration(at.seconds_left)
        run = f"training {at.run} of {at.num_runs}, {at.name}, epoch {at.step.epoch}"
        left = f", {self._left} left" if self._left else ""
        self._bar.update(self._task, completed=at.share_done, run=cell(run), left=left)

    def on_round(self, done: int, total: int) -> None:
        """Move the bar over a measurement that comes before the trainings."""
        self._bar.update(self._task, completed=done / total, run="measuring speed", left="")

    def on_run(self, result: Trained) -> None:
        """Print a training that ended now; those that were there are not news."""
        if (result.name, result.seed) not in self._trained_now:
            return
        outcome = f"top-1 {result.top1:.2%}" if result.top1 is not None else f"failed: {result.failure}"
        seconds = sum(record.seconds for record in result.epochs)
        say(f"{result.name}, seed {result.seed}: {outcome}, {duration(seconds)}; {self._left or '?'} left in all")


def duration(seconds: float) -> str:
    """`45 s`, `12 min`, `3 h 20 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"
