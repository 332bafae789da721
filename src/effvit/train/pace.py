"""How fast a run would go: a few real steps on a copy of the network, with real pictures."""

from __future__ import annotations

import copy
import itertools
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from effvit.data.datasets import PictureData
from effvit.data.loaders import Batch, PictureLoader
from effvit.data.transforms import normalize
from effvit.device import find_device
from effvit.errors import ConfigError, DataError
from effvit.timing import Spread, spread, synchronizer
from effvit.train.batches import Preparation, training_loader, validation_loader
from effvit.train.config import TrainConfig
from effvit.train.distributed import local_device
from effvit.train.evaluate import network_predictor
from effvit.train.learner import Learner
from effvit.train.losses import classifier_loss, criterion_of_run

_MAX_CPU_BATCH = 32
"""Pictures of a measured step on a CPU: it takes about as long per picture as a large one, and ends sooner."""
_MAX_BATCHES = 8
_MIN_BATCHES = 2
_SECONDS = 10.0
"""After which no further batch is measured."""
_MAX_PASSES = 3
"""Passes over the pictures in search of batches that can be read."""


@dataclass(frozen=True, kw_only=True)
class Pace:
    """What a few batches took, and what follows for the whole run in one process on this machine."""

    num_pictures: int
    """Pictures in a measured batch."""
    num_batches: int
    """Training batches that were measured, after one to warm up."""
    train_ms: Spread
    """Forward, backward and optimiser, milliseconds a picture."""
    load_ms: Spread
    """Decoding and augmenting in one process, milliseconds a picture."""
    val_ms: Spread
    """Forward pass of the validation, milliseconds a picture."""
    val_load_ms: Spread
    """Decoding for the validation in one process, milliseconds a picture."""
    step_ms: Spread
    """A whole step of the optimiser without the loading, milliseconds."""
    memory_bytes: int | None
    """Most memory of the GPU that was in use; None on a CPU."""
    epoch_seconds: Spread
    """An epoch with its validation, as if nothing were frozen (frozen epochs are faster)."""
    run_seconds: Spread
    """All epochs; start, checkpoints and drawings are not in it."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; a spread is median, p25 and p75."""
        return {key: value._asdict() if isinstance(value, Spread) else value for key, value in vars(self).items()}


def measure_pace(config: TrainConfig, data: PictureData, network: nn.Module) -> Pace:
    """Take a few steps and validate a few pictures, with a copy of the network; nothing of it is kept.

    Args:
        config: How the run would train. What is measured is one micro-batch, on a CPU of 32 pictures at most.
        data: The pictures.
        network: What it would train; left as it is.

    Raises:
        ConfigError: If the device is not there, or a micro-batch does not fit its memory.
        DataError: If no batch could be read.
        WeightsError: If the teacher cannot be had.
    """
    device = find_device(local_device(config.device))
    small = _one_micro_batch(config, device)
    try:
        train_ms, load_ms, num_batches = _measure_training(small, data, network, device)
        val_ms, val_load_ms = _measure_validation(small, data, network, device)
    except torch.OutOfMemoryError as error:
        raise ConfigError(
            f"a micro-batch of {small.batch_size} pictures does not fit the memory of {device}; raise accumulation "
            f"({config.accumulation} now) or lower batch_size ({config.batch_size} now)"
        ) from error
    rates = zip(train_ms, load_ms, val_ms, val_load_ms, strict=True)
    epoch_seconds = Spread(*(_epoch_seconds(config, data, *per_picture) for per_picture in rates))
    return Pace(
        num_pictures=small.batch_size,
        num_batches=num_batches,
        train_ms=train_ms,
        load_ms=load_ms,
        val_ms=val_ms,
        val_load_ms=val_load_ms,
        step_ms=Spread(*(min(config.batch_size, len(data.train)) * value for value in train_ms)),
        memory_bytes=torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None,
        epoch_seconds=epoch_seconds,
        run_seconds=Spread(*(config.epochs * seconds for seconds in epoch_seconds)),
    )


