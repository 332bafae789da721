"""The rows of Table 6 and the points of Figure 7 as configurations, beside what the paper reports for them.

A row changes one thing. `Ablation.config` writes it out for any network of the family, at the widths of the base or
with all widths scaled: the paper's rows all run within 6 % of M4's throughput, so its authors must have scaled them,
and their widths are unpublished. How the rows are read where the paper leaves it open: docs/decisions/0002.

No torch here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from effvit.errors import ConfigError, unknown_name
from effvit.model.config import EfficientViTConfig
from effvit.model.variants import family_config

SMALLEST_PERCENT, LARGEST_PERCENT = 30, 250
"""How far widths may be scaled, in percent."""


@dataclass(frozen=True, kw_only=True)
class Reported:
    """What the paper says of a network: M4 on ImageNet-1k, 100 epochs by third parties' reading."""

    top1: float
    """Top-1 in percent."""
    v100_images_per_second: int | None = None
    """Throughput on a V100, fp16; None where it is not told."""
    onnx_images_per_second: float | None = None
    """Throughput of ONNX Runtime, batch 16, one thread of a Xeon E5-2690 v4; None where it is not told."""


@dataclass(frozen=True, kw_only=True)
class Ablation:
    """One row of Table 6, or one point of Figure 7."""

    key: str
    """Short name, for `--rows` and for folders."""
    text: str
    """What is changed, for tables."""
    changes: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of `effvit.model.variants.family_config` that say so."""
    reported: Reported
    """The paper's numbers."""
    axis: str = ""
    """Name of Figure 7's axis it is a point of; empty for a row of the table."""
    value: float = 0.0
    """Where on the axis."""

    @property
    def reported_points(self) -> float:
        """The paper's top-1 over row 1's, in points."""
        return self.reported.top1 - BASE.reported.top1

    def config(self, base: EfficientViTConfig, *, percent: int = 100) -> EfficientViTConfig:
        """The row as a network.

        Args:
            base: A network of the family, written out as `family_config` does: a variant, at any picture size,
                window and number of classes, which are kept.
            percent: What the widths are scaled to; 100 leaves them as the base's.

        Raises:
            ConfigError: If the base is no such network, or the percent not allowed.
        """
        numbers = family_numbers(base)
        if not SMALLEST_PERCENT <= percent <= LARGEST_PERCENT:
            raise ConfigError(f"widths can be scaled to {SMALLEST_PERCENT}..{LARGEST_PERCENT} %, got {percent}")
        widths = scaled_widths(numbers["widths"], numbers["num_heads"], percent)
        name = f"{base.name}-{self.key}" + ("" if percent == 100 else f"-{percent}")
        return _like(family_config(name, **{**numbers, "widths": widths, **self.changes}), base)


def family_numbers(base: EfficientViTConfig) -> dict[str, Any]:
    """The few numbers of the paper that a network of the family is written out from.

    Raises:
        ConfigError: If it is none: pruned, searched, or an ablation itself.
    """
    blocks = [stage.blocks[0] if stage.blocks else None for stage in base.stages]
    heads = [0 if block is None else block.num_heads for block in blocks]
    kernels = max((block.query_kernels for block in blocks if block is not None), key=len, default=())
    numbers: dict[str, Any] = {
        "widths": tuple(stage.width for stage in base.stages),
        "depths": tuple(len(stage.blocks) for stage in base.stages),
        "num_heads": tuple(heads),
        "query_kernels": kernels,
    }
    try:
        is_family = min(heads) > 0 and _like(family_config(base.name, **numbers), base) == base
    except ConfigError:
        is_family = False
    if not is_family:
        raise ConfigError(
            f"ablations change a network as the paper designed it, such as M0..M5; {base.name} is not one"
        )
    return numbers


def scaled_widths(widths: Sequence[int], num_heads: Sequence[int], percent: int) -> tuple[int, ...]:
    """Widths scaled and rounded: heads stay whole, the stem's eighths too, and each is a multiple of four.

    At 100 % they are what they were, whatever they are multiples of.
    """
    if percent == 100:
        return tuple(widths)
    steps = [math.lcm(heads, 8 if index == 0 else 4) for index, heads in enumerate(num_heads)]
    scaled = (width * percent / 100 for width in widths)
    return tuple(max(step, round(width / step) * step) for width, step in zip(scaled, steps, strict=True))


def percents(base: EfficientViTConfig) -> list[int]:
    """What the widths can be scaled to: of percents that round to the same widths, the nearest to 100."""
    numbers = family_numbers(base)
    found: dict[tuple[int, ...], int] = {}
    for percent in range(SMALLEST_PERCENT, LARGEST_PERCENT + 1):
        widths = scaled_widths(numbers["widths"], numbers["num_heads"], percent)
        if widths not in found or abs(percent - 100) < abs(found[widths] - 100):
            found[widths] = percent
    return sorted(found.values())


