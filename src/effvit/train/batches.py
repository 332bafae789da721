"""From the pictures of a run to what its network is given."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from effvit.data.datasets import PictureData
from effvit.data.loaders import Batch, PictureLoader
from effvit.data.mixing import Eraser, Mixer
from effvit.data.order import Order
from effvit.data.samples import Sample
from effvit.data.transforms import Transform, eval_transform, normalize, train_transform
from effvit.train.config import TrainConfig
from effvit.train.distributed import num_processes, rank
from effvit.train.learner import MicroBatch


def training_loader(data: PictureData, config: TrainConfig) -> PictureLoader:
    """The training pictures, varied, in the order that the configuration asks for; this process's part of them."""
    order = Order.BALANCED if config.sampler == "balanced" else Order.SHUFFLE
    return _loader(data.train, train_transform(config.preprocessing, config.augmentation), config, order)


def validation_loader(data: PictureData, config: TrainConfig) -> PictureLoader:
    """The held-out pictures as they are, each once; this process's part of them."""
    return _loader(data.val, eval_transform(config.preprocessing), config, Order.IN_ORDER)


def _loader(samples: Sequence[Sample], transform: Transform, config: TrainConfig, order: Order) -> PictureLoader:
    return PictureLoader(
        samples,
        transform,
        batch_size=config.batch_size,
        order=order,
        repeats=config.augmentation.repeats if order is Order.SHUFFLE else 1,
        seed=config.seed,
        num_workers=config.num_workers,
        pin_memory=config.device.startswith("cuda"),
        rank=rank(),
        num_processes=num_processes(),
    )


class Preparation:
    """From a loader's batch to what the network takes: on the device, normalised, erased, mixed, in micro-batches.

    Args:
        config: What is done.
        num_classes: Classes of the targets.
        device: Where the network lies.
    """

    def __init__(self, config: TrainConfig, num_classes: int, device: torch.device) -> None:
        augmentation = config.augmentation
        self._eraser = Eraser(augmentation) if augmentation.random_erasing else None
        self._mixer = Mixer(augmentation, num_classes, config.label_smoothing) if augmentation.mixes else None
        self._config = config
        self._device = device

    def __call__(self, batch: Batch, seed: int) -> list[MicroBatch]:
        """The micro-batches of a batch with at least one picture; what is drawn depends on the seed alone."""
        images = normalize(batch.images.to(self._device, non_blocking=True), self._config.preprocessing)
        targets = batch.targets.to(self._device, non_blocking=True)
        if self._eraser is not None:
            images = self._eraser(images, seed)
        if self._mixer is not None:
            images, targets = self._mixer(images, targets, seed)
        num_parts = max(min(self._config.accumulation, len(targets) // 2), 1)
        if self._config.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        pairs = zip(images.tensor_split(num_parts), targets.tensor_split(num_parts), strict=True)
        return [MicroBatch(*pair) for pair in pairs]
