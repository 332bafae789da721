"""A training loop as a user of timm writes it: timm's data, mixing, optimiser, schedule and average, nothing of ours.

The rival in `learning.py`. Every value comes from the `TrainConfig` that ours is trained with, put where timm's own
training script puts it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
from timm.data import Mixup, create_dataset, create_loader
from timm.loss import LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.utils import ModelEmaV3, dispatch_clip_grad, random_seed
from torch import Tensor, nn

from effvit.train.config import TrainConfig

Batches = list[tuple[Tensor, Tensor]]


class Epoch(NamedTuple):
    """How an epoch went."""

    top1: float
    """Share of right answers on the validation photos, 0..1, of the trained weights."""
    top1_ema: float | None
    """The same of the moving average of the weights; None without one."""
    seconds: float
    """Training and validation."""


def train(
    name: str, data: Path, config: TrainConfig, *, on_epoch: Callable[[Epoch], None]
) -> tuple[nn.Module, list[Epoch]]:
    """Train one of timm's networks from scratch.

    Args:
        name: timm's name.
        data: Folder with `train/CLASS/` and `val/CLASS/`.
        config: The values. Those that are not read here, such as drop path, must be at their defaults.
        on_epoch: Called after every epoch.

    Returns:
        The network whose answers count, the averaged one if there is an average, and the epochs.
    """
    random_seed(config.seed, 0)
    train_loader, val_batches, num_classes = _data(data, config)
    layout = torch.channels_last if config.channels_last else torch.contiguous_format
    model = _network(name, num_classes, config).to(memory_format=layout)  # type: ignore[call-overload]
    average = ModelEmaV3(model, decay=config.ema_decay, use_warmup=config.ema_warmup) if config.ema_decay else None
    called = torch.compile(model) if config.compile else model
    mixup = _mixup(config, num_classes)
    criterion = LabelSmoothingCrossEntropy(config.label_smoothing) if mixup is None else SoftTargetCrossEntropy()
    optimizer = create_optimizer_v2(
        model, "adamw", lr=config.peak_learning_rate, weight_decay=config.weight_decay, layer_decay=None
    )
    scheduler = _schedule(optimizer, config, len(train_loader))

    epochs: list[Epoch] = []
    num_updates = 0
    for _ in range(config.epochs):
        started = time.perf_counter()
        model.train()
        for images, targets in train_loader:
            if mixup is not None:
                images, targets = mixup(images, targets)
            loss = criterion(called(images.contiguous(memory_format=layout)), targets)
            optimizer.zero_grad()
            loss.backward()
            if config.clip_grad:
                dispatch_clip_grad(model.parameters(), value=config.clip_grad, mode="agc")
            optimizer.step()
            num_updates += 1
            if average is not None:
                average.update(model, step=num_updates)
            scheduler.step_update(num_updates=num_updates)
        top1 = _accuracy(model, val_batches, layout)
        top1_ema = None if average is None else _accuracy(average.module, val_batches, layout)
        epochs.append(Epoch(top1, top1_ema, time.perf_counter() - started))
        on_epoch(epochs[-1])
    return (model if average is None else average.module), epochs


def _data(folder: Path, config: TrainConfig) -> tuple[Any, Batches, int]:
    """timm's loader of augmented batches; the validation batches, which stay the same and are decoded once."""
    size = (3, *config.preprocessing.image_size)
    common = {
        "batch_size": config.batch_size,
        "use_prefetcher": False,
        "num_workers": config.num_workers,
        "persistent_workers": config.num_workers > 0,
        "interpolation": config.preprocessing.interpolation,
        "mean": config.preprocessing.mean,
        "std": config.preprocessing.std,
    }
    train_set = create_dataset("", str(folder), split="train", is_training=True)
    augmentation = config.augmentation
    train_loader = create_loader(
        train_set,
        size,
        is_training=True,
        scale=augmentation.crop_scale,
        ratio=augmentation.crop_aspect,
        hflip=augmentation.horizontal_flip,
        color_jitter=augmentation.color_jitter,
        auto_augment=augmentation.rand_augment or None,
        re_prob=augmentation.random_erasing,
        re_mode=augmentation.erasing_mode,
        **common,
    )
    val_set = create_dataset("", str(folder), split="val")
    val_loader = create_loader(val_set, size, crop_pct=config.preprocessing.crop_ratio, **common)
    return train_loader, list(val_loader), len(train_set.reader.class_to_idx)


def _network(name: str, num_classes: int, config: TrainConfig) -> nn.Module:
    shape: dict[str, Any] = {}
    if name.startswith("efficientvit_m"):
        shape["img_size"] = config.preprocessing.image_size
        if config.window:
            shape["window_size"] = (config.window,) * 3
    model: nn.Module = timm.create_model(name, num_classes=num_classes, **shape)
    return model


def _mixup(config: TrainConfig, num_classes: int) -> Mixup | None:
    augmentation = config.augmentation
    if not augmentation.mixes:
        return None
    return Mixup(
        mixup_alpha=augmentation.mixup,
        cutmix_alpha=augmentation.cutmix,
        prob=augmentation.mix_probability,
        switch_prob=augmentation.mix_switch,
        label_smoothing=config.label_smoothing,
        num_classes=num_classes,
    )


def _schedule(optimizer: torch.optim.Optimizer, config: TrainConfig, steps_per_epoch: int) -> Any:
    """A linear rise, then a cosine that begins where the rise ends; by steps."""
    warmup_epochs = round(config.warmup_share * config.epochs)
    scheduler, _ = create_scheduler_v2(
        optimizer,
        "cosine",
        num_epochs=config.epochs - warmup_epochs,
        min_lr=config.min_learning_rate,
        warmup_lr=config.warmup_learning_rate,
        warmup_epochs=warmup_epochs,
        warmup_prefix=True,
        step_on_epochs=False,
        updates_per_epoch=steps_per_epoch,
    )
    return scheduler


@torch.inference_mode()
def _accuracy(model: nn.Module, batches: Batches, layout: torch.memory_format) -> float:
    model.eval()
    right = sum(
        int((model(images.contiguous(memory_format=layout)).argmax(1) == targets).sum()) for images, targets in batches
    )
    return right / sum(len(targets) for _, targets in batches)
