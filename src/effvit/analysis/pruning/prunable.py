"""A network that can be pruned, whoever built it: one door to both kinds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import get_args

from torch import Tensor, nn

from effvit.analysis.pruning.importance import Groups, Importance, Loss, taylor_scores
from effvit.analysis.pruning.knobs import Kind, Ranking, check_kinds
from effvit.analysis.pruning.own import OwnRanking
from effvit.analysis.pruning.own_knobs import KnobFinder, refuse_inexact
from effvit.analysis.pruning.timm_parts import TimmRanking, find_channels, full_cost
from effvit.errors import ConfigError
from effvit.model.network import EfficientViT


@dataclass(frozen=True)
class Prunable:
    """What of a network can be removed."""

    groups: tuple[Groups, ...]
    """What must be scored."""
    rank: Callable[[Importance], Ranking]
    """From scores to an order."""


def find_prunable(
    network: nn.Module,
    input_size: tuple[int, int, int],
    *,
    kinds: Sequence[str] = get_args(Kind),
    multiple: int = 8,
    min_share: float = 0.1,
) -> Prunable:
    """Find what can be removed from a network so that the rest is exact.

    Args:
        network: One of ours, whole; or any network with timm's `Attention`, Swin's `WindowAttention` or `Mlp`.
        input_size: Channels, height and width that costs are counted for.
        kinds: What may be removed, see `knobs.KIND_NAMES`; a network without some kind has no knob of it.
        multiple: Hidden sizes become multiples of this, V channels of a half and Q/K channels of a quarter.
        min_share: Share of each that stays at least, in [0, 1).

    Raises:
        ConfigError: If nothing can, with the reason.
    """
    chosen = check_kinds(tuple(kinds))
    if multiple < 1:
        raise ConfigError(f"multiple must be at least 1, got {multiple}")
    if not 0 <= min_share < 1:
        raise ConfigError(f"min_share must be at least 0 and below 1, got {min_share}")
    if isinstance(network, EfficientViT):
        config = network.config
        refuse_inexact(config)
        own = KnobFinder(config, kinds=chosen, multiple=multiple, min_share=min_share).find()
        if not own:
            raise ConfigError(f"{config.name} has nothing to prune among {', '.join(chosen)}")
        knobs = tuple(knob for knob, _ in own)
        return Prunable(tuple(groups for _, groups in own), lambda found: OwnRanking(config, knobs, found.scores))
    full = full_cost(network, input_size)  # first: it says what is wrong with a network that does not run
    channels, left_alone = find_channels(network, input_size, kinds=chosen, multiple=multiple, min_share=min_share)
    if not channels:
        why = "; ".join(left_alone) or "it has no Attention, WindowAttention or Mlp of timm's, and is none of ours"
        raise ConfigError(f"{type(network).__name__} has nothing to prune among {', '.join(chosen)}: {why}")
    return Prunable(
        tuple(entry.groups for entry in channels),
        lambda found: TimmRanking(channels, left_alone, full, found.scores),
    )


def importance(
    network: nn.Module,
    loss: Loss,
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    input_size: tuple[int, int, int] | None = None,
) -> Importance:
    """Taylor scores of everything in a network that could be pruned; see `importance.taylor_scores`.

    Args:
        network: See `find_prunable`.
        loss: (output, targets) -> mean loss of a batch.
        batches: Pictures and targets.
        input_size: Channels, height and width; for networks that are not ours.
    """
    if input_size is None:
        if not isinstance(network, EfficientViT):
            raise ConfigError("the size of a picture is needed for a network that is not ours")
        input_size = (network.config.in_channels, *network.config.image_size)
    return taylor_scores(network, find_prunable(network, input_size).groups, loss, batches)
