"""Batches of labelled pictures, and the count of those that could not be read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from effvit.data.decoding import open_for_training
from effvit.data.order import Order
from effvit.data.pictures import read_sample
from effvit.data.samples import Sample
from effvit.data.transforms import TrainTransform, Transform
from effvit.data.views import ViewDataset, ViewLoader
from effvit.errors import DataError

_MAX_REASONS_IN_MESSAGE = 3


class Unreadable(NamedTuple):
    """A picture that could not be decoded."""

    position: int
    """Position in the samples."""
    reason: str
    """One line that names the file."""


class Batch(NamedTuple):
    """What a loader gives: the pictures that could be read, and word of those that could not."""

    images: Tensor
    """uint8, (B, 3, H, W); shape (0,) if there are none."""
    targets: Tensor
    """Class indices, int64, (B,)."""
    indices: Tensor
    """Positions in the loader's samples, int64, (B,)."""
    unreadable: tuple[Unreadable, ...]


class PictureLoader(ViewLoader[Sample, "_Item", Batch]):
    """Passes over labelled pictures; see `ViewLoader`.

    Args:
        samples: The pictures.
        transform: Picture -> uint8 tensor (3, H, W); it may draw from the global generators of Python, NumPy and
            torch, which are seeded for each look at a picture.
        batch_size: Most pictures in a batch, of all processes together, at least 1.
        order: In which order an epoch goes through the pictures.
        repeats: Looks at a picture in an epoch, at least 1; above 1 (repeated augmentation) with SHUFFLE alone.
        seed: Seed of order and augmentation.
        num_workers: Processes that decode; 0 decodes in this one.
        pin_memory: Whether batches are put where a GPU copies from fastest.
        rank: Which of the processes that train together this is, from 0.
        num_processes: How many they are.

    Raises:
        ConfigError: If a number is out of range.
        DataError: If there are no samples.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        transform: Transform,
        *,
        batch_size: int,
        order: Order = Order.IN_ORDER,
        repeats: int = 1,
        seed: int = 0,
        num_workers: int = 0,
        pin_memory: bool = False,
        rank: int = 0,
        num_processes: int = 1,
    ) -> None:
        super().__init__(
            samples,
            _Pictures(samples, transform, seed),
            _collate,
            targets=[sample.target for sample in samples],
            batch_size=batch_size,
            order=order,
            repeats=repeats,
            seed=seed,
            num_workers=num_workers,
            pin_memory=pin_memory,
            rank=rank,
            num_processes=num_processes,
        )


class UnreadableCount:
    """Collects the unreadable pictures of one pass; more than one and more than a share of all end it.

    Args:
        num_pictures: Pictures of the pass.
        max_share: Share of them that may be unreadable, 0..1. A single one may always be.
    """

    def __init__(self, num_pictures: int, max_share: float = 0.01) -> None:
        self.num_pictures = num_pictures
        self.max_share = max_share
        self.reasons: list[str] = []

    def add(self, unreadable: Iterable[Unreadable]) -> None:
        """Count the unreadable pictures of a batch.

        Raises:
            DataError: If there are too many by now; lists the first few.
        """
        self.reasons.extend(picture.reason for picture in unreadable)
        count = len(self.reasons)
        if count > max(1, self.max_share * self.num_pictures):
            first = "; ".join(self.reasons[:_MAX_REASONS_IN_MESSAGE])
            raise DataError(
                f"at least {count} of {self.num_pictures} pictures cannot be read (allowed: 1 picture or "
                f"{self.max_share:.2%}; more with --set max_unreadable=SHARE): {first}"
            )


class _Item(NamedTuple):
    position: int
    image: Tensor | None
    target: int
    reason: str


class _Pictures(ViewDataset["_Item"]):
    def __init__(self, samples: Sequence[Sample], transform: Transform, seed: int) -> None:
        super().__init__(seed)
        self.samples = samples
        self.transform = transform

    def read(self, position: int) -> _Item:
        sample = self.samples[position]
        try:
            return _Item(position, self._transformed(sample), sample.target, "")
        except DataError as error:
            return _Item(position, None, sample.target, str(error))

    def _transformed(self, sample: Sample) -> Tensor:
        if isinstance(self.transform, TrainTransform):
            return self.transform(open_for_training(sample))
        return self.transform(read_sample(sample))


def _collate(items: list[_Item]) -> Batch:
    read = [item for item in items if item.image is not None]
    images = [item.image for item in read if item.image is not None]
    return Batch(
        images=torch.stack(images) if images else torch.empty(0, dtype=torch.uint8),
        targets=torch.tensor([item.target for item in read], dtype=torch.int64),
        indices=torch.tensor([item.position for item in read], dtype=torch.int64),
        unreadable=tuple(Unreadable(item.position, item.reason) for item in items if item.image is None),
    )
