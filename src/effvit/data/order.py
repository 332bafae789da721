"""Which pictures an epoch sees, in which order and in which batches: functions of (seed, epoch) alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Sampler

from effvit.data.randomness import derive_seed
from effvit.errors import ConfigError


class Order(StrEnum):
    """In which order an epoch goes through the pictures; each epoch is as long as the list of pictures."""

    IN_ORDER = "in order"
    """Each picture once, as listed."""
    SHUFFLE = "shuffle"
    """Each picture once, drawn anew each epoch; with `repeats`, some pictures several times and the others not."""
    BALANCED = "balanced"
    """Each class equally often, drawn anew each epoch."""


class View(NamedTuple):
    """One look at a picture: what its augmentation is drawn from, beside the seed."""

    epoch: int
    position: int
    """Which picture: its position in the samples."""
    number: int
    """0 for the picture's first look in this epoch, 1 for its second, ..."""


@dataclass(frozen=True, kw_only=True)
class EpochOrder:
    """The views of an epoch, (N, 2) of (position, number), for N pictures.

    Raises:
        ConfigError: If repeats is below 1, or above 1 with an order that does not repeat so.
    """

    targets: Sequence[int]
    """Class of each picture."""
    order: Order
    repeats: int
    """Looks at a picture in an epoch, with SHUFFLE."""
    seed: int

    def __post_init__(self) -> None:
        if self.repeats < 1 or (self.repeats > 1 and self.order is not Order.SHUFFLE):
            raise ConfigError(
                f"repeats must be at least 1, and 1 unless the order is {Order.SHUFFLE}, "
                f"got {self.repeats} with order {self.order}"
            )

    def views(self, epoch: int) -> Tensor:
        """(position, number) of each view, int64, (N, 2), where N is the number of pictures."""
        if self.order is Order.IN_ORDER:
            return _first_looks(torch.arange(len(self.targets)))
        generator = torch.Generator().manual_seed(derive_seed("order", self.seed, epoch))
        if self.order is Order.BALANCED:
            views = balanced_views(self.targets, self.seed, epoch)
            return views[torch.randperm(len(views), generator=generator)]
        return repeated_views(torch.randperm(len(self.targets), generator=generator), self.repeats)


def repeated_views(shuffled: Tensor, repeats: int) -> Tensor:
    """Repeated augmentation: the first pictures of a shuffled list, `repeats` looks at each, one after the other.

    The looks end where the list would have ended, so an epoch keeps its length and sees one picture in
    `repeats`; where the number of pictures is no multiple, the last picture has fewer looks.

    Source: Hoffer et al., arXiv:1901.09335. timm's RepeatAugSampler gives the same stream, except that it cuts
    the epoch down to a multiple of 256 and pads it for processes; here it is neither cut nor padded.
    """
    num_pictures = len(shuffled)
    place = torch.arange(num_pictures)
    return torch.stack([shuffled[place // repeats], place % repeats], dim=1)


def balanced_views(targets: Sequence[int], seed: int, epoch: int) -> Tensor:
    """As many views as pictures, shared evenly by the classes: their numbers of views differ by one at most.

    A class goes through its pictures again and again, in a new order each time, and the next epoch goes on where
    this one ended. So over any number of epochs from the first, no picture of a class is seen more than once more
    often than another; drawing with replacement would leave a third of a class out of an epoch.
    """
    labels = torch.as_tensor(targets)
    classes, counts = labels.unique(return_counts=True)  # type: ignore[no-untyped-call]
    num_pictures, num_classes = len(labels), len(classes)
    places = torch.randperm(num_classes, generator=torch.Generator().manual_seed(derive_seed("places", seed)))
    members = labels.argsort(stable=True).split(counts.tolist())  # type: ignore[no-untyped-call]
    parts = []
    for place, label, pictures in zip(places.tolist(), classes.tolist(), members, strict=True):
        # floor((n + 0) / k) + ... + floor((n + k - 1) / k) = n, so the classes' shares add up to the epoch, and the
        # one picture more goes round among them.
        start = (epoch * num_pictures + place) // num_classes
        end = ((epoch + 1) * num_pictures + place) // num_classes
        parts.append(_stretch(pictures, start, end, seed, label))
    return torch.cat(parts)


def _stretch(members: Tensor, start: int, end: int, seed: int, label: int) -> Tensor:
    """Views `start` to `end` of the endless list that repeats a class's pictures, each time in a new order."""
    cycles = range(start // len(members), -(-end // len(members)))
    orders = [
        torch.randperm(len(members), generator=torch.Generator().manual_seed(derive_seed("cycle", seed, label, cycle)))
        for cycle in cycles
    ]
    skipped = start - cycles.start * len(members)
    positions = members[torch.cat(orders)[skipped : skipped + end - start]] if orders else members[:0]
    return torch.stack([positions, _occurrence(positions)], dim=1)


def _occurrence(values: Tensor) -> Tensor:
    """How often each value stood in the list before, (N,) -> (N,)."""
    seen: Counter[int] = Counter()
    occurrence = []
    for value in values.tolist():
        occurrence.append(seen[value])
        seen[value] += 1
    return torch.tensor(occurrence, dtype=torch.int64)


def _first_looks(positions: Tensor) -> Tensor:
    return torch.stack([positions, torch.zeros_like(positions)], dim=1)


class EvenBatches(Sampler[list[View]]):
    """This process's part of each batch of an epoch; the epoch travels with each view, for long-lived workers.

    Batches differ by one picture at most, and so do the processes' parts of a batch. The parts, one behind the
    other, are the batch that a single process would have: what is trained does not depend on their number. Nothing
    is padded, so where a batch has fewer pictures than there are processes, the last ones get an empty part.

    Args:
        order: What an epoch sees.
        batch_size: Most pictures in a batch of all processes.
        rank: This process, from 0.
        num_processes: All of them.

    Raises:
        ConfigError: If batch_size is below 1, or rank is not a process.
    """

    def __init__(self, order: EpochOrder, batch_size: int, *, rank: int = 0, num_processes: int = 1) -> None:
        if batch_size < 1:
            raise ConfigError(f"batch_size must be at least 1, got {batch_size}")
        if not 0 <= rank < num_processes:
            raise ConfigError(f"rank must be in 0..num_processes-1, got {rank} of {num_processes}")
        self.order = order
        self.num_batches = -(-len(order.targets) // batch_size)
        self.rank = rank
        self.num_processes = num_processes
        self.epoch = 0
        self.start = 0

    def __len__(self) -> int:
        """Batches of a whole epoch."""
        return self.num_batches

    def __iter__(self) -> Iterator[list[View]]:
        """The batches of `epoch` from number `start`."""
        for batch in self.order.views(self.epoch).tensor_split(self.num_batches)[self.start :]:
            if self.order.repeats > 1:
                batch = _spread_looks(batch, self.order.repeats)
            part = batch.tensor_split(self.num_processes)[self.rank]
            yield [View(self.epoch, position, number) for position, number in part.tolist()]


def _spread_looks(batch: Tensor, repeats: int) -> Tensor:
    """Every `repeats`-th view, then their neighbours, and so on: the looks at a picture come to different processes.

    timm lets the processes take turns to that end. With at least as many processes as looks, no process sees a
    picture twice in a batch of at least processes x looks pictures.
    """
    return torch.cat([batch[offset::repeats] for offset in range(repeats)])
