"""What the training loop asks of whatever is trained: everything that it does not know itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from effvit.data.loaders import Unreadable
from effvit.train.learner import MicroBatch, StepLoss
from effvit.train.records import EpochFacts
from effvit.train.run_config import RunConfig


class TaskBatch(Protocol):
    """This process's part of a step's pictures."""

    @property
    def targets(self) -> Any:
        """What is to be learnt of each picture that could be read; its length is their number."""

    @property
    def indices(self) -> Tensor:
        """Positions of the pictures in the loader's samples, int64, (B,)."""

    @property
    def unreadable(self) -> tuple[Unreadable, ...]:
        """The pictures that could not be read."""


class TaskLoader(Protocol):
    """Passes over pictures in batches that depend on (seed, epoch, picture) alone, see `data.loaders`."""

    @property
    def samples(self) -> Sequence[Any]:
        """The pictures; each has a `name`."""

    @property
    def seconds_waited(self) -> float:
        """Time in which the consumer of the last pass stood still for want of a batch."""

    def __len__(self) -> int:
        """Batches of a whole pass, the same in every process."""

    def batches(self, epoch: int = 0, start: int = 0) -> Iterator[Any]:
        """One pass, from a batch on."""


class Task(Protocol):
    """A kind of training on some data, with its settings: classes of pictures, boxes, masks."""

    @property
    def config(self) -> RunConfig:
        """The run's settings."""

    @property
    def epoch_type(self) -> type[EpochFacts]:
        """What an epoch is written down as."""

    @property
    def train_loader(self) -> TaskLoader:
        """The training pictures, varied."""

    def begin(self, device: torch.device) -> StepLoss:
        """Look whether a run can start at all; gives what a step makes small.

        Raises:
            EffvitError: If it cannot.
        """

    def micro_batches(self, batch: Any, seed: int) -> list[MicroBatch]:
        """What goes through the network at once, on the device; what is drawn depends on the seed alone."""

    def validate(
        self, networks: Mapping[str, nn.Module], on_batch: Callable[[int, int], None]
    ) -> tuple[dict[str, Any], Sequence[str]]:
        """Run the trained weights (`trained`) and, where it is kept, their `average` over the held-out pictures.

        Returns:
            The fields that `epoch_type` has beyond the common ones, and why pictures could not be read.
        """

    def save(self, folder: Path, network: nn.Module, record: Any) -> None:
        """Write a network of the run, with all that it needs to be used, into a folder."""

    def draw(self, path: Path, history: Sequence[Any]) -> None:
        """Draw the epochs so far."""
