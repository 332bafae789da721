"""Boxes of a COCO file: four numbers, left, top, width and height, to the corners of what is in the picture."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

MIN_BOX_SIDE = 0.01
"""Pixels below which a box has no side that would survive a resize in single precision."""
_LARGEST = float(np.finfo(np.float32).max)


class Box(NamedTuple):
    """A box within its picture."""

    corners: tuple[float, float, float, float]
    """Left, top, right, bottom in pixels."""
    was_cut: bool
    """Whether it reached out of the picture."""


def cut_box(bbox: Any, height: int, width: int) -> Box | str:
    """Cut a COCO box to its picture of height x width pixels, or say in a few words what is wrong with it."""
    if not isinstance(bbox, list) or len(bbox) != 4 or not all(map(is_number, bbox)):
        return f"its bbox must be four numbers, got {bbox!r:.80}"
    x, y, w, h = map(float, bbox)
    shown = f"[{x:g}, {y:g}, {w:g}, {h:g}]"
    if min(w, h) < MIN_BOX_SIDE:
        return f"its box {shown} (left, top, width, height) has no area"
    left, top, right, bottom = max(x, 0.0), max(y, 0.0), min(x + w, float(width)), min(y + h, float(height))
    if min(right - left, bottom - top) < MIN_BOX_SIDE:
        return f"its box {shown} (left, top, width, height) is outside the picture of {width} x {height}"
    beyond = max(-x, -y, x + w - width, y + h - height)
    return Box((left, top, right, bottom), beyond >= MIN_BOX_SIDE)


def is_number(value: Any) -> bool:
    """Whether a value is a number that single precision can hold."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= _LARGEST


def positive(value: Any) -> float | None:
    """A positive number, or None."""
    return float(value) if is_number(value) and value > 0 else None
