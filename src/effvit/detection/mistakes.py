"""What a detector gets wrong on each picture, at one score threshold: what it misses, and its false alarms."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torchvision.ops import box_iou

from effvit.data.coco_records import CocoPicture
from effvit.detection.kept import KeptDetections, Packed, pack
from effvit.detection.records import Detections

SCORE = 0.3
"""Detections from this score on are looked at, unless a caller says otherwise."""
_OVERLAP = 0.5
"""IoU from which on a box is taken for that of a thing; AP50's."""
_NEAR = 0.1
"""IoU from which on a box is badly placed rather than about nothing."""

KINDS = ("second box", "wrong class", "badly placed", "nothing there")
"""Of false alarms: a thing that has a surer box already; a thing of another class; a box that overlaps a thing of its
class by less than half; none of these."""


class FalseAlarm(NamedTuple):
    """A detection that is no thing of its class."""

    detection: int
    """Position in the detections."""
    kind: str
    """One of KINDS."""


@dataclass(frozen=True, kw_only=True)
class PictureMistakes:
    """One picture's detections, judged by their boxes."""

    picture: CocoPicture
    detections: Packed
    """Those that are sure enough, the surest first."""
    right: tuple[int, ...]
    """Positions of the detections that are a thing."""
    false_alarms: tuple[FalseAlarm, ...]
    missed: tuple[int, ...]
    """Positions of the things that no detection found."""

    @property
    def num_mistakes(self) -> int:
        """Missed things and false alarms: what pictures are ranked by."""
        return len(self.missed) + len(self.false_alarms)

    @property
    def share_right(self) -> float:
        """F1: the harmonic mean of precision and recall on this picture; 1 where there is nothing to find or to say."""
        right = 2 * len(self.right)
        return right / (right + self.num_mistakes) if right + self.num_mistakes else 1.0


def find_mistakes(
    found: Mapping[int, Detections], pictures: Sequence[CocoPicture], *, score: float = SCORE
) -> list[PictureMistakes]:
    """The mistakes on each picture, the picture with the most first.

    Detections are taken surest first, and each is given the thing of its class that it overlaps most, if that is by
    at least half (IoU .5 of the boxes) and no surer one has it. One that lies in a crowd of its class by half of
    its own area is no mistake, and crowds cannot be missed. Of two pictures with as many mistakes the one with
    the smaller share of right detections comes first, then the lower image id.

    Args:
        found: The detections by image id; none for a picture without an entry.
        pictures: What is on them.
        score: Detections from this score on count.
    """
    judged = [_judge(_sure(found, picture.image_id, score), picture) for picture in pictures]
    return sorted(judged, key=lambda entry: (-entry.num_mistakes, entry.share_right, entry.picture.image_id))


def count_mistakes(judged: Sequence[PictureMistakes], *, score: float) -> dict[str, Any]:
    """The sums over all pictures, as plain values for JSON."""
    right = sum(len(entry.right) for entry in judged)
    missed = sum(len(entry.missed) for entry in judged)
    kinds = Counter(alarm.kind for entry in judged for alarm in entry.false_alarms)
    alarms = sum(kinds.values())
    return {
        "score_threshold": score,
        "num_right": right,
        "num_missed": missed,
        "num_false_alarms": alarms,
        "false_alarms": {kind: kinds[kind] for kind in KINDS},
        "precision": right / (right + alarms) if right + alarms else None,
        "recall": right / (right + missed) if right + missed else None,
        "num_pictures_without_mistakes": sum(not entry.num_mistakes for entry in judged),
    }


def _sure(found: Mapping[int, Detections], image_id: int, score: float) -> Packed:
    if image_id not in found:
        none = np.zeros(0)
        return Packed(boxes=np.zeros((0, 4), np.float32), scores=none.astype(np.float32), labels=none.astype(np.int64))
    packed = found.packed(image_id) if isinstance(found, KeptDetections) else pack(found[image_id])
    count = int((packed.scores >= np.float32(score)).sum())  # they fall
    return Packed(
        boxes=packed.boxes[:count],
        scores=packed.scores[:count],
        labels=packed.labels[:count],
        masks=None if packed.masks is None else packed.masks[:count],
    )


def _judge(detections: Packed, picture: CocoPicture) -> PictureMistakes:
    things = [index for index, thing in enumerate(picture.things) if not thing.is_crowd]
    labels = np.array([picture.things[index].label for index in things], dtype=np.int64)
    overlaps = _overlaps(detections.boxes, [picture.things[index].box for index in things])
    in_crowd = _in_crowd(detections, picture)
    taken = np.zeros(len(things), dtype=np.bool_)
    right: list[int] = []
    alarms: list[FalseAlarm] = []
    for index, label in enumerate(detections.labels.tolist()):
        fitting = (overlaps[index] >= _OVERLAP) & (labels == label)
        free = np.where(fitting & ~taken, overlaps[index], 0)
        if free.any():
            taken[free.argmax()] = True
            right.append(index)
        elif not in_crowd[index]:
            alarms.append(FalseAlarm(index, _kind(overlaps[index], labels == label, fitting)))
    missed = tuple(thing for thing, is_taken in zip(things, taken, strict=True) if not is_taken)
    return PictureMistakes(
        picture=picture, detections=detections, right=tuple(right), false_alarms=tuple(alarms), missed=missed
    )


def _kind(overlaps: npt.NDArray[np.float64], same_class: npt.NDArray[np.bool_], fitting: npt.NDArray[np.bool_]) -> str:
    second, other_class, badly_placed, nothing = KINDS
    if fitting.any():
        return second
    if (overlaps >= _OVERLAP).any():
        return other_class
    return badly_placed if (overlaps[same_class] >= _NEAR).any() else nothing


def _overlaps(boxes: npt.NDArray[np.float32], things: Sequence[tuple[float, ...]]) -> npt.NDArray[np.float64]:
    """IoU of each detection with each thing, (detections, things)."""
    of_things = torch.tensor(things, dtype=torch.float64).reshape(-1, 4)
    overlaps: npt.NDArray[np.float64] = box_iou(torch.from_numpy(boxes).double(), of_things).numpy()
    return overlaps


def _in_crowd(detections: Packed, picture: CocoPicture) -> npt.NDArray[np.bool_]:
    """Whether half of a detection's area lies in one crowd region of its class."""
    inside = np.zeros(len(detections), dtype=np.bool_)
    left, top, right, bottom = detections.boxes.astype(np.float64).T
    area = np.maximum((right - left) * (bottom - top), np.finfo(np.float64).tiny)
    for thing in picture.things:
        if thing.is_crowd:
            width = np.minimum(right, thing.box[2]) - np.maximum(left, thing.box[0])
            height = np.minimum(bottom, thing.box[3]) - np.maximum(top, thing.box[1])
            common = width.clip(min=0) * height.clip(min=0)
            inside |= (detections.labels == thing.label) & (common / area >= _OVERLAP)
    return inside
