"""Passes over anything that is read a picture at a time, whose content depends on (seed, epoch, picture) alone.

Neither the number of workers, nor the number of processes, nor what was drawn before changes a batch, so
that a run that is continued at a step sees exactly what the uninterrupted run saw. docs/loading.md has more.
"""

from __future__ import annotations

import signal
import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Generic, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from effvit.data.order import EpochOrder, EvenBatches, Order, View
from effvit.data.randomness import derive_seed, generators_restored, seed_generators
from effvit.errors import ConfigError, DataError, RunError, first_line

Item = TypeVar("Item")
BatchOf = TypeVar("BatchOf")
Sampled = TypeVar("Sampled")


class ViewDataset(Dataset[Item], ABC, Generic[Item]):
    """Reads a picture with the augmentation of a view.

    Args:
        seed: Seed of the augmentation.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    @abstractmethod
    def read(self, position: int) -> Item:
        """Read the picture at a position; may draw from the global generators of Python, NumPy and torch."""

    def __getitems__(self, views: list[View]) -> list[Item]:
        """A batch, for which the global generators are put aside once."""
        with generators_restored():
            return [self[view] for view in views]

    def __getitem__(self, view: View) -> Item:
        seed_generators(derive_seed("picture", self.seed, *view))
        return self.read(view.position)


class ViewLoader(Generic[Sampled, Item, BatchOf]):
    """Passes over pictures, in batches whose sizes differ by one at most.

    Even batches leave out no picture and have no tiny remainder, which would disturb batch
    normalisation: 65 pictures at batch size 64 come as 33 and 32. Several processes each get a stretch of every
    batch, see `EvenBatches`; a stretch may be empty where a batch has fewer pictures than there are processes.

    Args:
        samples: The pictures; each has a `name`.
        dataset: Reads them by position.
        collate: Items -> batch.
        targets: Class of each picture, for a balanced order; their number is the pictures'.
        batch_size: Most pictures in a batch, of all processes together, at least 1.
        order: In which order an epoch goes through the pictures.
        repeats: Looks at a picture in an epoch, at least 1; above 1 (repeated augmentation) with SHUFFLE alone.
        seed: Seed of the order.
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
        samples: Sequence[Sampled],
        dataset: ViewDataset[Item],
        collate: Callable[[list[Item]], BatchOf],
        *,
        targets: Sequence[int],
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
        views = EpochOrder(targets=targets, order=order, repeats=repeats, seed=seed)
        self._batches = EvenBatches(views, batch_size, rank=rank, num_processes=num_processes)
        with _any_number_of_workers():
            self._loader: DataLoader[Item] = DataLoader(
                dataset,
                batch_sampler=self._batches,
                num_workers=num_workers,
                collate_fn=collate,
                pin_memory=pin_memory,
                persistent_workers=num_workers > 0,
                worker_init_fn=_leave_interrupts_to_the_main_process,
                generator=torch.Generator(),  # its own, so that a pass draws nothing from the global one
            )

    def __len__(self) -> int:
        """Number of batches in a whole pass, the same in every process."""
        return len(self._batches)

    def batches(self, epoch: int = 0, start: int = 0) -> Iterator[BatchOf]:
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


@contextmanager
def _any_number_of_workers() -> Iterator[None]:
    """No warning about more workers than cores: somebody asked for them, and they are right where the disk is slow."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="This DataLoader will create")
        yield


def _leave_interrupts_to_the_main_process(worker: int) -> None:
    """Ctrl-C reaches every process of a terminal; the main one ends its workers, without a traceback from each."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
