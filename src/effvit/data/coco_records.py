"""Pictures with boxes, and with masks where the file has them, as read from a COCO file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from effvit.data.samples import Skipped


class CocoThing(NamedTuple):
    """One annotation."""

    annotation_id: int
    """Its id in the file."""
    label: int
    """Position in the class names."""
    box: tuple[float, float, float, float]
    """Left, top, right, bottom in pixels, cut to the picture; right > left, bottom > top."""
    area: float
    """Pixels of the thing as the file says, else of its box."""
    is_crowd: bool
    """Whether this is a region with many things that were not told apart: neither learned nor held against anyone."""
    segmentation: Any = None
    """COCO's polygons or run lengths as in the file, see `coco_masks`; None without, or if they are faulty."""


class CocoPicture(NamedTuple):
    """One picture and what is on it."""

    path: Path
    """The picture's file."""
    image_id: int
    """Its id in the file."""
    height: int
    """Pixels, as the file says."""
    width: int
    """Pixels, as the file says."""
    things: tuple[CocoThing, ...] = ()
    """Empty for a picture with nothing on it, which is learned from as well."""

    @property
    def name(self) -> str:
        """The picture for a reader."""
        return str(self.path)


@dataclass(frozen=True, kw_only=True)
class CocoData:
    """The pictures of one COCO file."""

    source: Path
    """The COCO file."""
    root: Path
    """The folder of the pictures."""
    class_names: tuple[str, ...]
    """Category names, by rising category id."""
    category_ids: tuple[int, ...]
    """Their ids in the file, which may have gaps."""
    pictures: tuple[CocoPicture, ...]
    """By rising image id; those whose file is missing are left out and named in `skipped`."""
    skipped: tuple[Skipped, ...] = ()
    """What is not used, and why: a line each."""
    num_missing: int = 0
    """Pictures whose file is missing."""
    num_left_out: int = 0
    """Annotations that are not used."""
    num_cut: int = 0
    """Boxes that reached out of their picture and were cut to it."""
    has_masks: bool = False
    """Whether every thing that is no crowd has a segmentation."""
