"""Do two detectors say the same of pictures? Their detections are matched one to one, and the differences counted."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torchvision.ops import box_iou

from effvit.detection.records import Detections
from effvit.errors import ConfigError

BOX_TOLERANCE = 0.1
"""Largest allowed difference of a coordinate, in pixels of the picture."""
SCORE_TOLERANCE = 1e-3
"""Largest allowed difference of a score."""
MASK_TOLERANCE = 0.02
"""Largest allowed share of pixels in the union of two masks that only one of them has, over all masks together."""
UNMATCHED_TOLERANCE = 0.01
"""Largest allowed share of all detections of both that only one of the two has: rounding decides on which side of the
score threshold, or of the overlap of suppression, a box falls."""
_TIE = 1e-5
"""Largest difference of two scores of which rounding may decide which is higher."""
_OVERLAP = 0.45
"""Overlap (IoU) from which on one of two boxes may suppress the other: detectors here have .5."""
_SAME = 1.0
"""Largest difference of a coordinate, in pixels, with which two boxes of one label are taken for the same."""


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How far what a candidate finds is from what its reference finds."""

    num_pictures: int
    """Pictures compared."""
    num_detections: int
    """What the two found on them, together."""
    num_unmatched: int
    """What only one of the two found: another label, another place, or not at all."""
    num_tied: int = 0
    """Further detections that only one found, because rounding chose between equal scores: which of two boxes
    suppresses the other, or which is the last that is kept. A detector that has hardly learnt has many."""
    max_box_error: float
    """Largest difference of a coordinate in a pair, in pixels of the picture."""
    max_score_error: float
    """Largest difference of the scores of a pair."""
    mask_iou: float | None = None
    """Pixels that both masks of a pair have over those that one has, over all pairs; None without masks."""

    @property
    def passed(self) -> bool:
        """Whether all differences are within what rounding explains, and there was something to compare."""
        return (
            self.num_detections > 0
            and self.num_unmatched <= UNMATCHED_TOLERANCE * self.num_detections
            and self.max_box_error <= BOX_TOLERANCE
            and self.max_score_error <= SCORE_TOLERANCE
            and (self.mask_iou is None or self.mask_iou >= 1 - MASK_TOLERANCE)
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, the decision and what was allowed included."""
        return {
            **asdict(self),
            "passed": self.passed,
            "allowed": {
                "unmatched_share": UNMATCHED_TOLERANCE,
                "box_error": BOX_TOLERANCE,
                "score_error": SCORE_TOLERANCE,
                "mask_iou": 1 - MASK_TOLERANCE,
            },
        }

    def __str__(self) -> str:
        masks = (
            "" if self.mask_iou is None else f", IoU of the masks {self.mask_iou:.5f} (at least {1 - MASK_TOLERANCE})"
        )
        tied = f", {self.num_tied} by a tie of scores" if self.num_tied else ""
        return (
            f"{self.num_detections} detections on {self.num_pictures} pictures, {self.num_unmatched} without a match"
            f" (allowed: {UNMATCHED_TOLERANCE:.0%}){tied}, labels of the others equal, largest error of a box"
            f" {self.max_box_error:.2g} pixels (allowed: {BOX_TOLERANCE}), of a score {self.max_score_error:.2g}"
            f" (allowed: {SCORE_TOLERANCE}){masks}"
        )


def compare_detections(
    reference: Callable[[list[Tensor]], list[Detections]],
    candidate: Callable[[list[Tensor]], list[Detections]],
    pictures: Iterable[Tensor],
) -> Agreement:
    """Compare what two detectors find, picture by picture.

    Args:
        reference: What is right; uint8 pictures (3, H, W) to detections.
        candidate: What is in question, the same call.
        pictures: uint8, (3, H, W), real ones where possible.

    Raises:
        ConfigError: If there is no picture.
    """
    num_pictures = num_detections = num_unmatched = num_tied = common = union = 0
    box_errors, score_errors = [0.0], [0.0]
    has_masks = False
    for picture in pictures:
        (expected,), (actual,) = reference([picture]), candidate([picture])
        pairs = matched(expected, actual)
        num_pictures += 1
        num_detections += len(expected) + len(actual)
        tied = _num_tied(expected, actual, {i for i, _ in pairs}) + _num_tied(actual, expected, {j for _, j in pairs})
        num_tied += tied
        num_unmatched += len(expected) + len(actual) - 2 * len(pairs) - tied
        if not pairs:
            continue
        first, second = torch.tensor(pairs).unbind(1)
        box_errors.append(float((expected.boxes[first] - actual.boxes[second]).abs().max()))
        score_errors.append(float((expected.scores[first] - actual.scores[second]).abs().max()))
        if expected.masks is not None and actual.masks is not None:
            has_masks = True
            for i, j in pairs:
                common += int((expected.masks[i] & actual.masks[j]).sum())
                union += int((expected.masks[i] | actual.masks[j]).sum())
    if num_pictures == 0:
        raise ConfigError("a comparison needs at least one picture, got none")
    return Agreement(
        num_pictures=num_pictures,
        num_detections=num_detections,
        num_unmatched=num_unmatched,
        num_tied=num_tied,
        max_box_error=max(box_errors),
        max_score_error=max(score_errors),
        mask_iou=(common / union if union else 1.0) if has_masks else None,
    )


def _num_tied(found: Detections, other: Detections, paired: set[int]) -> int:
    """How many of the detections without a partner lack it by a tie alone."""
    if not len(other):
        return 0
    overlaps = box_iou(found.boxes, other.boxes)
    close = (found.scores[:, None] - other.scores[None, :]).abs() <= _TIE
    rival = ((overlaps >= _OVERLAP) & close & (found.labels[:, None] == other.labels[None, :])).any(1)
    # Both kept as many, so one that was left out for another of the same score was the last to be kept.
    last = (found.scores <= other.scores.min() + _TIE) & (len(found) == len(other))
    return sum(bool(rival[i] or last[i]) for i in range(len(found)) if i not in paired)


def matched(expected: Detections, actual: Detections) -> list[tuple[int, int]]:
    """Pairs of detections with one label in one place, the nearest first.

    Returns:
        Positions in the two, each at most once.
    """
    distance = torch.cdist(expected.boxes, actual.boxes, p=math.inf)
    # Boxes without an area can lie in one place: then the scores tell who is who.
    cost = distance + (expected.scores[:, None] - actual.scores[None, :]).abs()
    cost[(expected.labels[:, None] != actual.labels[None, :]) | (distance > _SAME)] = math.inf
    pairs: list[tuple[int, int]] = []
    rows: set[int] = set()
    columns: set[int] = set()
    for flat in cost.flatten().argsort().tolist():
        i, j = divmod(flat, len(actual))
        if not cost[i, j] < math.inf:
            break
        if i not in rows and j not in columns:
            rows.add(i)
            columns.add(j)
            pairs.append((i, j))
    return pairs
