"""Pictures of a COCO file with their boxes on one page, to look at before training."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from PIL import Image, ImageDraw

from effvit.data.coco_check import CocoReport
from effvit.data.coco_pictures import read_coco_picture
from effvit.data.coco_records import CocoPicture
from effvit.data.contact_sheet import MAX_CLASSES, Cell, Grid, Section, classes_title, findings, spread, write_sections
from effvit.data.drawing import shorten

_GRID = Grid(columns=3, per_cell=3, thumb=200)
_OWN, _OTHER = "#e8362c", "#f2f2f2"
"""Boxes of the class that a picture is shown for, and those of other classes."""


def write_coco_sheet(path: Path, report: CocoReport) -> None:
    """Draw some pictures of each class with their boxes, the duplicates and the near-empty pictures, as PNG.

    Boxes of the class are red and two pixels wide, all others light and thin; a crowd's box is crossed out. Pictures
    that cannot be read, or are of another size than the file says, are not shown.

    Raises:
        RunError: If the place cannot be written.
    """
    unusable = {checked.sample.path for checked, _ in report.mismatched}
    unusable |= {checked.sample.path for checked in report.unreadable}
    by_label: list[list[CocoPicture]] = [[] for _ in report.data.class_names]
    for picture in report.data.pictures:
        if picture.path not in unusable:
            for label in sorted({thing.label for thing in picture.things}):
                by_label[label].append(picture)
    cells = [
        Cell(
            f"things {count.num_things}, pictures {count.num_pictures}: {shorten(count.name)}",
            [partial(draw_boxes, picture, label) for picture in spread(by_label[label], _GRID.per_cell)],
        )
        for label, count in enumerate(report.classes[:MAX_CLASSES])
        if by_label[label]
    ]
    title = f"{classes_title(len(report.data.class_names))}, {len(cells)} of them with pictures"
    write_sections(path, [Section(title, cells), *findings(report)], _GRID)


def draw_boxes(picture: CocoPicture, label: int, side: int) -> Image.Image:
    """A picture with its boxes, its longest side as given, in pixels; those of a label stand out.

    Raises:
        DataError: If it cannot be read, or has another size than the file says.
    """
    photo = read_coco_picture(picture)
    photo.thumbnail((side, side))
    across, down = photo.width / picture.width, photo.height / picture.height
    draw = ImageDraw.Draw(photo)
    for thing in sorted(picture.things, key=lambda thing: thing.label == label):
        left, top, right, bottom = thing.box
        corners = (
            left * across,
            top * down,
            max(right * across - 1, left * across),
            max(bottom * down - 1, top * down),
        )
        colour, width = (_OWN, 2) if thing.label == label else (_OTHER, 1)
        draw.rectangle(corners, outline=colour, width=width)
        if thing.is_crowd:
            draw.line(corners, fill=colour, width=1)
            draw.line((corners[0], corners[3], corners[2], corners[1]), fill=colour, width=1)
    return photo
