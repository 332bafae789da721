"""What a run tells about itself while it goes on and afterwards."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar


class StepReport(NamedTuple):
    """Where a run is, after a training step or a validation batch."""

    phase: str
    """`train` or `val`."""
    epoch: int
    """From 1."""
    num_epochs: int
    step: int
    """From 1, within the phase."""
    num_steps: int
    loss: float | None
    """Training loss of the last step that was read from the device; None in validation, and before there is one."""


@dataclass(frozen=True, kw_only=True)
class EpochFacts(ABC):
    """How an epoch of any kind of training went; a kind adds what its validation says."""

    epoch: int
    """From 1."""
    learning_rate: float
    """Of the last step."""
    train_loss: float
    """Mean over the epoch's pictures, varied as they were, with label smoothing where there is any."""
    num_unreadable: int
    """Training and validation pictures that could not be read."""
    pictures_per_second: float
    """Training pictures by time, loading and augmentation included."""
    seconds: float
    """Training and validation."""
    waiting_share: float = 0.0
    """Share of the training time that went into waiting for pictures, 0..1."""

    @property
    def ema_is_better(self) -> bool:
        """Whether the moving average did better in validation than the trained weights."""
        return self.ema_score is not None and self.ema_score > self.trained_score

    @property
    def best_score(self) -> tuple[float, ...]:
        """What epochs are compared by, of the better of the two: more is better."""
        return max(self.trained_score, self.ema_score or self.trained_score)

    @property
    @abstractmethod
    def trained_score(self) -> tuple[float, ...]:
        """What the trained weights are compared by."""

    @property
    @abstractmethod
    def ema_score(self) -> tuple[float, ...] | None:
        """What their moving average is compared by; None where none is kept."""

    @property
    @abstractmethod
    def scores_text(self) -> str:
        """What the validation says, in a few words."""

    @property
    @abstractmethod
    def curves(self) -> Mapping[str, float | None]:
        """Points of the curves that the validation adds, by the curve's name."""


@dataclass(frozen=True, kw_only=True)
class EpochRecord(EpochFacts):
    """How an epoch of a classifier went; one line of metrics.jsonl."""

    val_loss: float
    """Mean cross entropy of the trained weights, in nats."""
    val_top1: float
    """Share of right predictions of the trained weights, 0..1."""
    val_loss_ema: float | None = None
    """The same of the moving average of the weights; None where none is kept."""
    val_top1_ema: float | None = None
    """The same of the moving average of the weights; None where none is kept."""

    @property
    def best_top1(self) -> float:
        """Share of right predictions of the better of the two, 0..1: what is saved where it is the best so far."""
        return self.best_score[0]

    @property
    def trained_score(self) -> tuple[float, ...]:
        """Top-1, then the loss."""
        return self.val_top1, -self.val_loss

    @property
    def ema_score(self) -> tuple[float, ...] | None:
        """The same of the average."""
        if self.val_top1_ema is None or self.val_loss_ema is None:
            return None
        return self.val_top1_ema, -self.val_loss_ema

    @property
    def scores_text(self) -> str:
        """Top-1 and loss."""
        average = "" if self.val_top1_ema is None else f" ({self.val_top1_ema:6.2%} averaged)"
        return f"top-1 {self.val_top1:6.2%}{average}  val loss {self.val_loss:.3f}"

    @property
    def curves(self) -> Mapping[str, float | None]:
        """Losses and top-1."""
        return {
            "loss/val": self.val_loss,
            "loss/val_ema": self.val_loss_ema,
            "top1/val": self.val_top1,
            "top1/val_ema": self.val_top1_ema,
        }


Record = TypeVar("Record", bound=EpochFacts)


def best_epoch(history: Sequence[Record]) -> Record:
    """The epoch that validated best (of a classifier: top-1, then the loss); between equals the earlier."""
    return max(history, key=lambda record: record.best_score)


def stops_early(history: Sequence[EpochFacts], patience: int) -> bool:
    """Whether no epoch of the last `patience` was better than all before; never with a patience of 0."""
    return 0 < patience <= len(history) and history[-1].epoch - best_epoch(history).epoch >= patience
