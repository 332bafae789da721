"""Batches of pictures whose content depends on (seed, epoch, picture) alone.

Neither the number of workers nor what was drawn before changes a batch, so that a run that is
continued at an epoch sees exactly what the uninterrupted run saw.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from effvit.data.pictures import read_picture
from effvit.data.samples import Sample
from effvit.data.transforms import Transform
from effvit.errors import ConfigError, DataError

MAX_UNREADABLE_SHARE = 0.01
"""Share of the pictures that may be unreadable before a pass over them is given up."""

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
    """uint8, (B, 3, H, W); shape (0,) if none could be read."""
    targets: Tensor
    """Class indices, int64, (B,)."""
    indices: Tensor
    """Positions in the loader's samples, int64, (B,)."""
    unreadable: tuple[Unreadable, ...]


class PictureLoader:
    """Passes over labelled pictures, in batches whose sizes differ by one at most.

    Even batches leave out no picture and have no tiny remainder, which would disturb batch
    normalisation: 65 pictures at batch size 64 come as 33 and 32.

    Args:
        samples: The pictures.
        transform: Picture -> uint8 tensor (3, H, W); its randomness must come from torch's CPU generator.
        batch_size: Most pictures in a batch, at least 1.
        shuffle: Whether the order is drawn anew each epoch, from (seed, epoch).
        seed: Seed of order and augmentation.
        num_workers: Processes that decode; 0 decodes in this one.
        pin_memory: Whether batches are put where a GPU copies from fastest.

    Raises:
        ConfigError: If batch_size or num_workers is out of range.
        DataError: If there are no samples.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        transform: Transform,
        *,
        batch_size: int,
        shuffle: bool = False,
        seed: int = 0,
        num_workers: int = 0,
        pin_memory: bool = False,
    ) -> None:
        if batch_size < 1 or num_workers < 0:
            raise ConfigError(
                f"batch_size must be at least 1, num_workers at least 0, got {batch_size} and {num_workers}"
            )
        if not samples:
            raise DataError("no pictures to load: the list of samples is empty")
        self.samples = samples
        self._batches = _EvenBatches(len(samples), batch_size, shuffle=shuffle, seed=seed)
        self._loader: DataLoader[_Item] = DataLoader(
            _Pictures(samples, transform, seed),
            batch_sampler=self._batches,
            num_workers=num_workers,
            collate_fn=_collate,
            pin_memory=pin_memory,
            persistent_workers=num_workers > 0,
            generator=torch.Generator(),  # its own, so that a pass draws nothing from the global one
        )

    def __len__(self) -> int:
        """Number of batches in a pass."""
        return len(self._batches)

    def batches(self, epoch: int = 0) -> Iterator[Batch]:
        """One pass over all pictures; a pass must be finished or dropped before the next begins."""
        self._batches.epoch = epoch
        yield from self._loader


class UnreadableCount:
    """Collects the unreadable pictures of one pass; more than one and more than 1 % end it."""

    def __init__(self, num_pictures: int) -> None:
        self.num_pictures = num_pictures
        self.reasons: list[str] = []

    def add(self, unreadable: Iterable[Unreadable]) -> None:
        """Count the unreadable pictures of a batch.

        Raises:
            DataError: If there are too many by now; lists the first few.
        """
        self.reasons.extend(picture.reason for picture in unreadable)
        count = len(self.reasons)
        if count > max(1, MAX_UNREADABLE_SHARE * self.num_pictures):
            first = "; ".join(self.reasons[:_MAX_REASONS_IN_MESSAGE])
            raise DataError(
                f"at least {count} of {self.num_pictures} pictures cannot be read "
                f"(allowed: 1 picture or {MAX_UNREADABLE_SHARE:.0%}): {first}"
            )


def derive_seed(purpose: str, *numbers: int) -> int:
    """Mix a purpose and whole numbers, such as (seed, epoch, index), into one seed of 64 bits.

    Neighbouring numbers and other purposes give unrelated seeds, so that nothing random in a run
    repeats anything else.
    """
    entropy = [*purpose.encode(), *numbers]
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0])


class _Item(NamedTuple):
    position: int
    image: Tensor | None
    target: int
    reason: str


class _Pictures(Dataset[_Item]):
    """Reads picture `index` with the augmentation of `epoch`."""

    def __init__(self, samples: Sequence[Sample], transform: Transform, seed: int) -> None:
        self.samples = samples
        self.transform = transform
        self.seed = seed

    def __getitem__(self, epoch_and_index: tuple[int, int]) -> _Item:
        epoch, index = epoch_and_index
        path, target = self.samples[index][:2]
        try:
            picture = read_picture(path)
        except DataError as error:
            return _Item(index, None, target, str(error))
        with torch.random.fork_rng(devices=[]):
            # The CPU generator only: torch.manual_seed would reset those of the GPUs as well.
            torch.default_generator.manual_seed(derive_seed("picture", self.seed, epoch, index))
            return _Item(index, self.transform(picture), target, "")


class _EvenBatches(Sampler[list[tuple[int, int]]]):
    """Lists of (epoch, index): the epoch travels with the index, so long-lived workers know it."""

    def __init__(self, num_samples: int, batch_size: int, *, shuffle: bool, seed: int) -> None:
        self.num_samples = num_samples
        self.num_batches = -(-num_samples // batch_size)
        self.shuffle = shuffle
        self.seed = seed
        self.epoch = 0

    def __len__(self) -> int:
        return self.num_batches

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        if self.shuffle:
            generator = torch.Generator().manual_seed(derive_seed("order", self.seed, self.epoch))
            order = torch.randperm(self.num_samples, generator=generator)
        else:
            order = torch.arange(self.num_samples)
        for batch in order.tensor_split(self.num_batches):
            yield [(self.epoch, index) for index in batch.tolist()]


def _collate(items: list[_Item]) -> Batch:
    read = [item for item in items if item.image is not None]
    images = [item.image for item in read if item.image is not None]
    return Batch(
        images=torch.stack(images) if images else torch.empty(0, dtype=torch.uint8),
        targets=torch.tensor([item.target for item in read], dtype=torch.int64),
        indices=torch.tensor([item.position for item in read], dtype=torch.int64),
        unreadable=tuple(Unreadable(item.position, item.reason) for item in items if item.image is None),
    )
