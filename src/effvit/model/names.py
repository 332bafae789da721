"""Names of weights in three worlds: ours, the official code's and timm's.

One table of rules turns our names into the others'. The way back is the same table read over the
names of a network, so the two directions cannot disagree.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal

from effvit.errors import WeightsError
from effvit.model.config import EfficientViTConfig, StageConfig

Style = Literal["effvit", "official", "timm"]

# What each world calls the first convolution's weight: enough to tell them apart.
_FIRST_WEIGHT: dict[Style, str] = {
    "effvit": "stem.0.conv.weight",
    "official": "patch_embed.0.c.weight",
    "timm": "patch_embed.conv1.conv.weight",
}

# Inside a block or a subsample the two foreign worlds agree but for `c`/`conv` and the head.
_SHARED_RULES = (
    (r"\bbefore\.0\.interaction\.body\b", "dw0.m"),
    (r"\bbefore\.0\.ffn\.body\b", "ffn0.m"),
    (r"\bafter\.0\.interaction\.body\b", "dw1.m"),
    (r"\bafter\.0\.ffn\.body\b", "ffn1.m"),
    (r"\bbefore\.interaction\.body\b", "IN.0.m"),
    (r"\bbefore\.ffn\.body\b", "IN.1.m"),
    (r"\bafter\.interaction\.body\b", "OUT.0.m"),
    (r"\bafter\.ffn\.body\b", "OUT.1.m"),
    (r"\.m\.expand\b", ".m.pw1"),
    (r"\.m\.project\b", ".m.pw2"),
    (r"\battention\.body\.mixer\.qkv\b", "mixer.m.attn.qkvs"),
    (r"\battention\.body\.mixer\.query\b", "mixer.m.attn.dws"),
    (r"\battention\.body\.mixer\.project\b", "mixer.m.attn.proj.1"),
    (r"\battention\.body\.attention_biases\b", "mixer.m.attn.attention_biases"),
    (r"\bmerge\.expand\b", "MERGE.conv1"),
    (r"\bmerge\.depthwise\b", "MERGE.conv2"),
    (r"\bmerge\.squeeze_excite\.reduce\b", "MERGE.se.fc1"),
    (r"\bmerge\.squeeze_excite\.expand\b", "MERGE.se.fc2"),
    (r"\bmerge\.project\b", "MERGE.conv3"),
    (r"\.norm\.", ".bn."),
)
_OFFICIAL_RULES = (
    (r"^stem\.", "patch_embed."),
    (r"^head_distilled\.", "head_dist."),
    (r"\.conv\.", ".c."),
    (r"^(head\w*)\.linear\.", r"\1.l."),
    (r"^stages\.(\d+)\.0\.IN\.", "blocks{stage}.0."),
    (r"^stages\.(\d+)\.0\.MERGE\.", "blocks{stage}.1."),
    (r"^stages\.(\d+)\.0\.OUT\.", "blocks{stage}.2."),
    (r"^stages\.(\d+)\.(\d+)\.", "blocks{stage}.{official_block}."),
)
_TIMM_RULES = (
    (r"^stem\.(\d+)\.", "patch_embed.conv{stem}."),
    (r"^stages\.(\d+)\.0\.IN\.", "stages.{index}.downsample.res1."),
    (r"^stages\.(\d+)\.0\.MERGE\.", "stages.{index}.downsample.patchmerge."),
    (r"^stages\.(\d+)\.0\.OUT\.", "stages.{index}.downsample.res2."),
    (r"^stages\.(\d+)\.(\d+)\.", "stages.{index}.blocks.{timm_block}."),
)


def foreign_names(names: Iterable[str], style: Style, config: EfficientViTConfig) -> dict[str, str]:
    """Our name -> the name in another world, for every name of a network's state dict.

    Args:
        names: Names of `EfficientViT.state_dict()`.
        style: Which world.
        config: The network's configuration.

    Raises:
        WeightsError: If that world has no such network.
    """
    if style == "effvit":
        return {name: name for name in names}
    if reasons := _not_in_the_family(config, style):
        raise WeightsError(f"{config.name} has no {style} names: {'; '.join(reasons)}")
    rules = _SHARED_RULES + (_OFFICIAL_RULES if style == "official" else _TIMM_RULES)
    return {name: _rename(name, rules) for name in names}


def style_of(names: Iterable[str], source: str) -> Style:
    """Tell which world a state dict is from.

    Raises:
        WeightsError: If it is from none of them, showing a few of its names.
    """
    names = list(names)
    for style, first in _FIRST_WEIGHT.items():
        if first in names:
            return style
    shown = ", ".join(names[:3]) or "none"
    raise WeightsError(f"{source} holds no EfficientViT-M weights; its first names are: {shown}")


def bias_index_name(name: str) -> str | None:
    """Name of the index buffer that the official code stores beside a bias table; None for other weights."""
    return f"{name[: -len('es')]}_idxs" if name.endswith("attention_biases") else None


def _not_in_the_family(config: EfficientViTConfig, style: Style) -> list[str]:
    blocks = [block for stage in config.stages for block in stage.blocks]
    reasons = []
    if len(config.stages) != 3:
        reasons.append(f"there are {len(config.stages)} stages, not 3")
    if not all(map(_has_family_widths, config.stages, (None, *config.stages))):
        reasons.append("widths inside a block or a subsample are not the paper's multiples of the stage's")
    if config.norm != "batch":
        reasons.append(f"norm is {config.norm!r}")
    if config.activation != "relu":
        reasons.append(f"activation is {config.activation!r}")
    if not config.token_interaction:
        reasons.append("there is no token interaction")
    if any(block.mixer != "cascaded" or not block.query_kernels for block in blocks):
        reasons.append("not every block is cascaded group attention with query convolutions")
    if any(len(block.ffn_dims_before) != 1 or len(block.ffn_dims_after) != 1 for block in blocks):
        reasons.append("not every block has one feed-forward layer on each side")
    if style == "timm" and config.distilled:
        reasons.append("timm has no second head")
    return reasons


def _has_family_widths(stage: StageConfig, before: StageConfig | None) -> bool:
    """Whether every width in a stage follows from the stage's own, which is all the other worlds can say."""
    step = stage.subsample
    blocks_agree = all(
        block == stage.blocks[0]
        and block.key_dim == 16
        and block.value_dim * block.num_heads == stage.width
        and set(block.ffn_dims_before + block.ffn_dims_after) == {2 * stage.width}
        for block in stage.blocks
    )
    if step is None or before is None:
        return blocks_agree
    expected = (2 * before.width, 4 * before.width, before.width, 2 * stage.width)
    return blocks_agree and (step.ffn_dim_before, step.merge_dim, step.squeeze_dim, step.ffn_dim_after) == expected


def _rename(name: str, rules: tuple[tuple[str, str], ...]) -> str:
    for pattern, replacement in rules:
        match = re.search(pattern, name)
        if not match:
            continue
        if "{" in replacement:
            replacement = replacement.format(**_numbers(match))
        name = name[: match.start()] + match.expand(replacement) + name[match.end() :]
    return name


def _numbers(match: re.Match[str]) -> dict[str, int]:
    """The official code counts stages from 1 and a subsample as three layers; timm counts convolutions from 1."""
    index, layer = int(match[1]), int(match[2]) if match.lastindex == 2 else 0
    offset = 1 if index > 0 else 0
    return {
        "stem": index // 2 + 1,
        "index": index,
        "stage": index + 1,
        "official_block": layer - offset + 3 * offset,
        "timm_block": layer - offset,
    }
