"""The optimiser, its learning rate over time, and the clipping of its gradients."""

from __future__ import annotations

import math
from typing import Any

import torch
from timm.optim import param_groups_layer_decay, param_groups_weight_decay  # type: ignore[attr-defined]
from timm.utils.agc import adaptive_clip_grad
from torch import nn

from effvit.errors import ConfigError
from effvit.train.run_config import RunConfig


def learning_rate_at(step: int, num_steps: int, config: RunConfig, *, steps_per_epoch: int) -> float:
    """Linear rise, then half a cosine down, or down to a tenth at each milestone.

    Milestones count from the first step, so the rise only covers what they say of its steps, as in mmdetection.

    By steps, the cosine starts where the rise ends and is down at the last step. By epochs, all steps of an
    epoch have one rate, and the cosine counts from the first epoch, so the rise only covers its beginning:
    timm's `CosineLRScheduler` as the paper's recipe sets it (`warmup_prefix` off). The official script hands
    it the epoch that has just ended, so there every epoch runs at the rate meant for the one before; here,
    as in timm's own script, each runs at its own, and five warm-up epochs are five.

    Args:
        step: Step of the whole run, from 0.
        num_steps: Steps of the whole run.
        config: The ends of both parts, and whether the rate changes with steps or epochs.
        steps_per_epoch: Steps in a pass over the training pictures, at least 1.

    Returns:
        The rate of groups without a scale of their own.
    """
    if config.schedule == "milestones":
        fallen = sum(step >= milestone * steps_per_epoch for milestone in config.milestones)
        return _risen(step, _num_warmup(config, num_steps), config, config.peak_learning_rate * 0.1**fallen)
    by_epoch = config.schedule_unit == "epoch"
    position, length = (step // steps_per_epoch, num_steps // steps_per_epoch) if by_epoch else (step, num_steps)
    warmup, peak = _num_warmup(config, length, steps_per_epoch if by_epoch else 1), config.peak_learning_rate
    if position < warmup:
        return _risen(position, warmup, config, peak)
    progress = position / length if by_epoch else (position - warmup) / max(length - warmup - 1, 1)
    return config.min_learning_rate + (peak - config.min_learning_rate) * (1 + math.cos(math.pi * progress)) / 2


def _num_warmup(config: RunConfig, length: int, unit: int = 1) -> int:
    """Steps of the rise, or units of several steps, of a run of `length` of them."""
    return round(config.warmup_steps / unit) if config.warmup_steps else round(config.warmup_share * length)


def _risen(position: int, warmup: int, config: RunConfig, rate: float) -> float:
    """A rate that is risen to in the warm-up, and kept after it."""
    if position >= warmup:
        return rate
    return config.warmup_learning_rate + position / warmup * (rate - config.warmup_learning_rate)


def make_optimizer(model: nn.Module, config: RunConfig) -> torch.optim.Optimizer:
    """AdamW over a network's parameters, decayed and slowed down by layers where they should be.

    Biases, norms and what the network names in `no_weight_decay` (attention biases) get no weight decay. With
    layer decay each layer learns slower than the one after it: in our networks stem, blocks (a subsample goes
    with the block after it) and head; in timm's what their `group_matcher` says.

    Args:
        model: One of our networks, or any other.
        config: Highest learning rate, weight decay and layer decay.

    Returns:
        The optimiser; `initial_lr` of a group is its highest rate, which the schedule scales.

    Raises:
        ConfigError: If layer_decay is asked of a network that does not say what its layers are.
    """
    peak = config.peak_learning_rate
    groups = _parameter_groups(model, config)
    # One kernel for all tensors: a fifth of the time on a CPU, where several hundred small ones are the cost.
    optimizer = torch.optim.AdamW(groups, lr=peak, weight_decay=config.weight_decay, fused=True)
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] = peak * group.get("lr_scale", 1.0)
    return optimizer


def _parameter_groups(model: nn.Module, config: RunConfig) -> list[dict[str, Any]]:
    groups: list[dict[str, Any]]
    own_groups = getattr(model, "parameter_groups", None)
    if callable(own_groups):
        groups = own_groups(
            learning_rate=config.peak_learning_rate, weight_decay=config.weight_decay, layer_decay=config.layer_decay
        )
        return groups
    undecayed: set[str] = getattr(model, "no_weight_decay", set)()
    if config.layer_decay == 1:
        groups = param_groups_weight_decay(model, config.weight_decay, no_weight_decay_list=undecayed)
        return groups
    if not hasattr(model, "group_matcher"):
        raise ConfigError(
            f"layer_decay {config.layer_decay:g} needs to know the layers of the network, and a "
            f"{type(model).__name__} does not tell (no group_matcher); set layer_decay=1"
        )
    groups = param_groups_layer_decay(
        model, config.weight_decay, no_weight_decay_list=undecayed, layer_decay=config.layer_decay
    )
    return groups


def clip_gradients(model: nn.Module, config: RunConfig) -> None:
    """Adaptive clipping (Brock et al., arXiv:2102.06171): no unit's gradient above a share of its weights' norm.

    All parameters are clipped, the head's and the attention biases' too, as in the paper's code; the authors
    of the method, and timm's script, leave the head out.

    Args:
        model: The network, after the backward pass; gradients change in place.
        config: The share, `clip_grad`; 0 leaves the gradients alone.
    """
    if config.clip_grad > 0:
        adaptive_clip_grad(model.parameters(), clip_factor=config.clip_grad)  # type: ignore[no-untyped-call]
