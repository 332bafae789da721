"""What a training run would do: every resolved value, its cost and its time. Trains nothing."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from effvit.data.datasets import PictureData
from effvit.train.batches import training_loader
from effvit.train.config import TrainConfig
from effvit.train.pace import Pace, measure_pace
from effvit.train.run_config import flat_settings
from effvit.train.schedule import learning_rates

STEPS_WITHOUT_DATA = 100
"""Steps of an epoch that schedules are drawn with where the pictures are not known: the curve is the same."""


@dataclass(frozen=True, kw_only=True)
class DryRun:
    """What a training run would do."""

    settings: dict[str, Any]
    """Every field by its written name, `field` or `section.field`, as it would be used."""
    peak_learning_rate: float
    """Highest learning rate, with the batch's scaling."""
    last_learning_rate: float
    """Of the last step."""
    num_params: int
    """Parameters of the network."""
    num_macs: int
    """Multiply-adds of one picture through the network as it is used after training."""
    num_classes: int
    """Classes of the network."""
    num_train: int | None
    """Training pictures; None without data, like all below."""
    num_val: int | None
    """Held-out pictures."""
    steps_per_epoch: int | None
    """Steps of the optimiser in an epoch."""
    num_steps: int | None
    """Steps of the whole run."""
    pace: Pace | None
    """What was measured."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**vars(self), "pace": None if self.pace is None else self.pace.to_dict()}


def dry_run(config: TrainConfig, data: PictureData | None, network: nn.Module) -> DryRun:
    """Find out what a training run would do and how long it would take.

    Args:
        config: Its settings.
        data: The pictures; None for what can be told without: no steps, no time.
        network: What it would train, with `num_classes`; left as it is.

    Raises:
        ConfigError, DataError, WeightsError: What would stop the run at its beginning, see `measure_pace`.
    """
    steps_per_epoch = None if data is None else len(training_loader(data, config))
    _, rates = learning_rates(config, steps_per_epoch or STEPS_WITHOUT_DATA)
    return DryRun(
        settings=flat_settings(config),
        peak_learning_rate=config.peak_learning_rate,
        last_learning_rate=rates[-1],
        num_params=sum(parameter.numel() for parameter in network.parameters()),
        num_macs=count_macs(network, config),
        num_classes=int(network.num_classes),  # type: ignore[arg-type]
        num_train=None if data is None else len(data.train),
        num_val=None if data is None else len(data.val),
        steps_per_epoch=steps_per_epoch,
        num_steps=None if steps_per_epoch is None else config.epochs * steps_per_epoch,
        pace=None if data is None else measure_pace(config, data, network),
    )


def count_macs(network: nn.Module, config: TrainConfig) -> int:
    """Multiply-adds of one picture of the configured size: matrix products and convolutions, by torch's counter."""
    preprocessing = config.preprocessing
    picture = torch.zeros(1, len(preprocessing.mean), *preprocessing.image_size)
    counted = copy.deepcopy(network).cpu().eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        counted(picture)
    return int(counter.get_total_flops()) // 2
