"""Our own blocks with any share of attention: a third, in the middle of each block, is the paper's."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise

from effvit.analysis.ratios.spread import multiples, spread_evenly
from effvit.model.config import BlockConfig, EfficientViTConfig, StageConfig

FFN_STEP, VALUE_STEP = 8, 2
"""Hidden channels, and channels of a head's values, are multiples of these."""
_WIDTH_STEP = 8
"""Widths are multiples of this, and of the heads."""


def num_layers_of(config: EfficientViTConfig) -> int:
    """Attention and feed-forward layers of all blocks; those between two stages belong to no block."""
    return sum(_num_layers(stage) for stage in config.stages)


def num_attention_of(config: EfficientViTConfig) -> int:
    """How many of them are attention."""
    return sum(block.num_heads > 0 for stage in config.stages for block in stage.blocks)


def with_attention(
    config: EfficientViTConfig, num_attention: int, width: int, *, inner: float = 1.0
) -> EfficientViTConfig:
    """A network of the family with another share of attention and another width.

    Each stage keeps its number of layers. Heads and Q/K width are the network's own.

    Args:
        config: A network whose blocks within a stage are alike, such as M0..M5.
        num_attention: How many of its layers are attention.
        width: Channels of the last stage; the others are scaled alike and rounded, so that heads stay whole.
        inner: What the inside of the blocks' layers is scaled by: hidden channels and values.

    Raises:
        ConfigError: If it has not that many layers, or the width does not suit the heads.
    """
    widths = _scaled([stage.width for stage in config.stages], _heads(config), width)
    is_attention = iter(spread_evenly(num_layers_of(config), num_attention))
    stages = []
    for index, (stage, new) in enumerate(zip(config.stages, widths, strict=True)):
        row = [next(is_attention) for _ in range(_num_layers(stage))]
        subsample = stage.subsample
        if subsample is not None:
            old = config.stages[index - 1].width, stage.width
            subsample = replace(
                subsample,
                ffn_dim_before=_rescale(subsample.ffn_dim_before, old[0], widths[index - 1]),
                merge_dim=_rescale(subsample.merge_dim, old[0], widths[index - 1]),
                squeeze_dim=_rescale(subsample.squeeze_dim, old[0], widths[index - 1]),
                ffn_dim_after=_rescale(subsample.ffn_dim_after, old[1], new),
            )
        blocks = tuple(_blocks(stage.blocks[0], row, new / stage.width * inner)) if row else ()
        stages.append(replace(stage, width=new, subsample=subsample, blocks=blocks))
    stem = tuple(max(1, _rescale(channels, config.stages[0].width, widths[0])) for channels in config.stem_widths)
    name = f"{config.name}-attention-{num_attention}-width-{width}"
    return replace(config, name=name, stem_widths=(*stem[:-1], widths[0]), stages=tuple(stages))


def step_of(config: EfficientViTConfig) -> int:
    """The width of the last stage goes in steps of this: its heads stay whole."""
    return math.lcm(_heads(config)[-1], _WIDTH_STEP)


def _blocks(like: BlockConfig, row: Sequence[bool], scale: float) -> Iterator[BlockConfig]:
    """Layers, True for attention, cut into blocks of one attention each.

    The feed-forward layers between two attentions are shared by their blocks. Where the cut lies does not change the
    function: layers run in this order.
    """
    ffn_dim = scale * (like.ffn_dims_after or like.ffn_dims_before)[0]
    ffn_dims = tuple(multiples([ffn_dim] * row.count(False), FFN_STEP))
    places = [index for index, is_attention in enumerate(row) if is_attention]
    if not places:
        yield replace(like, num_heads=0, value_dim=0, query_kernels=(), ffn_dims_before=ffn_dims, ffn_dims_after=())
        return
    cuts = [0, *((left + right + 2) // 2 for left, right in pairwise(places)), len(row)]
    value_dims = multiples([scale * like.value_dim] * len(places), VALUE_STEP)
    done = 0
    for place, value_dim, (start, end) in zip(places, value_dims, pairwise(cuts), strict=True):
        middle, last = done + place - start, done + end - start - 1
        yield replace(
            like, value_dim=value_dim, ffn_dims_before=ffn_dims[done:middle], ffn_dims_after=ffn_dims[middle:last]
        )
        done = last


def _heads(config: EfficientViTConfig) -> list[int]:
    return [max((block.num_heads for block in stage.blocks), default=1) for stage in config.stages]


def _num_layers(stage: StageConfig) -> int:
    return sum(len(block.ffn_dims_before) + (block.num_heads > 0) + len(block.ffn_dims_after) for block in stage.blocks)


def _scaled(widths: Sequence[int], num_heads: Sequence[int], last: int) -> list[int]:
    """All widths scaled so that the last is `last`, each other rounded to a multiple of its heads and of the step."""
    steps = [math.lcm(heads, _WIDTH_STEP) for heads in num_heads]
    scaled = [max(step, round(w * last / widths[-1] / step) * step) for w, step in zip(widths, steps, strict=True)]
    return [*scaled[:-1], last]


def _rescale(number: int, old: int, new: int) -> int:
    """A number that goes with a width, for another width."""
    return round(number * new / old)
