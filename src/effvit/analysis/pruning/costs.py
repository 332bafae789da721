"""Multiply-adds and parameters of a configuration by formula: a plan asks for them tens of thousands of times.

A test holds them equal to what `effvit.analysis.cost` counts by running the network.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from effvit.model.config import BlockConfig, EfficientViTConfig, StageConfig, SubsampleConfig


class Cost(NamedTuple):
    """What a network takes for one picture."""

    macs: int
    """Multiply-accumulates of convolutions, linear layers and matrix products."""
    params: int
    """Parameters, norms not folded."""

    def __add__(self, other: tuple[int, ...]) -> Cost:  # type: ignore[override]  # sums, as costs do
        return Cost(self.macs + other[0], self.params + other[1])


def config_cost(config: EfficientViTConfig) -> Cost:
    """Cost of a network with batch norm at its own image size."""
    sides = config.image_size
    cost, channels = Cost(0, 0), config.in_channels
    for width in config.stem_widths:
        sides = _halved(sides)
        cost += _conv(channels, width, sides[0] * sides[1], 9)
        channels = width
    for stage, side, window in zip(config.stages, config.map_sizes(), config.windows(), strict=True):
        if stage.subsample is not None:
            step = stage.subsample
            cost += _subsample(channels, stage.width, step, sides, side, config.token_interaction)
        channels, sides = stage.width, side
        cost += _blocks(stage, side, window, config.mask_padding, config.token_interaction)
    head = Cost(channels * config.num_classes, (channels + 1) * config.num_classes + 2 * channels)
    for _ in range((1 + config.distilled) if config.num_classes else 0):
        cost += head
    return cost


def _halved(size: tuple[int, int]) -> tuple[int, int]:
    return -(-size[0] // 2), -(-size[1] // 2)


def _conv(channels_in: int, channels_out: int, tokens: int, kernel_area: int = 1, groups: int = 1) -> Cost:
    """A convolution and its norm."""
    weights = channels_in // groups * channels_out * kernel_area
    return Cost(weights * tokens, weights + 2 * channels_out)


def _feed_forward(width: int, hidden: int, tokens: int, token_interaction: bool) -> Cost:
    cost = _conv(width, hidden, tokens) + _conv(hidden, width, tokens)
    return cost + _conv(width, width, tokens, 9, groups=width) if token_interaction else cost


@lru_cache(maxsize=4096)
def _subsample(
    width_in: int,
    width_out: int,
    step: SubsampleConfig,
    before: tuple[int, int],
    after: tuple[int, int],
    token_interaction: bool,
) -> Cost:
    large, small = before[0] * before[1], after[0] * after[1]
    cost = _feed_forward(width_in, step.ffn_dim_before, large, token_interaction)
    cost += _conv(width_in, step.merge_dim, large)
    cost += _conv(step.merge_dim, step.merge_dim, small, 9, groups=step.merge_dim)
    squeeze = step.merge_dim * step.squeeze_dim
    cost += Cost(2 * squeeze, 2 * squeeze + step.merge_dim + step.squeeze_dim)
    cost += _conv(step.merge_dim, width_out, small)
    return cost + _feed_forward(width_out, step.ffn_dim_after, small, token_interaction)


@lru_cache(maxsize=4096)
def _blocks(stage: StageConfig, size: tuple[int, int], window: int, masked: bool, token_interaction: bool) -> Cost:
    cost = Cost(0, 0)
    for block in stage.blocks:
        cost += _block(stage.width, block, size, window, masked, token_interaction)
    return cost


@lru_cache(maxsize=4096)
def _block(
    width: int, block: BlockConfig, size: tuple[int, int], window: int, masked: bool, token_interaction: bool
) -> Cost:
    height, columns = size
    cost = Cost(0, 0)
    for hidden in (*block.ffn_dims_before, *block.ffn_dims_after):
        cost += _feed_forward(width, hidden, height * columns, token_interaction)
    heads, key_dim, value_dim = block.num_heads, block.key_dim, block.value_dim
    if not heads:
        return cost
    # As WindowAttention decides: a map that fits is one window, however small; else windows with padding.
    if window >= height and window >= columns and (masked or height == columns == window):
        num_windows, area = 1, height * columns
    else:
        num_windows, area = -(-height // window) * -(-columns // window), window * window
    tokens = num_windows * area
    if block.mixer == "mhsa":
        cost += _conv(width, heads * (2 * key_dim + value_dim), tokens)
    else:
        for _ in range(heads):
            cost += _conv(width // heads, 2 * key_dim + value_dim, tokens)
    for kernel in block.query_kernels:
        cost += _conv(key_dim, key_dim, tokens, kernel * kernel, groups=key_dim)
    cost += Cost(heads * num_windows * area * area * (key_dim + value_dim), heads * window * window)
    return cost + _conv(heads * value_dim, width, tokens)
