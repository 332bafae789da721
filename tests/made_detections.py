"""Detections made from what is on the pictures: perfect ones, and ones as wrong as a detector's; a detector of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from effvit.data.coco import read_coco
from effvit.data.coco_masks import mask_of
from effvit.data.coco_records import CocoData, CocoPicture, CocoThing
from effvit.detection.config import DetectorConfig
from effvit.detection.records import Detections


def coco_mini(data_dir: Path, part: str = "val") -> CocoData:
    return read_coco(data_dir / "coco_mini" / "annotations" / f"instances_{part}.json", data_dir / "coco_mini" / part)


def bccd(data_dir: Path, part: str = "val") -> CocoData:
    return read_coco(data_dir / "bccd" / "annotations" / f"instances_{part}.json", data_dir / "bccd" / part)


def picture_of(*things: CocoThing, image_id: int = 1, size: tuple[int, int] = (100, 80)) -> CocoPicture:
    """A picture of a width and height that need not be there."""
    return CocoPicture(Path(f"{image_id}.png"), image_id, height=size[1], width=size[0], things=things)


def thing(label: int, *box: float, crowd: bool = False, segmentation: object = None) -> CocoThing:
    left, top, right, bottom = box
    return CocoThing(1, label, (left, top, right, bottom), (right - left) * (bottom - top), crowd, segmentation)


def detections(
    boxes: Sequence[Sequence[float]], scores: Sequence[float], labels: Sequence[int], masks: Tensor | None = None
) -> Detections:
    return Detections(
        boxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        scores=torch.tensor(scores, dtype=torch.float32),
        labels=torch.tensor(labels, dtype=torch.int64),
        masks=masks,
    )


def truth(picture: CocoPicture, *, with_masks: bool = False) -> Detections:
    """What is on a picture, as a perfect detector would say it."""
    things = [entry for entry in picture.things if not entry.is_crowd]
    masks = None
    if with_masks:
        size = (picture.height, picture.width)
        masks = torch.zeros((len(things), *size), dtype=torch.bool)
        for index, entry in enumerate(things):
            masks[index] = torch.from_numpy(mask_of(entry.segmentation, *size))
    return detections([t.box for t in things], [1.0] * len(things), [t.label for t in things], masks)


def disturbed(data: CocoData, seed: int, *, with_masks: bool = False) -> dict[int, Detections]:
    """Detections with every kind of mistake: dropped, shifted, twice, of another class; equal scores too.

    Some pictures have no entry, and one has more of a class than count.
    """
    generator = np.random.default_rng(seed)
    found = {}
    for position, picture in enumerate(data.pictures):
        if position % 7 == 3:
            continue
        perfect = truth(picture, with_masks=with_masks)
        index = np.flatnonzero(generator.random(len(perfect)) < 0.85)
        index = np.concatenate([index, generator.permutation(index)[: len(index) // 3]])  # some twice
        if position == 0:
            index = np.concatenate([index, np.repeat(index[:1], 130)])
        chosen = torch.from_numpy(index.astype(np.int64))
        boxes = perfect.boxes[chosen].numpy()
        sides = np.stack([boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]] * 2, axis=1)
        boxes = boxes + generator.normal(size=boxes.shape) * 0.08 * sides
        labels = perfect.labels[chosen].numpy()
        wrong = generator.random(len(labels)) < 0.15
        labels = np.where(wrong, generator.integers(0, len(data.class_names), len(labels)), labels)
        scores = np.round(generator.random(len(labels)), 2)
        masks = None
        if perfect.masks is not None:
            shifts = generator.integers(-6, 7, (len(labels), 2))
            masks = [np.roll(perfect.masks[i].numpy(), tuple(s), (0, 1)) for i, s in zip(index, shifts, strict=True)]
        order = np.argsort(-scores, kind="stable")
        found[picture.image_id] = detections(
            boxes[order].tolist(), scores[order].tolist(), labels[order].tolist(), _stacked(masks, order, picture)
        )
    return found


def _stacked(masks: list[np.ndarray] | None, order: np.ndarray, picture: CocoPicture) -> Tensor | None:
    if masks is None:
        return None
    ordered = [masks[index] for index in order]
    return torch.from_numpy(np.array(ordered, dtype=np.bool_).reshape(-1, picture.height, picture.width))


class MadeDetector:
    """A detector that says of each picture, known by its size, what it was told to say."""

    def __init__(self, config: DetectorConfig, by_size: Mapping[tuple[int, int], Detections]) -> None:
        self.config = config
        self.by_size = by_size
        self.seen: list[tuple[int, ...]] = []

    def detect(self, images: list[Tensor]) -> list[Detections]:
        """What it was told of pictures (3, H, W) of that width and height; else nothing."""
        answers = []
        for image in images:
            assert image.dtype == torch.uint8 and image.shape[0] == 3
            self.seen.append(tuple(image.shape))
            answers.append(self.by_size.get((image.shape[2], image.shape[1]), detections([], [], [])))
        return answers
