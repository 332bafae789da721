"""The pictures with the most mistakes on one sheet: what was found, what was missed, what was imagined."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from effvit.data.coco_pictures import read_coco_picture
from effvit.data.coco_records import CocoPicture
from effvit.data.drawing import shorten
from effvit.data.pictures import read_picture
from effvit.data.samples import one_line
from effvit.detection.drawing import draw_shapes
from effvit.detection.fonts import font_for
from effvit.detection.mistakes import FalseAlarm, PictureMistakes
from effvit.errors import DataError
from effvit.files import atomic_path

NUM_PICTURES = 12
"""Pictures on a sheet."""
_RIGHT, _FALSE_ALARM, _MISSED = range(3)
_PALETTE = ("#3a9d46", "#e02020", "#ffb000")
_LEGEND = ("right", "false alarm", "missed")
_COLUMNS = 3
_SIDE = 520
"""Longest side of a picture on the sheet; all lengths are in pixels."""
_GAP = 16
_TEXT = 15
_LINE = 21
_MAX_NAMED = 12
"""With more shapes on a picture, only its mistakes have their names: the rest would be covered."""
_MAX_NAMED_ALARMS = 20
"""Of more false alarms on a picture only the surest have their names."""
_MAX_FILE_NAME = 46
_QUALITY = 88


def write_worst(
    path: Path, mistakes: Sequence[PictureMistakes], class_names: Sequence[str], *, num_pictures: int = NUM_PICTURES
) -> int:
    """Draw the pictures with the most mistakes as a JPEG; those without any are left out.

    Right detections are green, false alarms red with what they are taken for and why they are none, missed things
    yellow. Crowds are not drawn.

    Args:
        path: Where to.
        mistakes: Of each picture, the worst first, as from `find_mistakes`.
        class_names: Names by label.
        num_pictures: How many at most.

    Returns:
        How many pictures are on the sheet.

    Raises:
        ConfigError: If the extra `detection` is not installed.
        RunError: If the place cannot be written.
    """
    shown = [entry for entry in mistakes[:num_pictures] if entry.num_mistakes]
    heading = (
        f"The {len(shown)} pictures with the most mistakes of {len(mistakes)}"
        if shown
        else f"No mistakes on {len(mistakes)} pictures"
    )
    cells = [_cell(entry, class_names) for entry in shown]
    columns = min(max(len(cells), 2), _COLUMNS)  # two even for none: the heading needs the width
    rows = [cells[start : start + columns] for start in range(0, len(cells), columns)]
    heights = [max(cell.height for cell in row) + _GAP for row in rows]
    top = 2 * _GAP + 2 * _LINE
    sheet = Image.new("RGB", (columns * (_SIDE + _GAP) + _GAP, top + sum(heights)), "white")
    _write_heading(sheet, heading)
    for row, height in zip(rows, heights, strict=True):
        for column, cell in enumerate(row):
            sheet.paste(cell, (_GAP + column * (_SIDE + _GAP), top))
        top += height
    with atomic_path(path) as temporary:
        sheet.save(temporary, "JPEG", quality=_QUALITY)
    return len(shown)


def _write_heading(sheet: Image.Image, heading: str) -> None:
    draw = ImageDraw.Draw(sheet)
    font = font_for([heading], _TEXT + 2)
    draw.text((_GAP, _GAP), heading, fill="black", font=font)
    left = float(_GAP)
    for name, color in zip(_LEGEND, _PALETTE, strict=True):
        draw.rectangle((left, _GAP + _LINE + 6, left + 16, _GAP + _LINE + 22), outline=color, width=4)
        draw.text((left + 24, _GAP + _LINE + 4), name, fill="black", font=font)
        left += 24 + font.getlength(name) + 2 * _GAP


def _cell(entry: PictureMistakes, class_names: Sequence[str]) -> Image.Image:
    """A picture with its shapes, and its caption above."""
    try:
        photo = _drawn(entry, class_names)
    except DataError:  # there no more
        photo = Image.new("RGB", (_SIDE, _SIDE // 4), "#f3f5f7")
    lines = [
        f"{len(entry.missed)} missed, {len(entry.false_alarms)} false alarms, {len(entry.right)} right",
        _file_name(entry.picture.path),
    ]
    cell = Image.new("RGB", (_SIDE, 2 * _LINE + photo.height), "white")
    draw = ImageDraw.Draw(cell)
    for index, line in enumerate(lines):
        _write(draw, line, index * _LINE, font_for([line], _TEXT))
    cell.paste(photo, (0, 2 * _LINE))
    return cell


def _write(draw: ImageDraw.ImageDraw, line: str, top: int, font: ImageFont.FreeTypeFont) -> None:
    draw.text((0, top), line, fill="black" if top == 0 else "#5c6773", font=font)


def _drawn(entry: PictureMistakes, class_names: Sequence[str]) -> Image.Image:
    photo = _photo(entry.picture)
    # The file's own size for the photo's: a COCO file of a resized copy would otherwise draw beside the things.
    factor = min(_SIDE / photo.width, _SIDE / photo.height)
    size = (max(1, round(photo.width * factor)), max(1, round(photo.height * factor)))
    scale = np.array([size[0] / entry.picture.width, size[1] / entry.picture.height] * 2)
    found, things = entry.detections, entry.picture.things
    crowded = len(entry.right) + entry.num_mistakes > _MAX_NAMED
    shapes = [
        *((things[index].box, shorten(class_names[things[index].label]), _MISSED) for index in entry.missed),
        *(
            (
                found.boxes[alarm.detection],
                _wrong(entry, alarm, class_names) if rank < _MAX_NAMED_ALARMS else "",
                _FALSE_ALARM,
            )
            for rank, alarm in enumerate(entry.false_alarms)
        ),
        *((found.boxes[index], "" if crowded else _said(entry, index, class_names), _RIGHT) for index in entry.right),
    ]
    boxes = np.array([box for box, *_ in shapes], dtype=np.float64) * scale
    colors = np.array([color for *_, color in shapes], dtype=np.int64)
    texts = [text for _, text, _ in shapes]
    return draw_shapes(photo.resize(size), boxes, texts, colors, palette=_PALETTE, enlarge=False)


def _photo(picture: CocoPicture) -> Image.Image:
    """A picture in the frame of its boxes; one of another size than its file says upright, as it is shown."""
    try:
        return read_coco_picture(picture)
    except DataError:
        return read_picture(picture.path)


def _said(entry: PictureMistakes, index: int, class_names: Sequence[str]) -> str:
    found = entry.detections
    return f"{shorten(class_names[found.labels[index]])} {found.scores[index]:.2f}"


def _wrong(entry: PictureMistakes, alarm: FalseAlarm, class_names: Sequence[str]) -> str:
    return f"{_said(entry, alarm.detection, class_names)} {alarm.kind}"


def _file_name(path: Path) -> str:
    name = one_line("/".join(path.parts[-2:]))
    return name if len(name) <= _MAX_FILE_NAME else "…" + name[1 - _MAX_FILE_NAME :]
