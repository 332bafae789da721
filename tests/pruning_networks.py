"""Small networks of every build, for tests of pruning."""

from __future__ import annotations

import random

import torch
from helpers import randomise
from torch import Tensor

from effvit.analysis.pruning.importance import Importance
from effvit.analysis.pruning.knobs import KIND_NAMES, Ranking
from effvit.analysis.pruning.prunable import find_prunable
from effvit.model.config import BlockConfig, EfficientViTConfig, StageConfig, SubsampleConfig
from effvit.model.network import EfficientViT

KINDS = tuple(KIND_NAMES)


def random_config(seed: int) -> EfficientViTConfig:
    """A tiny network: mixers mixed within a stage, any V ratio, odd windows, whatever the configuration allows."""
    draw = random.Random(seed)
    stages = []
    for number in range(draw.choice([1, 2])):
        width = draw.choice([12, 24])
        heads = [draw.choice([1, 2, 3])] * 3 if draw.random() < 0.6 else draw.choices([1, 2, 3], k=3)
        blocks = tuple(_block(draw, width, heads[index]) for index in range(draw.choice([1, 2])))
        step = SubsampleConfig(ffn_dim_before=9, merge_dim=11, squeeze_dim=4, ffn_dim_after=7) if number else None
        stages.append(StageConfig(width=width, window=draw.choice([2, 3, 7]), subsample=step, blocks=blocks))
    return EfficientViTConfig(
        num_classes=5,
        image_size=(64, 48),
        stem_widths=(3, 4, 6, stages[0].width),
        stages=tuple(stages),
        activation=draw.choice(["relu", "hard_swish", "gelu", "silu"]),
        token_interaction=draw.random() < 0.7,
        distilled=draw.random() < 0.3,
        mask_padding=draw.random() < 0.7,
    )


def _block(draw: random.Random, width: int, heads: int) -> BlockConfig:
    ffns = {
        "ffn_dims_before": tuple(draw.choices([5, 8], k=draw.choice([0, 1, 2]))),
        "ffn_dims_after": tuple(draw.choices([5, 8], k=draw.choice([0, 1]))),
    }
    if draw.random() < 0.1:
        return BlockConfig(num_heads=0, value_dim=0, **{**ffns, "ffn_dims_after": (8,)})
    return BlockConfig(
        num_heads=heads,
        value_dim=max(1, int(draw.choice([0.5, 0.75, 1, 1, 1.25]) * width / heads)),
        key_dim=draw.choice([2, 4, 5]),
        query_kernels=tuple(draw.choices([1, 3, 5], k=heads)) if draw.random() < 0.7 else (),
        mixer=draw.choice(["cascaded", "cascaded", "grouped", "mhsa"]),
        **ffns,
    )


def network_of(config: EfficientViTConfig, seed: int = 0) -> EfficientViT:
    """A network in which every number matters, in float64 and evaluation mode."""
    network = randomise(EfficientViT(config), seed).double().eval()
    assert isinstance(network, EfficientViT)
    return network


def pictures_for(config: EfficientViTConfig) -> Tensor:
    """Two pictures."""
    return torch.randn(2, config.in_channels, *config.image_size, dtype=torch.float64)


def ranking_of(network: EfficientViT, seed: int = 0, *, kinds: tuple[str, ...] = KINDS) -> Ranking:
    """The network's channels in an order drawn at random."""
    config = network.config
    size = config.in_channels, *config.image_size
    found = find_prunable(network, size, kinds=kinds, multiple=1, min_share=0)
    generator = torch.Generator().manual_seed(seed)
    scores = {group.name: torch.rand(group.shape, generator=generator, dtype=torch.float64) for group in found.groups}
    return found.rank(Importance(scores=scores, num_batches=1, num_pictures=1, loss=0.0))


def random_sizes(ranking: Ranking, seed: int) -> dict[str, int]:
    """Any sizes that go together."""
    draw = random.Random(seed)
    return ranking.settled({knob.name: draw.randint(knob.minimum, knob.size) for knob in ranking.knobs})
