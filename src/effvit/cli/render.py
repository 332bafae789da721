"""Results to the screen: tables for people on stdout, JSON for programs, progress on stderr."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from effvit.data.samples import one_line

if TYPE_CHECKING:
    from effvit.train.records import EpochFacts, StepReport

T = TypeVar("T")

SPEAKS = os.environ.get("RANK", "0") == "0"
"""Whether this process is the one that speaks for all that `torchrun` started."""

_SLOW_LOADER_SHARE = 0.5
"""Share of an epoch's time spent waiting for pictures from which on it is said."""


def out() -> Console:
    """Where results go. Wide when nobody watches: a table in a file must not be folded."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=160)


def log() -> Console:
    """Where everything about the work goes."""
    return Console(stderr=True, highlight=False, soft_wrap=True)


def say(text: str) -> None:
    """One line about the work; of several processes that train together only the first speaks."""
    if SPEAKS:
        log().print(cell(text))


def cell(name: object) -> str:
    """A class or a file for a table or a line of text: nothing in its name is taken for markup or for a command."""
    return escape(one_line(name))


def emit(value: T, table: Callable[[T], Table | str], as_json: bool) -> None:
    """Print a result, as JSON or as a table."""
    if as_json:
        print(json.dumps(value, indent=2, ensure_ascii=False))
        return
    rendered = table(value)
    if isinstance(rendered, str):
        print(rendered)
    else:
        out().print(rendered)


def models_table(rows: Sequence[dict[str, Any]]) -> Table:
    """The paper's networks and their published facts."""
    table = _table("name", "params", "MACs at 224", "top-1 %", "top-5 %", "V100 img/s")
    for row in rows:
        table.add_row(
            row["name"],
            f"{row['num_params']:,}",
            f"{row['num_macs'] / 1e6:.1f} M",
            f"{row['top1']:.1f}",
            f"{row['top5']:.1f}",
            f"{row['v100_images_per_second']:,}",
        )
    table.caption = (
        "accuracy and speed as published (ImageNet-1k; V100, fp16, batch 2048);"
        " efficientvit_tiny is there too, for tests"
    )
    return table


def models_markdown(rows: Sequence[dict[str, Any]]) -> str:
    """The same as Markdown: the table in the README is this."""
    lines = [
        "| network | parameters | MACs at 224 | top-1 % | top-5 % | V100 images/s |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        lines.append(
            f"| `{row['name']}` | {row['num_params']:,} | {row['num_macs'] / 1e6:.1f} M | {row['top1']:.1f} |"
            f" {row['top5']:.1f} | {row['v100_images_per_second']:,} |"
        )
    return "\n".join(lines)


def evaluation_table(summary: dict[str, Any]) -> Table:
    """Scores over all, then the classes, the least recognised first."""
    table = _table("class", "pictures", "recall %", "precision %", "F1 %")
    present = [row for row in summary["per_class"] if row["num_pictures"]]
    hardest = sorted(present, key=lambda row: row["f1"] or 0)
    shown = hardest[:10]
    for row in shown:
        percent = ("" if row[key] is None else f"{row[key]:.1%}".rstrip("%") for key in ("recall", "precision", "f1"))
        table.add_row(cell(row["name"]), str(row["num_pictures"]), *percent)
    table.title = scores(summary)
    notes = [
        f"macro F1 {summary['macro_f1']:.1%}{_interval(summary, 'macro_f1')}",
        f"calibration error {summary['calibration']['ece']:.1%}{_interval(summary, 'ece')}",
        "(in brackets: 95 % intervals)",
    ]
    if len(hardest) > len(shown):
        notes.insert(0, f"the {len(shown)} hardest of {len(hardest)} classes; all are in summary.json")
    table.caption = "\n".join(notes)
    return table


def scores(summary: dict[str, Any]) -> str:
    """Accuracy in one line."""
    parts = [f"top-1 {summary['top1']:.2%}{_interval(summary, 'top1')}"]
    if summary["top5"] is not None:
        parts.append(f"top-5 {summary['top5']:.2%}{_interval(summary, 'top5')}")
    unreadable = f", {summary['num_unreadable']} unreadable" if summary["num_unreadable"] else ""
    return f"{', '.join(parts)} of {summary['num_pictures']} pictures{unreadable}"


def _interval(summary: dict[str, Any], score: str) -> str:
    """The 95 % interval of a score in brackets, in percent."""
    found = summary["intervals_95"][score]
    return f" ({100 * found['low']:.1f}-{100 * found['high']:.1f})"


