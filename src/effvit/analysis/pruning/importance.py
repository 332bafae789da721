"""First-order Taylor scores: how much the loss would change without a channel, a head, a hidden unit.

Without a group of weights w the loss changes by about -sum(gradient x w). The weights taken for a channel are
those that read it, or the affine map right behind what computes it: a set whose zeroing removes exactly this
channel, and in which nothing counts twice. (All weights around a channel, as is often done, count the same change
once for each layer that it passes.)

Source: Molchanov et al., CVPR 2019, arXiv:1906.10771, Eq. 8, with the absolute value in the place of the square:
per batch, the products of a group are summed with their signs, then the absolute values are averaged over batches.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from effvit.errors import ConfigError, DataError

Loss = Callable[[Any, Tensor], Tensor]
"""(output of the network, targets) -> mean loss of the batch."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """Some weights of one parameter, and which group each of them belongs to."""

    parameter: str
    """Name of the parameter."""
    dim: int
    """The dimension whose entries are channels; the rest is summed."""
    channels: Sequence[int]
    """Entries of that dimension."""
    groups: Sequence[int]
    """For each of them the group that it counts for."""


@dataclass(frozen=True, kw_only=True)
class Groups:
    """Things that can be removed one by one, such as the query/key channels of a block."""

    name: str
    """What they are called in a plan."""
    shape: tuple[int, int]
    """Heads (or splits; 1 where there are none) and channels in each."""
    parts: tuple[Part, ...]
    """The weights whose gradient x weight is their score."""


@dataclass(frozen=True, kw_only=True)
class Importance:
    """Scores of a network on some pictures."""

    scores: dict[str, Tensor]
    """Name of the groups -> change of the loss without each, first order, float64, of the groups' shape."""
    num_batches: int
    """Over how many batches the absolute values were averaged."""
    num_pictures: int
    """Pictures in them."""
    loss: float
    """Mean loss of these pictures in evaluation mode."""


def taylor_scores(
    network: nn.Module,
    groups: Sequence[Groups],
    loss: Loss,
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    on_batch: Callable[[int], None] | None = None,
) -> Importance:
    """Score groups of weights, in evaluation mode: what is scored is the network that is used.

    Args:
        network: Any network; it is left as it was.
        groups: What to score.
        loss: Mean loss of a batch.
        batches: Pictures and targets, on the network's device.
        on_batch: Told how many batches are done.

    Raises:
        ConfigError: If there is nothing to score, or the loss is not a finite number.
        DataError: If there is no batch.
    """
    if not groups:
        raise ConfigError("nothing to score: the network has no part that can be pruned")
    network = copy.deepcopy(network).eval().requires_grad_(True)
    parameters = dict(network.named_parameters())
    names = sorted({part.parameter for group in groups for part in group.parts})
    wanted = [parameters[name] for name in names]
    device = wanted[0].device
    # Once, not per batch: the index tensors.
    indexed = [
        [
            (
                part.parameter,
                part.dim,
                torch.tensor(part.channels, device=device),
                torch.tensor(part.groups, device=device),
            )
            for part in group.parts
        ]
        for group in groups
    ]
    sums = [torch.zeros(math.prod(group.shape), dtype=torch.float64) for group in groups]
    num_batches = num_pictures = 0
    total_loss = 0.0
    for images, targets in batches:
        value = loss(network(images), targets)
        mean = float(value.detach()) if value.numel() == 1 else math.nan
        if not math.isfinite(mean):
            raise ConfigError(f"the loss must be one finite number, got {value.detach()}")
        gradients = torch.autograd.grad(value, wanted, allow_unused=True)
        change = {
            name: parameter.detach() * (torch.zeros_like(parameter) if gradient is None else gradient)
            for name, parameter, gradient in zip(names, wanted, gradients, strict=True)
        }
        for total, parts in zip(sums, indexed, strict=True):
            signed = torch.zeros(len(total), dtype=torch.float64, device=device)
            for name, dim, channels, owners in parts:
                by_channel = change[name].double().movedim(dim, 0)
                per_channel = by_channel.reshape(len(by_channel), -1).sum(1)
                signed.index_add_(0, owners, per_channel[channels])
            total += signed.abs().cpu()
        num_batches += 1
        num_pictures += len(images)
        total_loss += mean * len(images)
        if on_batch is not None:
            on_batch(num_batches)
    if not num_batches:
        raise DataError("no pictures to score with: there is no batch")
    return Importance(
        scores={
            group.name: (total / num_batches).reshape(group.shape) for group, total in zip(groups, sums, strict=True)
        },
        num_batches=num_batches,
        num_pictures=num_pictures,
        loss=total_loss / num_pictures,
    )
