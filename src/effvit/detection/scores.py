"""The numbers of a detection evaluation: COCO's twelve, each class, and the curves they come from."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Points = npt.NDArray[np.float64]
"""Precision at recall 0, .01, .. 1: (101,)."""


@dataclass(frozen=True, kw_only=True)
class CocoNumbers:
    """COCO's twelve numbers, 0..1, the mean over the classes that have things; None where none has.

    Precision is averaged over 101 levels of recall, AP and AR over the overlaps (IoU) .5, .55, .. .95, where nothing
    else is said. At most 100 detections of a class and picture count. Sizes are by area: small below
    32 x 32 pixels, large from 96 x 96.
    """

    ap: float | None
    ap50: float | None
    """At an overlap of .5."""
    ap75: float | None
    """At an overlap of .75."""
    ap_small: float | None
    ap_medium: float | None
    ap_large: float | None
    ar_1: float | None
    """Share of the things that are found by one detection of a class and picture."""
    ar_10: float | None
    ar_100: float | None
    ar_small: float | None
    ar_medium: float | None
    ar_large: float | None


class ClassScore(NamedTuple):
    """How well the things of one class are found; None for a class without things."""

    name: str
    category_id: int
    ap: float | None
    ap50: float | None
    recall: float | None
    """Share of the things found at an overlap of .5, however unsurely: what no score threshold can exceed."""
    num_things: int
    """Without crowds."""
    num_detections: int


class Curve(NamedTuple):
    """Precision over recall, of one class, or the mean of the classes that have things."""

    at_50: Points
    """At an overlap of .5; its mean is AP50."""
    at_75: Points
    """At an overlap of .75; its mean is AP75."""
    mean: Points
    """Over the overlaps .5, .55, .. .95; its mean is AP."""


RECALLS: Points = np.linspace(0, 1, 101)
"""The levels of recall a curve has points at."""


@dataclass(frozen=True, kw_only=True)
class KindScores:
    """All scores of one kind: of boxes, or of masks."""

    numbers: CocoNumbers
    """COCO's twelve."""
    classes: tuple[ClassScore, ...]
    """In the order of the class names."""
    curve: Curve | None
    """All classes together; None if there are no things."""
    class_curves: tuple[Curve | None, ...]
    """Each class; None for one without things."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, without the curves."""
        return {**asdict(self.numbers), "per_class": [score._asdict() for score in self.classes]}

    def curves_to_dict(self) -> dict[str, Any]:
        """The curves as plain values for JSON: 303 numbers each."""
        return {
            "recall": _rounded(RECALLS),
            "all": _plain(self.curve),
            "classes": {
                score.name: _plain(curve) for score, curve in zip(self.classes, self.class_curves, strict=True)
            },
        }


@dataclass(frozen=True, kw_only=True)
class DetectionScores:
    """What a detector is worth on a set of pictures."""

    task: str
    """boxes or masks."""
    num_pictures: int
    """Pictures that were evaluated on."""
    num_things: int
    """Things on them, crowds not counted."""
    num_crowds: int
    """Regions of many things, which count for nobody and against nobody."""
    num_detections: int
    """Detections, however sure."""
    boxes: KindScores
    """Of the boxes."""
    masks: KindScores | None = None
    """Of the masks; None where the task is boxes."""

    @property
    def main(self) -> KindScores:
        """The scores of what the task is about."""
        return self.boxes if self.masks is None else self.masks

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, without the curves."""
        return {
            "task": self.task,
            "num_pictures": self.num_pictures,
            "num_things": self.num_things,
            "num_crowds": self.num_crowds,
            "num_detections": self.num_detections,
            "boxes": self.boxes.to_dict(),
            "masks": None if self.masks is None else self.masks.to_dict(),
        }

    def curves_to_dict(self) -> dict[str, Any]:
        """The curves as plain values for JSON."""
        return {
            "boxes": self.boxes.curves_to_dict(),
            "masks": None if self.masks is None else self.masks.curves_to_dict(),
        }


def percent(share: float | None) -> str:
    """A share in percent, without the sign; empty where there is none."""
    return "" if share is None else f"{100 * share:.1f}"


def _plain(curve: Curve | None) -> dict[str, list[float]] | None:
    return None if curve is None else {name: _rounded(points) for name, points in curve._asdict().items()}


def _rounded(points: Points) -> list[float]:
    """To six digits: a curve is for drawing, and AP stands beside it in full."""
    return [round(float(point), 6) for point in points]
