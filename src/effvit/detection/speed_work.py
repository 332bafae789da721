"""What a detector does with a picture while it is timed: what its network sees, how many boxes are compared, and how
long each part takes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.ops import boxes as box_ops

PARTS = ("picture", "backbone", "neck", "heads and NMS")
"""Of a forward pass, in order: resize, normalise and pad; the network; what makes a pyramid of it; the rest."""
_REPEATS = 15


@contextmanager
def watched_nms() -> Iterator[list[Tensor]]:
    """The scores that each call of non-maximum suppression is given, in order, while the block runs."""
    scores: list[Tensor] = []
    original = box_ops.batched_nms

    def watch(boxes: Tensor, score: Tensor, index: Tensor, iou_threshold: float) -> Tensor:
        scores.append(score)
        kept: Tensor = original(boxes, score, index, iou_threshold)
        return kept

    box_ops.batched_nms = watch
    try:
        yield scores
    finally:
        box_ops.batched_nms = original


def set_num_boxes(model: nn.Module, picture: Tensor, count: int) -> None:
    """Set a detector's score threshold so that so many boxes of a picture reach the last suppression.

    Random weights have no opinion: RetinaNet's first scores are all below any sensible threshold, SSD's all above its
    own, and suppression would take no time in one and all of it in the other. With as many boxes in all of them, the
    networks are compared.

    Args:
        model: A detector of torchvision's; its threshold is changed.
        picture: Float in 0..1, (3, H, W).
        count: Boxes, about; a detector that has fewer keeps all.
    """
    heads: Any = getattr(model, "roi_heads", model)
    heads.score_thresh = -1.0
    with watched_nms() as calls, torch.inference_mode():
        model([picture])
    scores = calls[-1].sort(descending=True).values
    if len(scores) > count:
        heads.score_thresh = float(scores[count])  # those above it


def observe(model: nn.Module, picture: Tensor) -> tuple[tuple[int, int], int, int]:
    """One forward pass, looked at.

    Returns:
        Height and width of what the network was fed, boxes in the last suppression, and detections.
    """
    seen: list[tuple[int, int]] = []
    backbone = model.get_submodule("backbone")
    handle = backbone.register_forward_pre_hook(lambda _, inputs: seen.append(tuple(inputs[0].shape[2:])))
    try:
        with watched_nms() as calls, torch.inference_mode():
            found = model([picture])[0]
    finally:
        handle.remove()
    return seen[0], len(calls[-1]), len(found["scores"])


def part_times(model: nn.Module, picture: Tensor, *, repeats: int = _REPEATS) -> dict[str, float]:
    """Milliseconds of each of `PARTS`, medians over passes with a clock read between the parts.

    Their sum is that of one pass; the clock costs microseconds.
    """
    backbone: Any = model.get_submodule("backbone")
    body = next(backbone.children())
    marks = [0.0] * 3

    def mark(index: int) -> Any:
        def read(*_: object) -> None:
            marks[index] = time.perf_counter()

        return read

    # SSD's extractor calls the layers of its network one by one, so the last of them stands for its end.
    ends = [body, *list(body.children())[-1:]]
    handles = [backbone.register_forward_pre_hook(mark(0)), backbone.register_forward_hook(mark(2))]
    handles += [module.register_forward_hook(mark(1)) for module in ends]
    times: list[list[float]] = []
    try:
        with torch.inference_mode():
            for _ in range(repeats + 2):
                start = time.perf_counter()
                model([picture])
                clock = [start, *marks, time.perf_counter()]
                times.append([1e3 * (after - before) for before, after in pairwise(clock)])
    finally:
        for handle in handles:
            handle.remove()
    columns = zip(*times[2:], strict=True)  # the first passes only warm up
    return dict(zip(PARTS, map(statistics.median, columns), strict=True))
