"""The training loop, to be read from top to bottom.

Everything random in an epoch is seeded from (config.seed, epoch), so the state between two epochs
is the weights, the optimiser's moments and the list of epochs so far: continued from there, a run
gives, on the same machine, bit for bit the weights of one that was never interrupted.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from timm.utils.agc import adaptive_clip_grad
from torch import Tensor, nn

from effvit.data.datasets import PictureData
from effvit.data.loaders import PictureLoader, UnreadableCount, derive_seed
from effvit.data.samples import Sample
from effvit.data.transforms import Transform, eval_transform, normalize, train_transform
from effvit.device import find_device
from effvit.errors import ConfigError, RunError
from effvit.model.checkpoints import WeightsInfo, save
from effvit.model.network import EfficientViT
from effvit.train.config import TrainConfig
from effvit.train.evaluate import evaluate, network_predictor
from effvit.train.figures import write_curves
from effvit.train.optimizer import learning_rate_at, make_optimizer
from effvit.train.records import EpochRecord, StepReport, best_epoch
from effvit.train.runs import RunFolder

_FREE_ON_RESUME = ("device", "num_workers")
"""Settings that say where and how fast, not what is computed."""

_SECONDS_WORTH_A_DRAWING = 10
"""Epochs that take longer each redraw the curves, which takes a third of a second; others wait for the end."""


def fit(
    model: nn.Module,
    data: PictureData,
    config: TrainConfig,
    run: RunFolder,
    *,
    on_step: Callable[[StepReport], None] | None = None,
    on_epoch: Callable[[EpochRecord], None] | None = None,
    resume: bool = False,
    save_weights: Callable[[Path, nn.Module, EpochRecord], object] | None = None,
) -> list[EpochRecord]:
    """Train a classifier and keep the weights of the epoch with the best validation top-1.

    An interruption (Ctrl-C, a kill, a loss that is not finite) leaves the run folder in the state
    of the last finished epoch, from which `resume=True` goes on exactly.

    Args:
        model: Any classifier of (B, 3, H, W) -> (B, num_classes); trained in place. In train mode it may give a
            pair of outputs (two heads), whose losses are averaged.
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
        ConfigError: If the device is not there, or a resumed run was started with another configuration.
        DataError: If too many pictures cannot be read.
        RunError: If the loss is not finite, or the run folder cannot be written or continued.
    """
    device = find_device(config.device)
    model.to(device)
    optimizer = make_optimizer(model, config)
    train_loader = _loader(data.train, train_transform(config.preprocessing, config.augmentation), config, shuffle=True)
    val_loader = _loader(data.val, eval_transform(config.preprocessing), config, shuffle=False)
    keep = save_weights or _efficientvit_saver(data, config, run)

    if resume:
        history = _restore(run, model, optimizer, config)
        run.update_record(status="running", ended=None)
    else:
        history = []

    try:
        if not resume:
            _save_state(run, model, optimizer, config, history)  # the initial weights: a run killed early can go on
        for epoch in range(len(history), config.epochs):
            started = time.perf_counter()
            torch.manual_seed(derive_seed("steps", config.seed, epoch))  # drop path and dropout
            trained = train_one_epoch(
                model, train_loader, optimizer, config, epoch=epoch, device=device, on_step=on_step
            )
            trained_at = time.perf_counter()
            validated = evaluate(
                network_predictor(model),
                val_loader,
                class_names=data.class_names,
                preprocessing=config.preprocessing,
                device=device,
                on_batch=_validation_reporter(on_step, epoch, config),
            )
            record = EpochRecord(
                epoch=epoch + 1,
                learning_rate=trained.learning_rate,
                train_loss=trained.loss,
                val_loss=validated.loss,
                val_top1=validated.top1,
                num_unreadable=trained.num_unreadable + len(validated.unreadable),
                pictures_per_second=trained.num_pictures / (trained_at - started),
                seconds=time.perf_counter() - started,
            )
            history.append(record)
            if best_epoch(history) is record:
                keep(run.weights, model, record)
            run.write_metrics(dataclasses.asdict(entry) for entry in history)
            _save_state(run, model, optimizer, config, history)
            if record.seconds > _SECONDS_WORTH_A_DRAWING:
                write_curves(run.path / "curves.png", history)
            if on_epoch is not None:
                on_epoch(record)
    except KeyboardInterrupt:
        _close(run, history, "interrupted")
        raise
    except Exception:
        _close(run, history, "failed")
        raise
    _close(run, history, "finished")
    return history


class TrainedEpoch(NamedTuple):
    """What one pass of training steps came to."""

    loss: float
    """Mean over the pictures."""
    learning_rate: float
    """Of the last step."""
    num_pictures: int
    num_unreadable: int


def train_one_epoch(
    model: nn.Module,
    loader: PictureLoader,
    optimizer: torch.optim.Optimizer,
    config: TrainConfig,
    *,
    epoch: int,
    device: torch.device,
    on_step: Callable[[StepReport], None] | None = None,
) -> TrainedEpoch:
    """One pass over the training pictures.

    Args:
        model: The network, on `device`; put in train mode.
        loader: The training pictures.
        optimizer: From `make_optimizer`.
        config: Schedule, label smoothing, clipping.
        epoch: From 0.
        device: Where to compute.
        on_step: Called after every step.

    Raises:
        DataError: If too many pictures cannot be read.
        RunError: If the loss is not finite; names epoch and step.
    """
    model.train()
    unreadable = UnreadableCount(len(loader.samples))
    loss_sum, num_pictures, learning_rate = 0.0, 0, 0.0
    for step, batch in enumerate(loader.batches(epoch)):
        unreadable.add(batch.unreadable)
        if len(batch.targets) < 2:  # batch statistics need two pictures; one left over waits for the next epoch
            continue
        learning_rate = learning_rate_at(epoch * len(loader) + step, config.epochs * len(loader), config)
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * (learning_rate / config.learning_rate)

        images = normalize(batch.images.to(device, non_blocking=True), config.preprocessing)
        targets = batch.targets.to(device, non_blocking=True)
        loss = _loss(model(images), targets, config.label_smoothing)
        loss_value = loss.item()
        if not math.isfinite(loss_value):
            raise RunError(
                f"the loss is {loss_value} at epoch {epoch + 1}, step {step + 1} of {len(loader)}; the run folder "
                f"holds epoch {epoch}. Try a learning rate below {config.learning_rate:g}"
            )
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        if config.clip_grad > 0:
            adaptive_clip_grad(model.parameters(), clip_factor=config.clip_grad)  # type: ignore[no-untyped-call]
        optimizer.step()

        loss_sum += loss_value * len(targets)
        num_pictures += len(targets)
        if on_step is not None:
            on_step(StepReport("train", epoch + 1, config.epochs, step + 1, len(loader), loss_value))
    return TrainedEpoch(loss_sum / max(num_pictures, 1), learning_rate, num_pictures, len(unreadable.reasons))


def _loss(output: Tensor | tuple[Tensor, ...], targets: Tensor, label_smoothing: float) -> Tensor:
    heads = output if isinstance(output, tuple) else (output,)
    losses = [F.cross_entropy(logits, targets, label_smoothing=label_smoothing) for logits in heads]
    return torch.stack(losses).mean()


def _loader(samples: Sequence[Sample], transform: Transform, config: TrainConfig, *, shuffle: bool) -> PictureLoader:
    return PictureLoader(
        samples,
        transform,
        batch_size=config.batch_size,
        shuffle=shuffle,
        seed=config.seed,
        num_workers=config.num_workers,
        pin_memory=config.device.startswith("cuda"),
    )


def _validation_reporter(
    on_step: Callable[[StepReport], None] | None, epoch: int, config: TrainConfig
) -> Callable[[int, int], None] | None:
    if on_step is None:
        return None
    return lambda done, total: on_step(StepReport("val", epoch + 1, config.epochs, done, total, None))


def _efficientvit_saver(
    data: PictureData, config: TrainConfig, run: RunFolder
) -> Callable[[Path, nn.Module, EpochRecord], object]:
    initial_weights = run.read_record().get("initial_weights")

    def save_weights(folder: Path, model: nn.Module, record: EpochRecord) -> None:
        if not isinstance(model, EfficientViT):
            raise ConfigError(f"weights of a {type(model).__name__} need save_weights=, a function that writes them")
        provenance = {
            "source": "effvit train",
            "data": data.root.resolve().name,
            "initial_weights": initial_weights,
            "epoch": record.epoch,
            "val_top1": record.val_top1,
            "config": config.to_dict(),
        }
        info = WeightsInfo(class_names=data.class_names, preprocessing=config.preprocessing, provenance=provenance)
        save(folder, model, info)

    return save_weights


def _save_state(
    run: RunFolder,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    config: TrainConfig,
    history: list[EpochRecord],
) -> None:
    run.save_checkpoint(
        {
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "history": [dataclasses.asdict(record) for record in history],
            "config": config.to_dict(),
        }
    )


def _close(run: RunFolder, history: list[EpochRecord], status: str) -> None:
    if history:
        write_curves(run.path / "curves.png", history)
    run.finish(status)


def _restore(
    run: RunFolder, model: nn.Module, optimizer: torch.optim.Optimizer, config: TrainConfig
) -> list[EpochRecord]:
    """Put the last finished epoch into model and optimiser, and give the epochs so far."""
    state: dict[str, Any] = run.load_checkpoint()
    if not state.keys() >= {"model", "optimizer", "history", "config"}:
        raise RunError(f"{run.checkpoint} is damaged: it is not a checkpoint of a run")
    before, now = state["config"], config.to_dict()
    changed = [name for name in now if name not in _FREE_ON_RESUME and before.get(name) != now[name]]
    if changed:
        differences = ", ".join(f"{name} was {before.get(name)}, is {now[name]}" for name in changed)
        raise ConfigError(f"a resumed run keeps its configuration, but {differences}")
    try:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
    except (RuntimeError, ValueError) as error:  # another network than the run was started with
        raise RunError(f"{run.checkpoint} does not fit the network: {' '.join(str(error).split())[:300]}") from error
    return [EpochRecord(**record) for record in state["history"]]
