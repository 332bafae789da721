"""Batches of pictures whose content depends on (seed, epoch, picture) alone.

Neither the number of workers, nor the number of processes, nor what was drawn before changes a batch, so
that a run that is continued at a step sees exactly what the uninterrupted run saw. docs/loading.md has more.
"""

from __future__ import annotations

import signal
import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from effvit.data.decoding import open_for_training
from effvit.data.order import EpochOrder, EvenBatches, Order, View
from effvit.data.pictures import read_sample
from effvit.data.randomness import derive_seed, generators_restored, seed_generators
from effvit.data.samples import Sample
from effvit.data.transforms import TrainTransform, Transform
from effvit.errors import ConfigError, DataError, RunError, first_line

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


class PictureLoader:
    """Passes over labelled pictures, in batches whose sizes differ by one at most.

    Even batches leave out no picture and have no tiny remainder, which would disturb batch
    normalisation: 65 pictures at batch size 64 come as 33 and 32. Several processes each get a stretch of every
    batch, see `EvenBatches`; a stretch may be empty where a batch has fewer pictures than there are processes.

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
        if batch_size < 1 or num_workers < 0:
            raise ConfigError(
                f"batch_size must be at least 1, num_workers at least 0, got {batch_size} and {num_workers}"
            )
        if not samples:
            raise DataError("no pictures to load: the list of samples is empty")
        self.samples = samples
        self.seconds_waited = 0.0
        """Time in which the consumer of the last pass stood still for want of a batch, its first one included.

        With workers they decode ahead, and this is what they were too slow by; without, it is all the loading."""
        targets = [sample.target for sample in samples]
        views = EpochOrder(targets=targets, order=order, repeats=repeats, seed=seed)
        self._batches = EvenBatches(views, batch_size, rank=rank, num_processes=num_processes)
        with _any_number_of_workers():
            self._loader: DataLoader[_Item] = DataLoader(
                _Pictures(samples, transform, seed),
                batch_sampler=self._batches,
                num_workers=num_workers,
                collate_fn=_collate,
                pin_memory=pin_memory,
                persistent_workers=num_workers > 0,
                worker_init_fn=_leave_interrupts_to_the_main_process,
                generator=torch.Generator(),  # its own, so that a pass draws nothing from the global one
            )

    def __len__(self) -> int:
        """Number of batches in a whole pass, the same in every process."""
        return len(self._batches)

    def batches(self, epoch: int = 0, start: int = 0) -> Iterator[Batch]:
        """One pass over all pictures; a pass must be finished or dropped before the next begins.

        Args:
            epoch: Which of the passes, from 0.
            start: How many batches to leave out at the beginning; nothing of them is decoded, and those that
                follow are what they are in the whole pass.

        Raises:
            RunError: If a worker was killed, most often by a machine that is short of memory.
        """
        self._batches.epoch, self._batches.start = epoch, start
        self.seconds_waited = 0.0
        asked = time.perf_counter()
        with dead_workers_in_one_line(), _any_number_of_workers():
            iterator = iter(self._loader)
        while True:
            with dead_workers_in_one_line():
                batch = next(iterator, None)
            self.seconds_waited += time.perf_counter() - asked
            if batch is None:
                return
            yield batch
            asked = time.perf_counter()


@contextmanager
def dead_workers_in_one_line() -> Iterator[None]:
    """Turn torch's error about a killed worker into one line that says what to do.

    A loader's pass does so by itself while it waits for a batch. But torch raises the error wherever the main
    process happens to be when the worker dies, so a loop over batches wants to be inside this block as well.

    Raises:
        RunError: If a worker of a loader was killed.
    """
    try:
        yield
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker (pid"):
            raise
        raise RunError(
            f"a process that decodes pictures was killed ({first_line(error)}): the machine may be short of memory; "
            f"try fewer of them (--set num_workers=...)"
        ) from error


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


class _Pictures(Dataset[_Item]):
    """Reads a picture with the augmentation of a view."""

    def __init__(self, samples: Sequence[Sample], transform: Transform, seed: int) -> None:
        self.samples = samples
        self.transform = transform
        self.seed = seed

    def __getitems__(self, views: list[View]) -> list[_Item]:
        """A batch, for which the global generators are put aside once."""
        with generators_restored():
            return [self[view] for view in views]

    def __getitem__(self, view: View) -> _Item:
        sample = self.samples[view.position]
        seed_generators(derive_seed("picture", self.seed, *view))
        try:
            return _Item(view.position, self._transformed(sample), sample.target, "")
        except DataError as error:
            return _Item(view.position, None, sample.target, str(error))

    def _transformed(self, sample: Sample) -> Tensor:
        if isinstance(self.transform, TrainTransform):
            return self.transform(open_for_training(sample))
        return self.transform(read_sample(sample))


@contextmanager
def _any_number_of_workers() -> Iterator[None]:
    """No warning about more workers than cores: somebody asked for them, and they are right where the disk is slow."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="This DataLoader will create")
        yield


def _leave_interrupts_to_the_main_process(worker: int) -> None:
    """Ctrl-C reaches every process of a terminal; the main one ends its workers, without a traceback from each."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _collate(items: list[_Item]) -> Batch:
    read = [item for item in items if item.image is not None]
    images = [item.image for item in read if item.image is not None]
    return Batch(
        images=torch.stack(images) if images else torch.empty(0, dtype=torch.uint8),
        targets=torch.tensor([item.target for item in read], dtype=torch.int64),
        indices=torch.tensor([item.position for item in read], dtype=torch.int64),
        unreadable=tuple(Unreadable(item.position, item.reason) for item in items if item.image is None),
    )
