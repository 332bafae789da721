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
    """Training loss of this step; None in validation."""


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
    """Mean cross entropy, in nats."""
    val_top1: float
    """Share of right predictions, 0..1."""
    num_unreadable: int
    """Training and validation pictures that could not be read."""
    pictures_per_second: float
    """Training pictures by time, loading and augmentation included."""
    seconds: float
    """Training and validation."""


def best_epoch(history: Sequence[EpochRecord]) -> EpochRecord:
    """The epoch with the highest top-1; between equals the lower loss, then the earlier."""
    return max(history, key=lambda record: (record.val_top1, -record.val_loss))
