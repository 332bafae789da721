"""Training of classifiers: the task that the loop of `loop.py` is most often given."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from effvit.data.datasets import PictureData
from effvit.data.loaders import Batch
from effvit.errors import ConfigError
from effvit.train.batches import Preparation, training_loader, validation_loader
from effvit.train.config import TrainConfig
from effvit.train.evaluate import evaluate_all, network_predictor
from effvit.train.figures import write_curves
from effvit.train.learner import MicroBatch, StepLoss
from effvit.train.loop import fit_task
from effvit.train.losses import classifier_loss, criterion_of_run
from effvit.train.outcome import SaveWeights, efficientvit_saver
from effvit.train.parts import check_parts
from effvit.train.records import EpochRecord, StepReport
from effvit.train.runs import RunFolder


def fit(
    model: nn.Module,
    data: PictureData,
    config: TrainConfig,
    run: RunFolder,
    *,
    on_step: Callable[[StepReport], None] | None = None,
    on_epoch: Callable[[EpochRecord], None] | None = None,
    resume: bool = False,
    save_weights: SaveWeights | None = None,
) -> list[EpochRecord]:
    """Train a classifier and keep the weights that were best in validation, and the last.

    What becomes of an interruption, and of several processes, is `fit_task`'s.

    Args:
        model: Any classifier of (B, 3, H, W) -> (B, num_classes); trained in place. In train mode it may give a
            pair of outputs (two heads).
        data: The pictures.
        config: How to train.
        run: Where to write, made by `RunFolder.create` or found by `RunFolder.open`.
        on_step: Called after every training step and validation batch.
        on_epoch: Called after every epoch, when it is on the disk.
        resume: Whether to go on with what `run` holds.
        save_weights: Writes a network into a folder; by default `effvit.save`, which wants an EfficientViT.

    Returns:
        One record an epoch, those before a resumption included.

    Raises:
        ConfigError: If the device is not there, the batch is too small for the processes, or a resumed run
            was started with another configuration.
        DataError: If too many pictures cannot be read.
        RunError: If the loss is not finite, or the run folder cannot be written or continued.
        WeightsError: If the teacher cannot be had.
    """
    task = Classification(data, config, save_weights or efficientvit_saver(model, data, config, run))
    history: list[Any] = fit_task(model, task, run, on_step=on_step, on_epoch=on_epoch, resume=resume)
    return history


class Classification:
    """Learning the classes of pictures; a `Task`.

    Args:
        data: The pictures.
        config: How.
        save_weights: Writes a network into a folder.
    """

    epoch_type = EpochRecord

    def __init__(self, data: PictureData, config: TrainConfig, save_weights: SaveWeights) -> None:
        self.config = config
        self.train_loader = training_loader(data, config)
        self._val_loader = validation_loader(data, config)
        self._data = data
        self._save_weights = save_weights
        self._device = torch.device("cpu")
        self._prepare: Preparation | None = None

    def begin(self, device: torch.device) -> StepLoss:
        """Open the teacher, if there is one; refuse parts of a batch that are too small.

        Raises:
            ConfigError: If the batch is too small for the processes, or the teacher cannot teach this.
            WeightsError: If the teacher cannot be had.
        """
        criterion = criterion_of_run(self.config, self._data, device)
        check_parts(self.config, self.train_loader)
        self._device = device
        self._prepare = Preparation(self.config, len(self._data.class_names), device)
        return classifier_loss(criterion)

    def micro_batches(self, batch: Batch, seed: int) -> list[MicroBatch]:
        """Normalised, erased, mixed."""
        if self._prepare is None:
            raise ConfigError("micro_batches before begin: the task does not know its device yet")
        return self._prepare(batch, seed)

    def validate(
        self, networks: Mapping[str, nn.Module], on_batch: Callable[[int, int], None]
    ) -> tuple[dict[str, Any], Sequence[str]]:
        """Loss and top-1 of each network, in one pass over the pictures."""
        found = evaluate_all(
            {name: network_predictor(network) for name, network in networks.items()},
            self._val_loader,
            class_names=self._data.class_names,
            preprocessing=self.config.preprocessing,
            device=self._device,
            max_unreadable=self.config.max_unreadable,
            on_batch=on_batch,
        )
        trained, average = found["trained"], found.get("average")
        fields = {
            "val_loss": trained.loss,
            "val_top1": trained.top1,
            "val_loss_ema": None if average is None else average.loss,
            "val_top1_ema": None if average is None else average.top1,
        }
        return fields, trained.unreadable

    def save(self, folder: Path, network: nn.Module, record: EpochRecord) -> None:
        """Write a network as the run's saver does."""
        self._save_weights(folder, network, record)

    def draw(self, path: Path, history: Sequence[EpochRecord]) -> None:
        """Losses, top-1 and learning rate."""
        write_curves(path, history, num_epochs=self.config.epochs)
