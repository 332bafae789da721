"""The loss of an epoch, added up without holding the device back."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from effvit.errors import RunError

_STEPS_BETWEEN_READINGS = 20
"""Reading a number from a GPU waits for all work it was given, so it is done now and then."""


class _Step(NamedTuple):
    loss_sum: Tensor
    num_pictures: int
    step: int
    pictures: Sequence[str]


class RunningLoss:
    """Sums the losses of steps, and stops a run whose loss is not finite.

    Args:
        device: Where the losses are. On the CPU each is looked at once it is there, elsewhere in groups.
        place: Where the run stands, as "epoch 3", for the message.
    """

    def __init__(self, device: torch.device, place: str) -> None:
        self._patience = 1 if device.type == "cpu" else _STEPS_BETWEEN_READINGS
        self._place = place
        self._unread: list[_Step] = []
        self.last: float | None = None
        """Mean loss of the last step that was read; None before there is one."""

    def add(self, loss_sum: Tensor, num_pictures: int, *, step: int, pictures: Sequence[str]) -> float:
        """Count a step, from 1; returns the sum of the losses that were read meanwhile.

        Raises:
            RunError: If a loss is not finite; names its step and pictures.
        """
        self._unread.append(_Step(loss_sum, num_pictures, step, pictures))
        return self.read() if len(self._unread) >= self._patience else 0.0

    def read(self) -> float:
        """The sum of the losses that have not been read yet.

        Raises:
            RunError: If one is not finite; names its step and pictures.
        """
        if not self._unread:
            return 0.0
        values: list[float] = torch.stack([entry.loss_sum for entry in self._unread]).tolist()
        for value, entry in zip(values, self._unread, strict=True):
            if not math.isfinite(value):
                names = ", ".join(entry.pictures[:3])
                raise RunError(f"the loss is {value} at {self._place}, step {entry.step} (pictures {names}, ...)")
        self.last = values[-1] / self._unread[-1].num_pictures
        self._unread.clear()
        return sum(values)
