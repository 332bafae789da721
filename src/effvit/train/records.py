"""What a run tells about itself while it goes on and afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple


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
class EpochRecord:
    """How an epoch went; one line of metrics.jsonl."""

    epoch: int
    """From 1."""
    learning_rate: float
    """Of the last step."""
    train_loss: float
    """Mean over the epoch's pictures, augmented, with label smoothing."""
    val_loss: float
    """Mean cross entropy of the trained weights, in nats."""
    val_top1: float
    """Share of right predictions of the trained weights, 0..1."""
    val_loss_ema: float | None = None
    """The same of the moving average of the weights; None where none is kept."""
    val_top1_ema: float | None = None
    """The same of the moving average of the weights; None where none is kept."""
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
        return self._ema_score is not None and self._ema_score > self._trained_score

    @property
    def best_top1(self) -> float:
        """Share of right predictions of the better of the two, 0..1: what is saved where it is the best so far."""
        return self.best_score[0]

    @property
    def best_score(self) -> tuple[float, float]:
        """What epochs are compared by: top-1, then the loss, of the better of the two."""
        return max(self._trained_score, self._ema_score or self._trained_score)

    @property
    def _trained_score(self) -> tuple[float, float]:
        return self.val_top1, -self.val_loss

    @property
    def _ema_score(self) -> tuple[float, float] | None:
        if self.val_top1_ema is None or self.val_loss_ema is None:
            return None
        return self.val_top1_ema, -self.val_loss_ema


def best_epoch(history: Sequence[EpochRecord]) -> EpochRecord:
    """The epoch with the highest top-1; between equals the lower loss, then the earlier."""
    return max(history, key=lambda record: record.best_score)


def stops_early(history: Sequence[EpochRecord], patience: int) -> bool:
    """Whether no epoch of the last `patience` was better than all before; never with a patience of 0."""
    return 0 < patience <= len(history) and history[-1].epoch - best_epoch(history).epoch >= patience
