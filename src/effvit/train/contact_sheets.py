"""Pictures side by side with what a network says of them: its surest mistakes, its least sure predictions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from PIL import Image, ImageOps

from effvit.data.drawing import save_figure, shorten
from effvit.data.pictures import read_sample
from effvit.data.samples import Sample, one_line
from effvit.errors import DataError
from effvit.train.evaluation import Evaluation

_COLUMNS = 5
_PIXELS = 240
"""Longest side of a picture in a sheet; all lengths are in pixels."""
_GAP = 12
_CAPTION = 46
_HEADING = 44
_DPI = 110
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
    return one_line(end if len(end) <= _MAX_FILE_NAME else "…" + end[1 - _MAX_FILE_NAME :])


def _write_sheet(path: Path, entries: Sequence[Shown], heading: str) -> None:
    """Paste the pictures onto one canvas and write beside it: an axes each would take ten times as long."""
    columns = min(max(len(entries), 2), _COLUMNS)  # two even for none: the heading needs the width
    rows = -(-len(entries) // columns)
    cell_height = _PIXELS + _CAPTION + _GAP
    width, height = columns * (_PIXELS + _GAP) + _GAP, _HEADING + rows * cell_height
    canvas = Image.new("RGB", (width, height), "white")
    figure = Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI)
    figure.text(0.5, 1 - 0.5 * _HEADING / height, heading, ha="center", va="center", fontsize=11)
    for index, (entry, photo) in enumerate(zip(entries, thumbnails(entries, _PIXELS), strict=True)):
        row, column = divmod(index, columns)
        left, top = _GAP + column * (_PIXELS + _GAP), _HEADING + row * cell_height
        if photo is not None:
            canvas.paste(ImageOps.contain(photo, (_PIXELS, _PIXELS)), (left, top + _CAPTION))
        figure.text(left / width, 1 - top / height, _caption(entry), va="top", fontsize=6.5, parse_math=False)
    figure.figimage(np.asarray(canvas), origin="upper")
    save_figure(figure, path, dpi=_DPI, tight=False)


def _caption(entry: Shown) -> str:
    return (
        f"true: {shorten(entry.true)} ({entry.target_probability:.0%})\n"
        f"said: {shorten(entry.predicted)} ({entry.predicted_probability:.0%})\n"
        f"{file_name(entry.sample.name)}"
    )
