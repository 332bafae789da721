"""What every network of a study is trained on, so that their accuracies can be compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from effvit.analysis.report import counted
from effvit.data.datasets import PictureData
from effvit.errors import ConfigError
from effvit.studies.listeners import Listeners
from effvit.studies.training import Entrant, Trained, train_all
from effvit.train.config import TrainConfig


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Pictures, settings and seeds."""

    data: PictureData
    """The pictures."""
    config: TrainConfig
    """How; the seeds are put in."""
    seeds: tuple[int, ...] = (0,)
    """A training of every network with each."""
    only_finished: bool = False
    """Whether nothing is trained: what is finished is taken, the rest has no accuracy yet."""

    def check(self, name: str, num_classes: int, image_size: tuple[int, int]) -> None:
        """Refuse a network that was made for other pictures.

        Args:
            name: What it is called in an error.
            num_classes: How many it tells apart.
            image_size: Height and width it is for, in pixels.

        Raises:
            ConfigError: If its classes are not as many as the pictures', or it is not trained on at this size.
        """
        own_classes, own_size = len(self.data.class_names), self.config.preprocessing.image_size
        if num_classes != own_classes:
            raise ConfigError(f"the pictures have {own_classes} classes, {name} {num_classes}")
        if image_size != own_size:
            raise ConfigError(f"the pictures are trained on at {own_size}, {name} is for {image_size}")

    def train(self, entrants: Sequence[Entrant], folder: Path, *, command: str, tell: Listeners) -> list[Trained]:
        """Train networks on it, or take what is finished; see `train_all`."""
        return train_all(
            entrants,
            self.data,
            self.config,
            folder,
            seeds=self.seeds,
            only_finished=self.only_finished,
            command=command,
            on_step=tell.on_step,
            on_run=tell.on_run,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a record; no place of this machine is among them."""
        return {
            "config": self.config.to_dict(),
            "seeds": list(self.seeds),
            "data": self.data.root.resolve().name,
            "num_classes": len(self.data.class_names),
            "num_train": len(self.data.train),
            "num_val": len(self.data.val),
        }

    def __str__(self) -> str:
        """In words, for the conditions of a report."""
        seeds = "seed" if len(self.seeds) == 1 else "seeds"
        return (
            f"{counted(self.config.epochs, 'epoch')} on {counted(len(self.data.train), 'picture')} of"
            f" {len(self.data.class_names)} classes from scratch, judged on {len(self.data.val)},"
            f" {seeds} {', '.join(map(str, self.seeds))}"
        )
