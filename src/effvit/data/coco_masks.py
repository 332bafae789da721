"""Segmentations of a COCO file: polygons, or runs of pixels (RLE) as numbers or packed in a text, to masks.

What is drawn is what pycocotools draws, pixel by pixel.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effvit.data.coco_boxes import is_number
from effvit.errors import ConfigError, DataError

MAX_COORDINATE = 100_000
"""Pixels from the corner within which polygons must stay: an outline far outside would take memory without end."""
_MIN_POINTS = 3
_FIRST_SIGN, _NUM_SIGNS = 48, 64
"""Packed runs are written with 64 signs, from "0" on: five bits of a number each."""
_MORE_FOLLOWS = 32
"""Set in a sign if the number goes on in the next."""


def usable_segmentation(segmentation: Any, height: int, width: int) -> tuple[Any, str]:
    """What of a segmentation can be drawn, and what is wrong with the rest.

    Args:
        segmentation: As in the file.
        height: Of the picture, in pixels.
        width: Of the picture, in pixels.

    Returns:
        The segmentation, without its faulty polygons, or None if nothing can be drawn or there was none; and the
        first fault in a few words, empty for none. Packed runs are looked into only by `mask_of`.
    """
    if not segmentation or segmentation == [[]]:  # as tools write that know boxes only
        return None, ""
    if isinstance(segmentation, dict):
        fault = _runs_fault(segmentation, height, width)
        return (None if fault else segmentation), fault
    if not isinstance(segmentation, list):
        return None, f"its segmentation must be polygons or an object with size and counts, got {segmentation!r:.60}"
    faults = [_polygon_fault(polygon) for polygon in segmentation]
    kept = [polygon for polygon, fault in zip(segmentation, faults, strict=True) if not fault]
    return kept or None, next(filter(None, faults), "")


def mask_of(segmentation: Any, height: int, width: int) -> NDArray[np.bool_]:
    """Draw a segmentation.

    Args:
        segmentation: Polygons, each a list x, y, x, y, ...; or an object with `size`, height and width, and `counts`:
            lengths of runs of pixels outside and inside in turn, down the columns, as a list or packed in a text.
        height: Of the picture, in pixels.
        width: Of the picture, in pixels.

    Returns:
        Which pixels belong to the thing, bool, (height, width).

    Raises:
        DataError: If it cannot be drawn.
        ConfigError: If the package that draws is not installed.
    """
    kept, fault = usable_segmentation(segmentation, height, width)
    if fault or kept is None:
        raise DataError(fault or "there is no segmentation to draw")
    library = import_masks()
    if isinstance(kept, list):
        runs = library.merge(library.frPyObjects(kept, height, width))
    else:
        # Unpacked here: the library trusts packed runs to cover the picture and no more.
        counts = kept["counts"] if isinstance(kept["counts"], list) else unpack_runs(kept["counts"])
        if fault := _length_fault(counts, height, width):
            raise DataError(fault)
        runs = library.frPyObjects({"size": [height, width], "counts": counts}, height, width)
    return np.asarray(library.decode(runs), dtype=bool)


def unpack_runs(text: str) -> list[int]:
    """The lengths of runs that are packed in a text.

    Each number is written as five-bit digits, lowest first, the last with its sign; from the fourth on it
    is the difference to the run before the last.

    Raises:
        DataError: If the text is none that was packed so.
    """
    counts: list[int] = []
    number, shift = 0, 0
    for sign in text:
        digit = ord(sign) - _FIRST_SIGN
        if not 0 <= digit < _NUM_SIGNS:
            raise DataError(f"its packed runs have a sign that none is written with: {sign!r}")
        number |= (digit & (_MORE_FOLLOWS - 1)) << shift
        shift += 5
        if digit & _MORE_FOLLOWS:
            continue
        if digit & 16:
            number -= 1 << shift
        counts.append(number + counts[-2] if len(counts) > 2 else number)
        if counts[-1] < 0:
            raise DataError(f"its packed runs have a negative length, {counts[-1]}")
        number, shift = 0, 0
    if shift:
        raise DataError("its packed runs end within a number")
    return counts


def import_masks() -> Any:
    """The module that draws and packs masks, imported where it is wanted.

    Raises:
        ConfigError: If the package is not installed; names the extra.
    """
    try:
        return importlib.import_module("faster_coco_eval").mask
    except ImportError as error:
        raise ConfigError(
            "COCO masks need the package faster-coco-eval, which is not installed: pip install 'effvit[detection]'"
        ) from error


def _polygon_fault(polygon: Any) -> str:
    if not isinstance(polygon, list):
        return f"a polygon must be a list x, y, x, y, ..., got {polygon!r:.60}"
    if len(polygon) % 2:
        return f"a polygon has an odd length, {len(polygon)}: x and y of each point are wanted"
    if len(polygon) < 2 * _MIN_POINTS:
        return f"a polygon has {len(polygon) // 2} points, and {_MIN_POINTS} are the fewest"
    # Told without a look at each number: large files have a hundred million of them.
    are_numbers = {*map(type, polygon)} <= {int, float}
    if (
        are_numbers
        and -MAX_COORDINATE <= min(polygon) <= max(polygon) <= MAX_COORDINATE
        and not math.isnan(sum(polygon))
    ):
        return ""
    wrong = [value for value in polygon if not is_number(value) or abs(value) > MAX_COORDINATE]
    return f"a polygon must have numbers up to {MAX_COORDINATE:,}, got {wrong[0]!r:.60}" if wrong else ""


def _runs_fault(runs: dict[str, Any], height: int, width: int) -> str:
    size, counts = runs.get("size"), runs.get("counts")
    if size != [height, width]:
        return f"the size of its runs is {size!r:.60}, and the picture's is [{height}, {width}] (height, width)"
    if isinstance(counts, str):
        return "" if counts else "its runs are an empty text"
    if not isinstance(counts, list) or not all(type(count) is int and count >= 0 for count in counts):
        return f"the counts of its runs must be whole numbers from 0, or a text, got {counts!r:.60}"
    return _length_fault(counts, height, width)


def _length_fault(counts: Sequence[int], height: int, width: int) -> str:
    covered = sum(counts)
    return "" if covered == height * width else f"its runs cover {covered} pixels of {height * width}"
