"""The pictures of a run on one sheet, for people who would rather look than read."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from effvit.files import atomic_path

_ROWS = (("curves.png",), ("eval/confusion.png", "eval/worst.png"), ("benchmark.png",))
_WIDTH = 1200
_MARGIN = 12


def write_overview(run: Path) -> Path:
    """Put curves, confusion matrix, worst pictures and speeds of a run folder on one sheet; returns its path.

    Raises:
        RunError: If the folder cannot be written.
    """
    rows = [_row([Image.open(run / name).convert("RGB") for name in names]) for names in _ROWS]
    height = sum(row.height for row in rows) + _MARGIN * (len(rows) - 1)
    sheet = Image.new("RGB", (_WIDTH, height), "white")
    top = 0
    for row in rows:
        sheet.paste(row, (0, top))
        top += row.height + _MARGIN
    path = run / "overview.png"
    with atomic_path(path) as temporary:
        sheet.save(temporary, optimize=True)
    return path


def _row(pictures: list[Image.Image]) -> Image.Image:
    """Pictures side by side, equally high, together as wide as the sheet."""
    room = _WIDTH - _MARGIN * (len(pictures) - 1)
    height = room / sum(picture.width / picture.height for picture in pictures)
    row = Image.new("RGB", (_WIDTH, round(height)), "white")
    left = 0.0
    for picture in pictures:
        width = picture.width * height / picture.height
        row.paste(picture.resize((round(width), round(height)), Image.Resampling.LANCZOS), (round(left), 0))
        left += width + _MARGIN
    return row
