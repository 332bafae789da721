"""Pictures of a data set on one page, to look at before training: each class, duplicates, near-empty ones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image

from effvit.data.check import CheckedPicture, DataReport, Duplicates
from effvit.data.drawing import save_figure, shorten
from effvit.data.pictures import read_sample

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PER_CELL = 5
"""Pictures side by side under one label."""
_THUMB = 96
"""Longest side of a picture on the page, in pixels."""
_GAP = 4
_LABEL = 18
"""Height of a line of text, in pixels."""
_CELL_COLUMNS = 4
_MAX_CLASSES = 200
_MAX_FINDINGS = 40
"""Duplicates, and near-empty pictures, that are shown; the table and the JSON have all."""
_DPI = 100


class _Cell(NamedTuple):
    label: str
    pictures: Sequence[CheckedPicture]


class _Section(NamedTuple):
    title: str
    cells: Sequence[_Cell]


def write_contact_sheet(path: Path, report: DataReport) -> None:
    """Draw some pictures of each class, the duplicates side by side, and the near-empty pictures, as PNG.

    At most 200 classes and 40 groups of duplicates are shown, and the page says so.

    Raises:
        RunError: If the place cannot be written.
    """
    from matplotlib.figure import Figure

    sections = [section for section in _sections(report) if section.cells]
    cell_width, cell_height = _PER_CELL * (_THUMB + _GAP), _LABEL + _THUMB + _GAP
    width = _CELL_COLUMNS * (cell_width + 4 * _GAP)
    heights = [2 * _LABEL + -(-len(section.cells) // _CELL_COLUMNS) * cell_height for section in sections]
    height = sum(heights) + _GAP
    canvas = Image.new("RGB", (width, height), "white")
    figure = Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI)
    top = 0
    for section, section_height in zip(sections, heights, strict=True):
        _write(figure, section.title, _GAP, top + 1.2 * _LABEL, size=11, weight="bold")
        for index, cell in enumerate(section.cells):
            row, column = divmod(index, _CELL_COLUMNS)
            left = column * (cell_width + 4 * _GAP) + _GAP
            upper = top + 2 * _LABEL + row * cell_height
            _write(figure, cell.label, left, upper + 0.75 * _LABEL, size=7)
            for position, picture in enumerate(cell.pictures[:_PER_CELL]):
                canvas.paste(_thumbnail(picture), (left + position * (_THUMB + _GAP), upper + _LABEL))
        top += section_height
    figure.figimage(np.asarray(canvas), origin="upper")
    save_figure(figure, path, dpi=_DPI, tight=False)


def _sections(report: DataReport) -> list[_Section]:
    num_classes = len(report.data.class_names)
    shown = f"the first {_MAX_CLASSES} of {num_classes}" if num_classes > _MAX_CLASSES else f"{num_classes}"
    by_class: dict[str, list[CheckedPicture]] = {name: [] for name in report.data.class_names}
    for picture in report.readable:
        by_class[picture.class_name].append(picture)
    classes = [
        # Numbers first: behind a name that is written from right to left they would turn around with it.
        _Cell(f"{count.num_train} train, {count.num_val} val: {shorten(count.name)}", _spread(by_class[count.name]))
        for count in report.classes[:_MAX_CLASSES]
    ]
    num_groups = len(report.duplicates)
    groups = [_Cell(_label(group), group.pictures) for group in report.duplicates[:_MAX_FINDINGS]]
    empty = [_Cell(shorten(picture.name), [picture]) for picture in report.near_empty[:_MAX_FINDINGS]]
    return [
        _Section(f"{shown} classes", classes),
        _Section(f"{min(num_groups, _MAX_FINDINGS)} of {num_groups} groups of duplicates, leaks first", groups),
        _Section(f"{len(empty)} of {len(report.near_empty)} near-empty pictures", empty),
    ]


def _spread(pictures: Sequence[CheckedPicture]) -> list[CheckedPicture]:
    """Some pictures from the whole of a class: neighbours in a list are often of one series."""
    step = max(len(pictures) / _PER_CELL, 1)
    return [pictures[int(index * step)] for index in range(min(_PER_CELL, len(pictures)))]


def _label(group: Duplicates) -> str:
    words = [group.kind, *(["LEAK"] if group.leaks else []), *(["CONTRADICTION"] if group.contradicts else [])]
    places = sorted({f"{picture.part}/{shorten(picture.class_name)}" for picture in group.pictures})
    return f"{' '.join(words)}, {len(group.pictures)}: {', '.join(places[:2])}"


def _thumbnail(picture: CheckedPicture) -> Image.Image:
    photo = read_sample(picture.sample)
    photo.thumbnail((_THUMB, _THUMB))
    return photo


def _write(figure: Figure, text: str, left: float, baseline: float, **style: Any) -> None:
    """Text at a place in pixels from the upper left corner."""
    width, height = (side * _DPI for side in figure.get_size_inches())
    figure.text(left / width, 1 - baseline / height, text, parse_math=False, **style)
