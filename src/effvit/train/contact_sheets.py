"""Pictures side by side with what a network says of them: its surest mistakes, its least sure predictions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from matplotlib.figure import Figure
from PIL import Image

from effvit.data.pictures import read_sample
from effvit.data.samples import Sample
from effvit.errors import DataError
from effvit.train.evaluation import Evaluation
from effvit.train.figures import save_figure, shorten

_COLUMNS = 5
_PIXELS = 320
"""Longest side of a picture in a sheet."""
_MAX_FILE_NAME = 34


class Shown(NamedTuple):
    """A picture of a sheet and its caption."""

    sample: Sample
    true: str
    target_probability: float
    predicted: str
    predicted_probability: float


def shown(evaluation: Evaluation, positions: Sequence[int]) -> list[Shown]:
    """What a sheet says of the pictures at some positions."""
    return [
        Shown(
            sample=evaluation.samples[position],
            true=evaluation.class_names[evaluation.targets[position]],
            target_probability=float(evaluation.target_probabilities[position]),
            predicted=evaluation.class_names[evaluation.predicted[position]],
            predicted_probability=float(evaluation.predicted_probabilities[position]),
        )
        for position in positions
    ]


def write_worst(path: Path, evaluation: Evaluation, *, num_pictures: int = 20) -> None:
    """Draw the mistakes the network was surest of, each with its true and its predicted class."""
    worst = shown(evaluation, evaluation.surest_mistakes(num_pictures).tolist())
    num_mistakes = int((~evaluation.right).sum())
    heading = f"The {len(worst)} surest of {num_mistakes} mistakes among {evaluation.num_pictures} pictures"
    _write_sheet(path, worst, heading if worst else f"No mistakes among {evaluation.num_pictures} pictures")


def write_least_sure(path: Path, evaluation: Evaluation, *, num_pictures: int = 20) -> None:
    """Draw the pictures the network was least sure of, right or wrong."""
    least = shown(evaluation, evaluation.least_sure(num_pictures).tolist())
    num_right = sum(entry.true == entry.predicted for entry in least)
    heading = f"The {len(least)} least sure of {evaluation.num_pictures} predictions: {num_right} of them are right"
    _write_sheet(path, least, heading)


def thumbnails(entries: Sequence[Shown], side: int) -> Iterator[Image.Image | None]:
    """The pictures, no side longer than `side` pixels; None for one that is there no more."""
    for entry in entries:
        try:
            photo = read_sample(entry.sample)
        except DataError:
            yield None
            continue
        photo.thumbnail((side, side))
        yield photo


def file_name(name: str) -> str:
    """The end of a picture's name, with the folder if there is room."""
    end = "/".join(Path(name).parts[-2:])
    if len(end) > _MAX_FILE_NAME:
        end = Path(name).name
    return end if len(end) <= _MAX_FILE_NAME else "…" + end[1 - _MAX_FILE_NAME :]


def _write_sheet(path: Path, entries: Sequence[Shown], heading: str) -> None:
    columns = min(max(len(entries), 2), _COLUMNS)  # two even for none: the heading needs the width
    rows = max(-(-len(entries) // columns), 1)
    figure = Figure(figsize=(2.6 * columns, 3.3 * rows + 0.5), layout="constrained")
    figure.suptitle(heading)
    all_axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in all_axes:
        axes.set_axis_off()
    for axes, entry, photo in zip(all_axes, entries, thumbnails(entries, _PIXELS), strict=False):
        if photo is not None:
            axes.imshow(photo)
        axes.set_title(
            f"true: {shorten(entry.true)} ({entry.target_probability:.0%})\n"
            f"said: {shorten(entry.predicted)} ({entry.predicted_probability:.0%})\n"
            f"{file_name(entry.sample.name)}",
            fontsize=7,
            loc="left",
            parse_math=False,
        )
    save_figure(figure, path, dpi=110)
