"""Two detectors that agree pass, and each kind of disagreement fails."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from effvit.detection.agreement import Agreement, compare_detections
from effvit.detection.records import Detections
from effvit.errors import ConfigError

PICTURE = torch.zeros(3, 40, 50, dtype=torch.uint8)


def found() -> Detections:
    masks = torch.zeros(3, 40, 50, dtype=torch.bool)
    masks[:, 5:25, 5:25] = True
    boxes = torch.tensor([[5, 5, 25, 25], [5, 5, 25, 25], [30, 2, 30, 9]], dtype=torch.float32)  # one has no area
    return Detections(boxes=boxes, scores=torch.tensor([0.9, 0.5, 0.4]), labels=torch.tensor([0, 1, 1]), masks=masks)


def agreement(other: Detections) -> Agreement:
    def answer(detections: Detections) -> object:
        return lambda pictures: [detections for _ in pictures]

    return compare_detections(answer(found()), answer(other), [PICTURE])  # type: ignore[arg-type]


def test_the_same_in_another_order_passes() -> None:
    order = torch.tensor([2, 0, 1])
    it = found()
    assert it.masks is not None
    shuffled = Detections(
        boxes=it.boxes[order], scores=it.scores[order], labels=it.labels[order], masks=it.masks[order]
    )
    check = agreement(shuffled)
    assert check.passed
    assert (check.num_detections, check.num_unmatched, check.max_box_error, check.mask_iou) == (6, 0, 0.0, 1.0)
    assert check.to_dict()["passed"] is True


@pytest.mark.parametrize("what", ["box", "far box", "score", "label", "missing", "mask"])
def test_a_disagreement_fails(what: str) -> None:
    it = found()
    assert it.masks is not None
    masks = it.masks.clone()
    masks[:, :, :10] = False
    changed: dict[str, Detections] = {
        "box": replace(it, boxes=it.boxes + 0.2),
        "far box": replace(it, boxes=it.boxes + torch.tensor([[0.0], [9.0], [0.0]])),
        "score": replace(it, scores=it.scores + 0.01),
        "label": replace(it, labels=torch.tensor([0, 0, 1])),
        "missing": it.above(0.45),
        "mask": replace(it, masks=masks),
    }
    assert not agreement(changed[what]).passed


def test_nothing_found_proves_nothing() -> None:
    def nothing(pictures: list[Tensor]) -> list[Detections]:
        return [found().above(1.0) for _ in pictures]

    assert not compare_detections(nothing, nothing, [PICTURE]).passed
    with pytest.raises(ConfigError, match="at least one picture, got none"):
        compare_detections(nothing, nothing, [])


def test_a_choice_between_equal_scores_is_no_disagreement() -> None:
    def one_of(box: tuple[float, ...], score: float) -> Detections:
        boxes = torch.tensor([[5, 5, 25, 25], box], dtype=torch.float32)
        return Detections(boxes=boxes, scores=torch.tensor([0.9, score]), labels=torch.tensor([0, 1]))

    def check(first: Detections, second: Detections) -> Agreement:
        return compare_detections(lambda _: [first], lambda _: [second], [PICTURE])

    here, overlapping, elsewhere = (10, 10, 30, 30), (10, 13, 30, 33), (30, 2, 40, 9)
    suppressed = check(one_of(here, 0.5), one_of(overlapping, 0.5 + 1e-6))
    assert suppressed.passed and (suppressed.num_unmatched, suppressed.num_tied) == (0, 2)
    last = check(one_of(here, 0.5), one_of(elsewhere, 0.5 + 1e-6))
    assert last.passed and "2 by a tie of scores" in str(last)
    assert not check(one_of(here, 0.5), one_of(overlapping, 0.51)).passed, "scores that differ are no tie"
    first = one_of(here, 0.5)
    assert not check(first, first.above(0.6)).passed, "who keeps fewer has lost one"