def _one_micro_batch(config: TrainConfig, device: torch.device) -> TrainConfig:
    num_pictures = max(config.batch_size // config.accumulation, 2)
    return replace(
        config,
        batch_size=min(num_pictures, _MAX_CPU_BATCH) if device.type == "cpu" else num_pictures,
        accumulation=1,
        num_workers=0,  # so that one process's decoding can be told from the waiting for it
        learning_rate=config.peak_learning_rate,
        base_batch_size=0,
    )


def _epoch_seconds(
    config: TrainConfig, data: PictureData, train_ms: float, load_ms: float, val_ms: float, val_load_ms: float
) -> float:
    num_networks = 2 if config.ema_decay else 1  # the average is validated beside the trained weights
    train = len(data.train) * _together(train_ms, load_ms, config)
    val = len(data.val) * _together(num_networks * val_ms, val_load_ms, config)
    return (train + val) / 1000


def _together(compute_ms: float, load_ms: float, config: TrainConfig) -> float:
    """Time of a picture that is decoded and computed: one after the other, or at once where there are workers."""
    if config.num_workers == 0:
        return compute_ms + load_ms
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    slower = max(compute_ms, load_ms / min(config.num_workers, cores))
    if config.device != "cpu":
        return slower
    # Decoding and computing share the cores: together they cannot be done before all cores have done all the work.
    return max(slower, (compute_ms * min(torch.get_num_threads(), cores) + load_ms) / cores)


def _measure_training(
    config: TrainConfig, data: PictureData, network: nn.Module, device: torch.device
) -> tuple[Spread, Spread, int]:
    num_classes = len(data.class_names)
    criterion = criterion_of_run(config, data, device)
    learner = Learner(copy.deepcopy(network).to(device), config, classifier_loss(criterion), device)
    learner.begin_epoch(config.freeze_backbone_epochs)
    prepare = Preparation(config, num_classes, device)

    def step(batch: Batch) -> None:
        learner.step(
            prepare(batch, seed=0),
            num_pictures=len(batch.targets),
            learning_rate=config.warmup_learning_rate,
            number=0,
        )

    return _measure(training_loader(data, config), step, device)


def _measure_validation(
    config: TrainConfig, data: PictureData, network: nn.Module, device: torch.device
) -> tuple[Spread, Spread]:
    predict = network_predictor(copy.deepcopy(network).to(device))

    def validate(batch: Batch) -> None:
        predict(normalize(batch.images.to(device), config.preprocessing))

    return _measure(validation_loader(data, config), validate, device)[:2]


def _measure(loader: PictureLoader, work: Callable[[Batch], None], device: torch.device) -> tuple[Spread, Spread, int]:
    """Milliseconds a picture that the work and the loading take, and the number of batches that say so."""
    wait = synchronizer(device) or (lambda: None)
    work_ms, load_ms = [], []
    began = asked = time.perf_counter()
    for batch in _readable(loader):
        loaded = time.perf_counter()
        work(batch)
        wait()
        done = time.perf_counter()
        work_ms.append(1000 * (done - loaded) / len(batch.targets))
        load_ms.append(1000 * (loaded - asked) / len(batch.targets))
        enough = len(work_ms) > _MIN_BATCHES and done - began > _SECONDS
        if enough or len(work_ms) > _MAX_BATCHES:
            break
        asked = time.perf_counter()
    if not work_ms:
        raise DataError("no batch of 2 readable pictures was found to measure with")
    # The first batch warms up, unless it is the only one.
    return spread(work_ms[1:] or work_ms), spread(load_ms[1:] or load_ms), max(len(work_ms) - 1, 1)


def _readable(loader: PictureLoader) -> Iterator[Batch]:
    """Batches of two pictures and more, from as many passes as it takes."""
    batches = itertools.chain.from_iterable(loader.batches(epoch) for epoch in range(_MAX_PASSES))
    return (batch for batch in batches if len(batch.targets) >= 2)
