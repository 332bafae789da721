"""How fast a run would go: a few real steps on a copy of the network, with real pictures."""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import nn

from effvit.data.datasets import PictureData
from effvit.data.loaders import Batch, PictureLoader
from effvit.data.transforms import eval_transform, normalize
from effvit.device import find_device
from effvit.errors import ConfigError, DataError
from effvit.timing import Spread, spread, synchronizer
from effvit.train.class_balance import count_classes
from effvit.train.config import TrainConfig
from effvit.train.distributed import local_device
from effvit.train.evaluate import network_predictor
from effvit.train.learner import Learner
from effvit.train.loop import Preparation, train_loader
from effvit.train.losses import make_criterion
from effvit.train.teachers import open_teacher

_MAX_CPU_BATCH = 32
"""Pictures of a measured step on a CPU: it takes as long per picture as a large one, and ends sooner."""
_MAX_STEPS = 8
_MIN_STEPS = 2
_SECONDS = 12.0
"""After which no further step is measured."""


@dataclass(frozen=True, kw_only=True)
class Pace:
    """What a few steps took, and what follows for the whole run in one process on this machine.

    Spreads are (median, lower quartile, upper quartile).
    """

    num_pictures: int
    """Pictures in a measured step."""
    num_steps: int
    """Steps that were measured, after one to warm up."""
    step_ms: Spread
    """Forward, backward and optimiser, milliseconds a step."""
    load_ms: Spread
    """Decoding and augmenting a training picture in one process, milliseconds."""
    val_ms: Spread
    """Forward pass of a validation picture, milliseconds."""
    val_load_ms: Spread
    """Decoding a validation picture in one process, milliseconds."""
    memory_bytes: int | None
    """Most memory of the GPU that was in use; None on a CPU."""
    epoch_seconds: Spread
    """An epoch with its validation, if the frozen epochs (which are faster) were none."""
    run_seconds: Spread
    """All epochs; start, checkpoints and drawings are not in it."""

    @property
    def pictures_per_second(self) -> float:
        """What the network alone would train."""
        return 1000 * self.num_pictures / self.step_ms.median

    @property
    def loaded_per_second(self) -> float:
        """What one process decodes and augments."""
        return 1000 / self.load_ms.median

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        rates = {"pictures_per_second": self.pictures_per_second, "loaded_per_second": self.loaded_per_second}
        spreads = {key: value._asdict() if isinstance(value, Spread) else value for key, value in vars(self).items()}
        return {**asdict(self), **spreads, **rates}


def measure_pace(config: TrainConfig, data: PictureData, network: nn.Module) -> Pace:
    """Take a few steps and validate a few pictures, with a copy of the network; nothing is kept.

    Args:
        config: How the run would train. The measured step is one micro-batch of it, on a CPU of 32 pictures at most.
        data: The pictures.
        network: What it would train; left as it is.

    Raises:
        ConfigError: If the device is not there, or a micro-batch does not fit its memory.
        DataError: If no batch could be read.
        WeightsError: If the teacher cannot be had.
    """
    device = find_device(local_device(config.device))
    num_pictures = max(config.batch_size // config.accumulation, 2)
    if device.type == "cpu":
        num_pictures = min(num_pictures, _MAX_CPU_BATCH)
    small = replace(
        config,
        batch_size=num_pictures,
        accumulation=1,
        num_workers=0,
        learning_rate=config.peak_learning_rate,
        base_batch_size=0,
    )
    stopwatch = _Stopwatch(device)
    try:
        steps, loads = _time_steps(small, data, network, device, stopwatch)
        forwards, val_loads = _time_validation(small, data, network, device, stopwatch)
    except torch.OutOfMemoryError as error:
        raise ConfigError(
            f"a micro-batch of {num_pictures} pictures does not fit the memory of {device}; raise accumulation, "
            f"{config.accumulation} now, or lower batch_size, {config.batch_size} now"
        ) from error
    step_ms, load_ms, val_ms, val_load_ms = map(spread, (steps, loads, forwards, val_loads))
    per_picture = Spread(*(value / num_pictures for value in step_ms))
    num_networks = 2 if config.ema_decay else 1  # the average is validated beside the trained weights
    epoch = Spread(
        *(
            (len(data.train) * train_ms + len(data.val) * evaluate_ms) / 1000
            for train_ms, evaluate_ms in zip(
                (_together(pair, config.num_workers) for pair in zip(per_picture, load_ms, strict=True)),
                (
                    _together((num_networks * forward_ms, decode_ms), config.num_workers)
                    for forward_ms, decode_ms in zip(val_ms, val_load_ms, strict=True)
                ),
                strict=True,
            )
        )
    )
    return Pace(
        num_pictures=num_pictures,
        num_steps=len(steps),
        step_ms=step_ms,
        load_ms=load_ms,
        val_ms=val_ms,
        val_load_ms=val_load_ms,
        memory_bytes=torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None,
        epoch_seconds=epoch,
        run_seconds=Spread(*(config.epochs * seconds for seconds in epoch)),
    )
