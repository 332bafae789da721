"""The optimiser and its schedule."""

from __future__ import annotations

import math

import torch
from timm.optim import param_groups_weight_decay  # type: ignore[attr-defined]
from torch import nn

from effvit.train.config import TrainConfig


def learning_rate_at(step: int, num_steps: int, config: TrainConfig) -> float:
    """Linear rise, then half a cosine down.

    Args:
        step: Step of the whole run, from 0.
        num_steps: Steps of the whole run.
        config: The ends of both parts.
    """
    warmup = round(config.warmup_share * num_steps)
    if step < warmup:
        return config.warmup_learning_rate + step / warmup * (config.learning_rate - config.warmup_learning_rate)
    progress = (step - warmup) / max(num_steps - warmup - 1, 1)
    height = config.learning_rate - config.min_learning_rate
    return config.min_learning_rate + height * (1 + math.cos(math.pi * progress)) / 2


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """AdamW on the network's own parameter groups, or timm's (no decay on biases and norms) if it has none."""
    own_groups = getattr(model, "parameter_groups", None)
    if callable(own_groups):
        groups = own_groups(learning_rate=config.learning_rate, weight_decay=config.weight_decay)
    else:
        groups = param_groups_weight_decay(model, config.weight_decay)
    optimizer = torch.optim.AdamW(groups, lr=config.learning_rate, weight_decay=config.weight_decay)
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]  # the schedule scales each group's own rate
    return optimizer