def exported_text(values: dict[str, Any]) -> str:
    """What was written, and the proof, in one line."""
    size = f"{values['path']}: {values['num_bytes'] / 2**20:.1f} MiB; "
    checked = values["verification"]
    if checked is None:
        return f"{size}{values['verified']}; its answers were NOT compared with the network's"
    allowed = f" (allowed {checked['tolerance']:.0e})" if checked["measure"] == "error" else ""
    accuracy = ""
    if checked["top1_reference"] is not None:
        accuracy = f"; top-1 {checked['top1_reference']:.2%} before, {checked['top1_candidate']:.2%} in the file"
    return (
        f"{size}run and compared with the network on {values['compared_on']}: same first class on"
        f" {checked['top1_agreement']:.2%}, largest error {checked['max_rel_error']:.1e} of the largest logit"
        f"{allowed}{accuracy}"
    )


def formats_table(rows: Sequence[dict[str, Any]]) -> Table:
    """What can be exported to, and how each file is checked."""
    table = _table("format", "suffix", "precisions", "batch", "checked", "install", "here")
    for row in rows:
        table.add_row(
            row["name"],
            row["suffix"],
            ", ".join(row["precisions"]),
            "" if not row["suffix"] else "any" if row["dynamic_batch"] else "fixed",
            row["verified"],
            "" if row["extra"] is None else escape(f"effvit[{row['extra']}]"),
            escape(row["obstacle"] or "yes"),
        )
    table.caption = "a fixed number of pictures per call can be asked for in every format: --batch N"
    return table


def predictions_table(rows: Sequence[dict[str, Any]]) -> Table:
    """The most probable classes of each picture."""
    table = _table("picture", "class", "probability %")
    for row in rows:
        if row["error"]:
            table.add_row(cell(row["path"]), "unreadable", "")
        for position, entry in enumerate(row["classes"]):
            name = cell(row["path"]) if position == 0 else ""
            table.add_row(name, cell(entry["name"]), f"{100 * entry['probability']:.1f}")
    return table


def _table(*columns: str) -> Table:
    table = Table(title_justify="left", caption_justify="left")
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right", overflow="fold")
    return table


@contextmanager
def progress(label: str) -> Iterator[Callable[[int, int], None]]:
    """A bar with time left on stderr; gives the function (done, total) that moves it."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = log()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(label, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


@contextmanager
def steps() -> Iterator[Callable[[str], None]]:
    """What is being done, with the time it takes, on stderr; gives the function that is told the next step."""
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    console = log()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=None)
        yield lambda text: bar.reset(task, description=text)


class TrainingProgress:
    """A bar over all epochs, and a line for each finished one."""

    def __init__(self) -> None:
        self._console = log()
        self._bar = Progress(
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %, loss {task.fields[loss]}, {task.fields[rate]} img/s,"),
            TimeElapsedColumn(),
            TextColumn("gone,"),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=self._console,
            transient=True,
            disable=not (SPEAKS and self._console.is_terminal),
        )
        self._loader_was_named = False
        self._task = self._bar.add_task("", total=None, epoch="1", loss="...", rate="...")

    def __enter__(self) -> TrainingProgress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def on_step(self, step: StepReport) -> None:
        """Move the bar."""
        if step.phase == "train":
            done = (step.epoch - 1) * step.num_steps + step.step
            epoch = f"{step.epoch}/{step.num_epochs}"
            self._bar.update(self._task, completed=done, total=step.num_epochs * step.num_steps, epoch=epoch)
            if step.loss is not None:  # a GPU's is read now and then
                self._bar.update(self._task, loss=f"{step.loss:.3f}")

    def on_epoch(self, record: EpochFacts) -> None:
        """Print the epoch."""
        self._bar.update(self._task, rate=f"{record.pictures_per_second:.0f}")
        unreadable = f"  {record.num_unreadable} unreadable, see unreadable.txt" if record.num_unreadable else ""
        self._console.print(
            f"epoch {record.epoch:3d}  {record.scores_text}"
            f"  train loss {record.train_loss:.3f}  {record.pictures_per_second:5.0f} img/s"
            f"  {record.seconds:5.1f} s{unreadable}"
        )
        if record.waiting_share > _SLOW_LOADER_SHARE and not self._loader_was_named:
            self._loader_was_named = True
            self._console.print(
                f"  {record.waiting_share:.0%} of this epoch's time was waiting for pictures: the loader is the limit,"
                " not the network; more --workers help as far as there are cores"
            )
