"""The networks whose share of attention can be varied, by name: DeiT, Swin and ours.

A network has two dials for its speed: the width, in steps that processors like, and finer the inner widths of layers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

from torch import nn

from effvit.analysis.ratios.sandwich import num_attention_of, num_layers_of, step_of, with_attention
from effvit.analysis.ratios.spread import count_for, spread_evenly
from effvit.analysis.ratios.transformers import Size, deit, patch_for, swin, swin_maps, window_for
from effvit.errors import ConfigError, unknown_name
from effvit.model.config import MIN_IMAGE_SIZE, EfficientViTConfig
from effvit.model.network import EfficientViT
from effvit.model.variants import VARIANTS

_NARROWEST, _WIDEST = 0.2, 4.0
"""Widths that may be tried, over the baseline's."""
INNER_PERCENTS = range(50, 201)
"""What the inside of layers may be scaled to, in percent."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """Networks that differ in the number of attention layers and in width."""

    name: str
    """How it is asked for."""
    label: str
    """How it is called in charts."""
    num_layers: int
    """Attention and feed-forward layers, together always this many."""
    num_attention: int
    """How many of them are attention in the network as its authors made it."""
    width: int
    """Its authors' width."""
    width_is: str
    """Which width that is."""
    step: int
    """Widths go in steps of this."""
    build: Callable[[Subnetwork], nn.Module]
    """Makes one of its networks, with random weights."""
    tokens: Callable[[Size], dict[str, Any]]
    """Patches, maps and windows at a picture size, for the record."""

    def widths(self, baseline: int) -> range:
        """What may be tried to reach the speed of a baseline of this width."""
        least = max(1, round(_NARROWEST * baseline / self.step)) * self.step
        return range(least, round(_WIDEST * baseline) + 1, self.step)


@dataclass(frozen=True, kw_only=True)
class Subnetwork:
    """One network of a family."""

    family: str
    """Name of the family."""
    num_attention: int
    """How many layers are attention."""
    width: int
    """Its width, as the family counts it."""
    inner: int = 100
    """What the inside of the layers is scaled to, in percent: hidden channels, and a head's."""
    image_size: Size
    """Height and width of the pictures, in pixels."""
    num_classes: int = 1000
    """Classes."""

    @property
    def share(self) -> float:
        """Share of the layers that are attention, 0..1."""
        return self.num_attention / find_family(self.family).num_layers

    @property
    def layers(self) -> str:
        """The layers in order, A for attention and F for feed-forward."""
        row = spread_evenly(find_family(self.family).num_layers, self.num_attention)
        return "".join("A" if is_attention else "F" for is_attention in row)

    def make(self) -> nn.Module:
        """The network, with random weights, in training mode.

        Raises:
            ConfigError: If there is no such network.
        """
        return find_family(self.family).build(self)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, `layers` and `share` among them."""
        values = {**asdict(self), "image_size": list(self.image_size)}
        return {
            **values,
            "share": self.share,
            "layers": self.layers,
            **find_family(self.family).tokens(self.image_size),
        }


def find_family(name: str) -> Family:
    """A family by name.

    Raises:
        ConfigError: If there is none, naming those there are.
    """
    if name not in FAMILIES:
        raise ConfigError(unknown_name("family", name, FAMILIES))
    return FAMILIES[name]


def subnetwork(family: str, share: float, *, width: int, image_size: Size, num_classes: int = 1000) -> Subnetwork:
    """The network of a family whose share of attention comes nearest to what is asked for.

    Raises:
        ConfigError: If there is no such family, or a number is not allowed.
    """
    found = find_family(family)
    if width < 1 or width % found.step:
        raise ConfigError(f"{family}: the width ({found.width_is}) must be a multiple of {found.step}, got {width}")
    if min(image_size) < MIN_IMAGE_SIZE:
        raise ConfigError(f"{family}: pictures must have {MIN_IMAGE_SIZE} pixels a side or more, got {image_size}")
    count = count_for(share, found.num_layers)
    return Subnetwork(family=family, num_attention=count, width=width, image_size=image_size, num_classes=num_classes)


def _deit(name: str, label: str, width: int, num_heads: int) -> Family:
    num_layers = 24

    def build(network: Subnetwork) -> nn.Module:
        return deit(
            network.width,
            num_layers=num_layers,
            num_attention=network.num_attention,
            num_heads=num_heads,
            image_size=network.image_size,
            num_classes=network.num_classes,
            inner=network.inner / 100,
        )

    def tokens(image_size: Size) -> dict[str, Any]:
        patch = patch_for(image_size, largest=16, least_tokens=8)
        return {"patch": patch, "maps": [[side // patch for side in image_size]]}

    return Family(
        name=name,
        label=label,
        num_layers=num_layers,
        num_attention=num_layers // 2,
        width=width,
        width_is="channels of a token",
        step=8,
        build=build,
        tokens=tokens,
    )


def _swin(name: str, label: str, width: int, depths: tuple[int, ...], num_heads: tuple[int, ...]) -> Family:
    def build(network: Subnetwork) -> nn.Module:
        return swin(
            network.width,
            depths=depths,
            num_attention=network.num_attention,
            num_heads=num_heads,
            image_size=network.image_size,
            num_classes=network.num_classes,
            inner=network.inner / 100,
        )

    def tokens(image_size: Size) -> dict[str, Any]:
        maps = swin_maps(image_size, len(depths))
        patch = patch_for(image_size, largest=4, least_tokens=16)
        return {"patch": patch, "maps": [list(size) for size in maps], "window": window_for(maps)}

    return Family(
        name=name,
        label=label,
        num_layers=2 * sum(depths),
        num_attention=sum(depths),
        width=width,
        width_is="channels of the first stage",
        step=4,  # all stages but the first are multiples of 8
        build=build,
        tokens=tokens,
    )


def _own(config: EfficientViTConfig) -> Family:
    def build(network: Subnetwork) -> nn.Module:
        changed = with_attention(config, network.num_attention, network.width, inner=network.inner / 100)
        return EfficientViT(replace(changed, image_size=network.image_size, num_classes=network.num_classes))

    def tokens(image_size: Size) -> dict[str, Any]:
        at_size = replace(config, image_size=image_size)
        return {"patch": 16, "maps": [list(size) for size in at_size.map_sizes()], "windows": list(at_size.windows())}

    return Family(
        name=config.name,
        label=config.name.replace("efficientvit_", "EfficientViT-").replace("-m", "-M"),
        num_layers=num_layers_of(config),
        num_attention=num_attention_of(config),
        width=config.stages[-1].width,
        width_is="channels of the last stage",
        step=step_of(config),
        build=build,
        tokens=tokens,
    )


FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        _deit("deit_tiny", "DeiT-T", 192, 3),
        _deit("deit_small", "DeiT-S", 384, 6),
        _deit("deit_base", "DeiT-B", 768, 12),
        _swin("swin_tiny", "Swin-T", 96, (2, 2, 6, 2), (3, 6, 12, 24)),
        _swin("swin_small", "Swin-S", 96, (2, 2, 18, 2), (3, 6, 12, 24)),
        _swin("swin_base", "Swin-B", 128, (2, 2, 18, 2), (4, 8, 16, 32)),
        *map(_own, VARIANTS.values()),
    )
}
"""Name -> family; widths, depths and heads as in timm's `deit_*_patch16_224` and `swin_*_patch4_window7_224`."""
