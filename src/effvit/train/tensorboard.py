"""The curves of a run for TensorBoard, beside metrics.jsonl and curves.png, which every run has."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import TracebackType
from typing import Any

from effvit.errors import ConfigError, RunError
from effvit.train.records import EpochFacts


def import_tensorboard() -> Any:
    """torch's module for TensorBoard, imported where it is wanted.

    Raises:
        ConfigError: If the package is not installed; names the extra.
    """
    try:
        return importlib.import_module("torch.utils.tensorboard")
    except ImportError as error:
        raise ConfigError(
            "tensorboard=true needs the package tensorboard, which is not installed: pip install 'effvit[tensorboard]'"
        ) from error


class Writer:
    """Writes one point of every curve an epoch; `tensorboard --logdir runs` then shows all runs together.

    Args:
        folder: Where the event files go, made if it is missing.
        epochs_done: Epochs that a resumed run keeps; points of later ones, from before it was killed, are hidden.

    Raises:
        ConfigError: If the package is not installed.
        RunError: If the folder cannot be written.
    """

    def __init__(self, folder: Path | str, *, epochs_done: int = 0) -> None:
        module = import_tensorboard()
        try:
            self._writer = module.SummaryWriter(str(folder), purge_step=epochs_done + 1)
        except OSError as error:
            raise RunError(f"cannot write {folder}: {error.strerror or error}") from error

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close()

    def write(self, record: EpochFacts) -> None:
        """Add an epoch to the curves and put it on the disk."""
        points = {
            "loss/train": record.train_loss,
            **record.curves,
            "learning_rate": record.learning_rate,
            "pictures_per_second": record.pictures_per_second,
            "waiting_share": record.waiting_share,
        }
        for name, value in points.items():
            if value is not None:
                self._writer.add_scalar(name, value, record.epoch)
        self._writer.flush()

    def close(self) -> None:
        """Finish the event file."""
        self._writer.close()
