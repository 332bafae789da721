"""The one table of the family: M0..M5 of the paper, a tiny one for tests, and their published facts.

No torch here: `effvit models` and a wrong model name are answered at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from effvit.errors import ConfigError, unknown_name
from effvit.model.config import (
    Activation,
    BlockConfig,
    EfficientViTConfig,
    Mixer,
    Norm,
    StageConfig,
    SubsampleConfig,
)

TIMM_PREFIX = "timm:"
"""What the name of a network of timm begins with, wherever one can be given."""
TORCHVISION_PREFIX = "torchvision:"
"""The same for torchvision."""


def family_config(
    name: str,
    *,
    widths: Sequence[int],
    depths: Sequence[int],
    num_heads: Sequence[int],
    query_kernels: Sequence[int],
    key_dim: int | None = 16,
    value_ratio: float = 1.0,
    ffn_ratio: float = 2.0,
    num_ffns: int = 1,
    layout: str = "sandwich",
    mixer: Mixer = "cascaded",
    norm: Norm = "batch",
    activation: Activation = "relu",
    token_interaction: bool = True,
) -> EfficientViTConfig:
    """Write out a network of the family from the paper's few numbers; each default is the paper's.

    The arguments after `query_kernels` are the rows of Table 6 and the axes of Figure 7.

    Args:
        name: What to call the network.
        widths: Channels of each stage; the stem takes 1/8, 1/4, 1/2 and all of the first.
        depths: Blocks of each stage.
        num_heads: Heads of each stage's blocks.
        query_kernels: Side of each head's depth-wise query convolution, used from the front of the list.
            A plain multi-head attention (`mixer="mhsa"`) has none.
        key_dim: Channels of queries and keys per head; None for as many as the values have (row 7).
        value_ratio: Channels of a head's values over stage width / heads (Fig. 7).
        ffn_ratio: Hidden channels of a feed-forward layer over its width (row 8).
        num_ffns: Feed-forward layers on each side of the attention (rows 3 and 4).
        layout: `sandwich`, or `swin`: attention first, then `num_ffns` feed-forward layers (row 2).
        mixer: See `BlockConfig.mixer` (rows 5 and 6).
        norm: See `EfficientViTConfig.norm` (row 10).
        activation: See `EfficientViTConfig.activation` (row 11).
        token_interaction: See `EfficientViTConfig.token_interaction` (row 9).

    Raises:
        ConfigError: If a number is not allowed, naming all that are not.

    Source: arXiv:2305.07027, Sec. 3 and Table 1.
    """
    if layout not in ("sandwich", "swin"):
        raise ConfigError(unknown_name("layout", layout, ("sandwich", "swin")))
    if not len(widths) == len(depths) == len(num_heads) > 0:
        lists = f"{widths}, {depths}, {num_heads}"
        raise ConfigError(f"widths, depths and num_heads must be equally long and not empty, got {lists}")
    stages = []
    for index, (width, depth, heads) in enumerate(zip(widths, depths, num_heads, strict=True)):
        value_dim = round(value_ratio * width / heads) if heads > 0 else 0
        ffn_dims = (round(ffn_ratio * width),) * num_ffns
        block = BlockConfig(
            num_heads=heads,
            value_dim=value_dim,
            key_dim=value_dim if key_dim is None else key_dim,
            query_kernels=() if mixer == "mhsa" else tuple(query_kernels[:heads]),
            mixer=mixer,
            ffn_dims_before=() if layout == "swin" else ffn_dims,
            ffn_dims_after=ffn_dims,
        )
        subsample = None
        if index > 0:
            subsample = SubsampleConfig(
                ffn_dim_before=round(ffn_ratio * widths[index - 1]),
                merge_dim=4 * widths[index - 1],
                squeeze_dim=widths[index - 1],
                ffn_dim_after=round(ffn_ratio * width),
            )
        stages.append(StageConfig(width=width, subsample=subsample, blocks=(block,) * depth))
    return EfficientViTConfig(
        name=name,
        stem_widths=(widths[0] // 8, widths[0] // 4, widths[0] // 2, widths[0]),
        stages=tuple(stages),
        norm=norm,
        activation=activation,
        token_interaction=token_interaction,
    )


@dataclass(frozen=True, kw_only=True)
class Published:
    """What is known of a variant: exact counts, recomputed by a test, and the paper's measurements."""

    num_params: int
    """Parameters with 1000 classes, BatchNorm not folded."""
    num_macs: int
    """Multiply-accumulates of convolutions, matrix products and attention at 224 x 224, counted by torch."""
    top1: float
    """ImageNet-1k top-1 in percent (official README)."""
    top5: float
    """ImageNet-1k top-5 in percent (official README)."""
    v100_images_per_second: int
    """Throughput on a V100, fp16, batch 2048 (Table 1)."""


def _m(
    name: str, widths: Sequence[int], depths: Sequence[int], heads: Sequence[int], kernels: Sequence[int]
) -> EfficientViTConfig:
    return family_config(name, widths=widths, depths=depths, num_heads=heads, query_kernels=kernels)


_CONFIGS = (
    #                       widths           depths     heads      query kernels
    _m("efficientvit_m0", (64, 128, 192), (1, 2, 3), (4, 4, 4), (5, 5, 5, 5)),
    _m("efficientvit_m1", (128, 144, 192), (1, 2, 3), (2, 3, 3), (7, 5, 3, 3)),
    _m("efficientvit_m2", (128, 192, 224), (1, 2, 3), (4, 3, 2), (7, 5, 3, 3)),
    _m("efficientvit_m3", (128, 240, 320), (1, 2, 3), (4, 3, 4), (5, 5, 5, 5)),
    _m("efficientvit_m4", (128, 256, 384), (1, 2, 3), (4, 4, 4), (7, 5, 3, 3)),
    _m("efficientvit_m5", (192, 288, 384), (1, 3, 4), (3, 3, 4), (7, 5, 3, 3)),
    # Not the paper's: a network of the same build, small enough for tests to run in milliseconds.
    _m("efficientvit_tiny", (16, 24, 32), (1, 1, 2), (2, 2, 2), (5, 3)),
)

VARIANTS: dict[str, EfficientViTConfig] = {config.name: config for config in _CONFIGS}
"""Name -> configuration."""

PUBLISHED: dict[str, Published] = {
    name: Published(num_params=params, num_macs=macs, top1=top1, top5=top5, v100_images_per_second=v100)
    for name, params, macs, top1, top5, v100 in (
        ("efficientvit_m0", 2_349_436, 79_193_600, 63.296, 85.150, 27_644),
        ("efficientvit_m1", 2_980_560, 167_051_840, 68.356, 88.672, 20_093),
        ("efficientvit_m2", 4_187_554, 201_035_712, 70.786, 90.150, 18_218),
        ("efficientvit_m3", 6_900_722, 262_662_208, 73.390, 91.350, 16_644),
        ("efficientvit_m4", 8_804_228, 299_308_544, 74.266, 91.788, 15_914),
        ("efficientvit_m5", 12_473_772, 521_583_104, 77.124, 93.360, 10_621),
    )
}
"""Name -> published facts, for the paper's six."""


def list_variants() -> list[str]:
    """Names that `create_model` takes, the paper's six first."""
    return list(VARIANTS)


def variant_config(name: str) -> EfficientViTConfig:
    """Configuration of a variant by name.

    Raises:
        ConfigError: If there is no such variant, naming those there are and the nearest.
    """
    if name not in VARIANTS:
        raise ConfigError(unknown_name("model", name, VARIANTS))
    return VARIANTS[name]
