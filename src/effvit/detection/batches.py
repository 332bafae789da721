"""From pictures with boxes to what a detector is given: varied, in batches that depend on (seed, epoch, picture)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from effvit.data.coco_masks import mask_of
from effvit.data.coco_pictures import read_coco_picture
from effvit.data.coco_records import CocoPicture
from effvit.data.loaders import Unreadable
from effvit.data.order import Order
from effvit.data.samples import one_line
from effvit.data.views import ViewDataset, ViewLoader
from effvit.detection.inputs import check_not_too_narrow
from effvit.detection.train_config import DetectionConfig
from effvit.errors import DataError
from effvit.train.distributed import num_processes, rank


class DetectionBatch(NamedTuple):
    """What a loader gives: the pictures that could be read, and word of those that could not."""

    images: list[Tensor]
    """uint8, (3, H, W) each, of their own sizes."""
    targets: list[dict[str, Tensor]]
    """For each picture boxes (N, 4) float32, labels (N,) int64, and where masks are learned masks (N, H, W) uint8."""
    indices: Tensor
    """Positions in the loader's samples, int64, (B,)."""
    unreadable: tuple[Unreadable, ...]


class _Item(NamedTuple):
    position: int
    image: Tensor | None
    target: dict[str, Tensor]
    reason: str


class DetectionLoader(ViewLoader[CocoPicture, _Item, DetectionBatch]):
    """Passes over pictures with boxes; see `ViewLoader`.

    Args:
        samples: The pictures.
        config: How they are varied in training, and loaded.
        training: Whether they are varied and shuffled, with targets; else each once as it is, without targets.
        batch_size: Most pictures in a batch, of all processes together; None for the configuration's.

    Raises:
        DataError: If there are no samples.
    """

    def __init__(
        self,
        samples: Sequence[CocoPicture],
        config: DetectionConfig,
        *,
        training: bool,
        batch_size: int | None = None,
    ) -> None:
        super().__init__(
            samples,
            _Pictures(samples, config, training=training),
            _collate,
            targets=[0] * len(samples),
            batch_size=batch_size or config.batch_size,
            order=Order.SHUFFLE if training else Order.IN_ORDER,
            seed=config.seed,
            num_workers=config.num_workers,
            pin_memory=config.device.startswith("cuda"),
            rank=rank(),
            num_processes=num_processes(),
        )


def draw_size(config: DetectionConfig, seed: int) -> int:
    """The short side of a step's pictures, in pixels, drawn from the configuration's scales by the seed alone.

    One for all of them: pictures of several sizes would be padded to the largest, which costs time and gives batch
    normalisation statistics of padding, other than those of the unpadded pictures that are found things on later.
    """
    generator = torch.Generator().manual_seed(seed)
    return round(config.min_size * config.scales[int(torch.randint(len(config.scales), (), generator=generator))])


def target_of(picture: CocoPicture, *, with_masks: bool) -> dict[str, Tensor]:
    """What is to be learnt of a picture, in its own pixels; crowds are no things.

    Raises:
        DataError: If a mask is wanted and a thing has none.
    """
    things = [thing for thing in picture.things if not thing.is_crowd]
    target = {
        "boxes": torch.tensor([thing.box for thing in things], dtype=torch.float32).reshape(-1, 4),
        "labels": torch.tensor([thing.label for thing in things], dtype=torch.int64),
    }
    if with_masks:
        masks = torch.zeros(len(things), picture.height, picture.width, dtype=torch.uint8)
        for index, thing in enumerate(things):
            if thing.segmentation is None:
                raise DataError(f"annotation {thing.annotation_id} of {picture.name} has no mask")
            masks[index] = torch.from_numpy(mask_of(thing.segmentation, picture.height, picture.width))
        target["masks"] = masks
    return target


class _Pictures(ViewDataset[_Item]):
    def __init__(self, samples: Sequence[CocoPicture], config: DetectionConfig, *, training: bool) -> None:
        super().__init__(config.seed)
        self.samples = samples
        self.training = training
        self.with_masks = config.task == "masks"
        self.longest = round(config.long_side * (min(config.scales) if training else 1))
        jitter, self.flip = config.color_jitter, config.flip
        self.colors = v2.ColorJitter(brightness=jitter, contrast=jitter, saturation=jitter) if jitter else None

    def read(self, position: int) -> _Item:
        picture = self.samples[position]
        try:
            image = F.pil_to_tensor(read_coco_picture(picture))
            self._check_sides(picture)
            target = target_of(picture, with_masks=self.with_masks) if self.training else {}
        except DataError as error:
            return _Item(position, None, {}, str(error))
        if self.training:
            image, target = self._varied(image, target)
        return _Item(position, image, target, "")

    def _check_sides(self, picture: CocoPicture) -> None:
        try:
            check_not_too_narrow(picture.height, picture.width, self.longest)
        except DataError as error:
            raise DataError(f"cannot use picture {one_line(picture.name)}: {error}") from error

    def _varied(self, image: Tensor, target: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        if torch.rand(()) < self.flip:
            image, target = _mirrored(image, target)
        if self.colors is not None:
            image = self.colors(image)
        return image, target


def _mirrored(image: Tensor, target: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    size = (image.shape[1], image.shape[2])
    boxes = tv_tensors.BoundingBoxes(target["boxes"], format="XYXY", canvas_size=size)
    mirrored = {**target, "boxes": F.horizontal_flip(boxes).as_subclass(Tensor)}
    if "masks" in target:
        mirrored["masks"] = F.horizontal_flip(target["masks"])
    return F.horizontal_flip(image), mirrored


def _collate(items: list[Any]) -> DetectionBatch:
    read = [item for item in items if item.image is not None]
    return DetectionBatch(
        images=[item.image for item in read],
        targets=[item.target for item in read],
        indices=torch.tensor([item.position for item in read], dtype=torch.int64),
        unreadable=tuple(Unreadable(item.position, item.reason) for item in items if item.image is None),
    )
