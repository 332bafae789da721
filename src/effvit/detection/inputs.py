"""Pictures and targets on their way into a detector: checked, brought to one number format and to a size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from effvit.errors import ConfigError, DataError

Target = dict[str, Tensor]


def as_pictures(images: Sequence[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """Pictures as numbers in 0..1 of a format.

    Args:
        images: (3, H, W) each, float in 0..1 or uint8.
        dtype: The format.

    Raises:
        DataError: If one is no such picture.
    """
    for image in images:
        if not isinstance(image, Tensor) or image.dim() != 3 or image.shape[0] != 3 or 0 in image.shape:
            what = tuple(image.shape) if isinstance(image, Tensor) else type(image).__name__
            raise DataError(f"a picture must be a tensor (3, height, width), got {what}")
        if not image.is_floating_point() and image.dtype != torch.uint8:
            raise DataError(f"a picture must be uint8, or float in 0..1, got {image.dtype}")
    return [image.to(dtype) if image.is_floating_point() else image.to(dtype) / 255 for image in images]


def check_not_too_narrow(height: int, width: int, max_size: int) -> None:
    """Refuse a picture whose short side would be less than a pixel once its long side fits.

    Args:
        height: Of the picture, in pixels.
        width: Of the picture, in pixels.
        max_size: Longest side it may have in the network, in pixels.

    Raises:
        DataError: If it is so.
    """
    if max(height, width) > max_size * min(height, width):
        raise DataError(
            f"a picture of {width} x {height} pixels is too narrow: one side may be {max_size} times the other at most"
        )


def check_targets(
    pictures: Sequence[Tensor], targets: Sequence[Mapping[str, Tensor]] | None, *, num_classes: int, task: str
) -> list[Target]:
    """Targets that losses can be computed from, boxes in the pictures' number format.

    Raises:
        ConfigError: If there is not one for each picture.
        DataError: If one is not allowed, naming the picture's place in the batch.
    """
    if targets is None or len(targets) != len(pictures) or not pictures:
        got = None if targets is None else len(targets)
        raise ConfigError(f"training needs pictures and a target for each, got {len(pictures)} and {got}")
    checked = []
    for index, (picture, target) in enumerate(zip(pictures, targets, strict=True)):
        if fault := _fault(picture, target, num_classes, task):
            raise DataError(f"target {index}: {fault}")
        kept = {"boxes": target["boxes"].to(picture.dtype), "labels": target["labels"]}
        checked.append({**kept, "masks": target["masks"]} if task == "masks" else kept)
    return checked


def _fault(picture: Tensor, target: Mapping[str, Tensor], num_classes: int, task: str) -> str | None:
    wanted = ["boxes", "labels", *(["masks"] if task == "masks" else [])]
    if missing := [name for name in wanted if name not in target]:
        return f"{', '.join(missing)} missing"
    boxes, labels = target["boxes"], target["labels"]
    if boxes.dim() != 2 or boxes.shape[1] != 4 or not boxes.is_floating_point():
        return f"boxes must be float (N, 4), got {boxes.dtype} {tuple(boxes.shape)}"
    if labels.shape != boxes.shape[:1] or labels.dtype != torch.int64:
        return f"labels must be int64 ({len(boxes)},), got {labels.dtype} {tuple(labels.shape)}"
    if task == "masks" and target["masks"].shape != (len(boxes), *picture.shape[1:]):
        return f"masks must be {(len(boxes), *picture.shape[1:])}, got {tuple(target['masks'].shape)}"
    bad_boxes = ~(boxes.isfinite().all(1) & (boxes[:, 2:] > boxes[:, :2]).all(1))
    bad_labels = (labels < 0) | (labels >= num_classes)
    if bad_boxes.any():
        return f"a box must be left, top, right, bottom with an area, got {boxes[bad_boxes][0].tolist()}"
    if bad_labels.any():
        return f"labels must be in 0..{num_classes - 1}, got {int(labels[bad_labels][0])}"
    return None


def resized(picture: Tensor, target: Target, size: int, *, max_size: int) -> tuple[Tensor, Target]:
    """Bring a picture's short side to a size, unless the long side would exceed another; boxes and masks follow.

    In torchvision's own way, so that training and evaluation see the same.
    """
    transform = GeneralizedRCNNTransform(size, max_size, [0.0] * 3, [1.0] * 3).eval()
    found: tuple[Tensor, Target] = transform.resize(picture, dict(target))
    return found
