"""What an epoch leaves in the run folder: the best weights, the last, the metrics."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from effvit.data.datasets import PictureData
from effvit.errors import ConfigError
from effvit.model.checkpoints import WeightsInfo, save
from effvit.model.network import EfficientViT
from effvit.train.config import TrainConfig
from effvit.train.learner import Learner
from effvit.train.records import EpochFacts, EpochRecord, best_epoch
from effvit.train.runs import RunFolder

SaveWeights = Callable[[Path, nn.Module, Any], object]
"""Writes a network into a folder: (folder, network, its epoch)."""


def keep_epoch(run: RunFolder, learner: Learner, history: Sequence[EpochFacts], save_weights: SaveWeights) -> None:
    """Write the last epoch's weights, and as the best those that validated best so far; then the metrics.

    Where a moving average is kept, it is the last weights, and the best are whichever of the two was better
    in validation: what is saved is what was measured.

    Raises:
        RunError: If the run folder cannot be written.
    """
    record = history[-1]
    average = None if learner.average is None else learner.average.module
    if best_epoch(history) is record:
        save_weights(run.weights, average if average is not None and record.ema_is_better else learner.model, record)
    save_weights(run.last_weights, learner.model if average is None else average, record)
    run.write_metrics(dataclasses.asdict(entry) for entry in history)


def efficientvit_saver(model: nn.Module, data: PictureData, config: TrainConfig, run: RunFolder) -> SaveWeights:
    """The writer of our own networks: weights with class names, preprocessing, and where they come from.

    Args:
        model: The network that is trained; another one that is written is its moving average.
        data: The pictures.
        config: How it is trained.
        run: Its run folder.
    """
    initial_weights = run.read_record().get("initial_weights")

    def save_weights(folder: Path, written: nn.Module, record: EpochRecord) -> None:
        if not isinstance(written, EfficientViT):
            raise ConfigError(f"weights of a {type(written).__name__} need save_weights=, a function that writes them")
        is_average = written is not model
        provenance = {
            "source": "effvit train",
            "data": data.root.resolve().name,
            "initial_weights": initial_weights,
            "epoch": record.epoch,
            "moving_average": is_average,
            "val_top1": record.val_top1_ema if is_average else record.val_top1,
            "config": config.to_dict(),
        }
        info = WeightsInfo(class_names=data.class_names, preprocessing=config.preprocessing, provenance=provenance)
        save(folder, written, info)

    return save_weights
