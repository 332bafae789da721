"""Pictures of a data set on one page, to look at before training: each class, duplicates, near-empty ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
from PIL import Image

from effvit.data.check import CheckedPicture, DataReport, Duplicates, PicturesReport
from effvit.data.drawing import save_figure, shorten
from effvit.data.pictures import read_sample

if TYPE_CHECKING:
    from matplotlib.figure import Figure

T = TypeVar("T")

MAX_CLASSES = 200
_MAX_FINDINGS = 40
"""Duplicates, and near-empty pictures, that are shown; the table and the JSON have all."""
_GAP = 4
_LABEL = 18
"""Height of a line of text, in pixels."""
_DPI = 100


class Cell(NamedTuple):
    """Pictures side by side under one label; those there is no room for are not asked for."""

    label: str
    pictures: Sequence[Callable[[int], Image.Image]]
    """Each gives its picture with the longest side that is asked for, in pixels."""


class Section(NamedTuple):
    """Cells under one title."""

    title: str
    cells: Sequence[Cell]


class Grid(NamedTuple):
    """How much of what is on the page."""

    columns: int = 4
    """Cells side by side."""
    per_cell: int = 5
    """Pictures in a cell."""
    thumb: int = 96
    """Longest side of a picture, in pixels."""


def write_contact_sheet(path: Path, report: DataReport) -> None:
    """Draw some pictures of each class, the duplicates side by side, and the near-empty pictures, as PNG.

    At most 200 classes and 40 groups of duplicates are shown, and the page says so.

    Raises:
        RunError: If the place cannot be written.
    """
    grid = Grid()
    write_sections(path, [_classes(report, grid), *findings(report)], grid)


def write_sections(path: Path, sections: Sequence[Section], grid: Grid) -> None:
    """Draw sections below each other, as PNG; those without cells are left out.

    Raises:
        RunError: If the place cannot be written.
    """
    from matplotlib.figure import Figure

    sections = [section for section in sections if section.cells]
    cell_width, cell_height = grid.per_cell * (grid.thumb + _GAP), _LABEL + grid.thumb + _GAP
    width = grid.columns * (cell_width + 4 * _GAP)
    heights = [2 * _LABEL + -(-len(section.cells) // grid.columns) * cell_height for section in sections]
    height = sum(heights) + _GAP
    canvas = Image.new("RGB", (width, height), "white")
    figure = Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI)
    top = 0
    for section, section_height in zip(sections, heights, strict=True):
        _write(figure, section.title, _GAP, top + 1.2 * _LABEL, size=11, weight="bold")
        for index, cell in enumerate(section.cells):
            row, column = divmod(index, grid.columns)
            left = column * (cell_width + 4 * _GAP) + _GAP
            upper = top + 2 * _LABEL + row * cell_height
            _write(figure, cell.label, left, upper + 0.75 * _LABEL, size=7)
            for position, picture in enumerate(cell.pictures[: grid.per_cell]):
                canvas.paste(picture(grid.thumb), (left + position * (grid.thumb + _GAP), upper + _LABEL))
        top += section_height
    figure.figimage(np.asarray(canvas), origin="upper")
    save_figure(figure, path, dpi=_DPI, tight=False)


def findings(report: PicturesReport) -> list[Section]:
    """The duplicates side by side, and the near-empty pictures."""
    num_groups = len(report.duplicates)
    groups = [
        Cell(_label(group), [partial(_thumbnail, picture) for picture in group.pictures])
        for group in report.duplicates[:_MAX_FINDINGS]
    ]
    empty = [
        Cell(shorten(picture.name), [partial(_thumbnail, picture)]) for picture in report.near_empty[:_MAX_FINDINGS]
    ]
    return [
        Section(f"{min(num_groups, _MAX_FINDINGS)} of {num_groups} groups of duplicates, leaks first", groups),
        Section(f"{len(empty)} of {len(report.near_empty)} near-empty pictures", empty),
    ]


def spread(pictures: Sequence[T], count: int) -> list[T]:
    """Some pictures from the whole of a class: neighbours in a list are often of one series."""
    step = max(len(pictures) / count, 1)
    return [pictures[int(index * step)] for index in range(min(count, len(pictures)))]


def classes_title(num_classes: int) -> str:
    """How many classes are shown."""
    shown = f"the first {MAX_CLASSES} of {num_classes}" if num_classes > MAX_CLASSES else f"{num_classes}"
    return f"{shown} classes"


def _classes(report: DataReport, grid: Grid) -> Section:
    by_class: dict[str, list[CheckedPicture]] = {name: [] for name in report.data.class_names}
    for picture in report.readable:
        by_class[picture.class_name].append(picture)
    cells = [
        Cell(
            # Numbers first: behind a name that is written from right to left they would turn around with it.
            f"{count.num_train} train, {count.num_val} val: {shorten(count.name)}",
            [partial(_thumbnail, picture) for picture in spread(by_class[count.name], grid.per_cell)],
        )
        for count in report.classes[:MAX_CLASSES]
    ]
    return Section(classes_title(len(report.data.class_names)), cells)


def _label(group: Duplicates) -> str:
    words = [group.kind, *(["LEAK"] if group.leaks else []), *(["CONTRADICTION"] if group.contradicts else [])]
    places = sorted({f"{picture.part}/{shorten(picture.class_name)}".strip("/") for picture in group.pictures})
    return f"{' '.join(words)}, {len(group.pictures)}: {', '.join(places[:2])}"


def _thumbnail(picture: CheckedPicture, side: int) -> Image.Image:
    photo = read_sample(picture.sample)
    photo.thumbnail((side, side))
    return photo


def _write(figure: Figure, text: str, left: float, baseline: float, **style: Any) -> None:
    """Text at a place in pixels from the upper left corner."""
    width, height = (side * _DPI for side in figure.get_size_inches())
    figure.text(left / width, 1 - baseline / height, text, parse_math=False, **style)