def _like(config: EfficientViTConfig, base: EfficientViTConfig) -> EfficientViTConfig:
    """With what is the base's and no part of the design: classes, pictures, windows, regularisation."""
    kept = ("in_channels", "num_classes", "image_size", "distilled", "drop_path", "mask_padding")
    windows = zip(config.stages, base.stages, strict=True)
    return replace(
        config,
        stages=tuple(replace(stage, window=like.window) for stage, like in windows),
        **{name: getattr(base, name) for name in kept},
    )


def _row(
    key: str, text: str, top1: float, v100: int, onnx: float, changes: Mapping[str, Any] | None = None
) -> Ablation:
    reported = Reported(top1=top1, v100_images_per_second=v100, onnx_images_per_second=onnx)
    return Ablation(key=key, text=text, changes=changes or {}, reported=reported)


TABLE6 = (
    #                                                       top-1    V100   ONNX
    _row("1", "the network as it is", 71.3, 15_914, 108.6),
    _row("2", "Swin block for the sandwich", 68.3, 15_804, 114.5, {"layout": "swin"}),
    _row("3", "two FFNs on each side", 70.2, 14_977, 112.3, {"num_ffns": 2}),
    _row("4", "three FFNs on each side", 65.7, 15_856, 139.7, {"num_ffns": 3}),
    _row("5", "multi-head self-attention", 70.2, 16_243, 102.2, {"mixer": "mhsa"}),
    _row("6", "no cascade", 69.8, 16_411, 111.0, {"mixer": "grouped"}),
    _row("7", "Q and K as wide as V", 69.9, 15_132, 103.1, {"key_dim": None}),
    _row("8", "FFN ratio 4", 69.8, 15_310, 112.4, {"ffn_ratio": 4.0}),
    _row("9", "no token interaction", 69.9, 16_325, 110.4, {"token_interaction": False}),
    _row("10", "LayerNorm", 70.4, 15_463, 103.6, {"norm": "layer"}),
    _row("11", "HardSwish", 72.2, 15_887, 87.5, {"activation": "hard_swish"}),
)
"""Table 6, all for M4. The row with HardSwish is the one that is better than M4, at a loss of speed in ONNX."""

KEY_DIM, VALUE_RATIO = "Q/K width", "V ratio"
"""The axes of Figure 7."""

FIGURE7 = (
    *(
        Ablation(
            key=f"qk{dim}",
            text=f"Q/K width {dim}",
            changes={"key_dim": dim},
            reported=Reported(top1=top1),
            axis=KEY_DIM,
            value=dim,
        )
        for dim, top1 in ((4, 70.67), (8, 70.84), (32, 71.13), (64, 71.14))
    ),
    *(
        Ablation(
            key=f"v{ratio}",
            text=f"V ratio {ratio}",
            changes={"value_ratio": ratio},
            reported=Reported(top1=top1),
            axis=VALUE_RATIO,
            value=ratio,
        )
        for ratio, top1 in ((0.4, 70.3), (0.6, 70.61), (0.8, 70.72), (1.2, 71.41))
    ),
)
"""Figure 7 but for Q/K width 16 and V ratio 1: those are row 1."""

BASE = TABLE6[0]
"""The row that the others are compared to."""
BASE_ON_AXIS = {KEY_DIM: 16.0, VALUE_RATIO: 1.0}
"""Where it stands on each axis of Figure 7."""

ABLATIONS: dict[str, Ablation] = {ablation.key: ablation for ablation in (*TABLE6, *FIGURE7)}
"""Every row and point by its key."""


def find_ablations(keys: Iterable[str] | None = None, *, figure7: bool = False) -> tuple[Ablation, ...]:
    """The rows that are asked for, in the paper's order; the base is always among them.

    Args:
        keys: Numbers of Table 6, keys of Figure 7's points; None for the whole table.
        figure7: Whether all points of Figure 7 come in addition.

    Raises:
        ConfigError: If there is no such row.
    """
    wanted = {BASE.key, *(key.strip() for key in keys)} if keys is not None else {row.key for row in TABLE6}
    for key in wanted:
        if key not in ABLATIONS:
            if not any(map(str.isalpha, key)):  # a number: 99 is no slip of the pen for 9
                raise ConfigError(f"unknown row {key!r}; known: {', '.join(ABLATIONS)}")
            raise ConfigError(unknown_name("row", key, ABLATIONS))
    if figure7:
        wanted |= {point.key for point in FIGURE7}
    return tuple(ablation for ablation in ABLATIONS.values() if ablation.key in wanted)
