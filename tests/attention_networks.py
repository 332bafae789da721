"""Small networks with attention, for several test files."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import timm
import torch
from helpers import randomise
from timm.layers import set_fused_attn, use_fused_attn
from timm.models.nest import Nest
from torch import Tensor, nn

import effvit
from effvit.model.config import Mixer
from effvit.model.network import EfficientViT
from effvit.model.variants import family_config

SMALL: dict[str, dict[str, Any]] = {
    "vit_tiny_patch16_224": {"img_size": 48, "depth": 2, "embed_dim": 24, "num_heads": 3},
    "deit_tiny_distilled_patch16_224": {"img_size": 48, "depth": 2, "embed_dim": 24, "num_heads": 3},
    # 56 pixels: 14 tokens a side in windows of 4, so padded; the second block of a stage is shifted.
    "swin_tiny_patch4_window7_224": {
        "img_size": 56, "window_size": 4, "embed_dim": 12, "depths": (2, 2), "num_heads": (2, 3)
    },
    "beit_base_patch16_224": {"img_size": 48, "depth": 2, "embed_dim": 24, "num_heads": 3},
    "eva02_tiny_patch14_224": {"img_size": 42, "depth": 2, "embed_dim": 24, "num_heads": 3},
    "nest_tiny_jx": {"img_size": 32, "embed_dims": (12, 24), "num_heads": (3, 6), "depths": (1, 1), "num_levels": 2},
    "maxvit_tiny_tf_224": {"img_size": 64, "embed_dim": (32, 32, 64, 64), "depths": (1, 1, 1, 1)},
}  # fmt: skip


def timm_network(name: str, *, fused: bool = True) -> nn.Module:
    """A small network of this kind in float64, randomised, so that its maps are far from flat."""
    before = use_fused_attn()
    set_fused_attn(fused, experimental=fused)
    try:
        make = Nest if name == "nest_tiny_jx" else partial(timm.create_model, name)
        network = make(num_classes=5, **SMALL[name])
    finally:
        set_fused_attn(bool(before), experimental=before > 1)
    return randomise(network).double().eval()


def images_for(name: str, count: int = 2) -> Tensor:
    side = SMALL[name]["img_size"]
    return torch.randn(count, 3, side, side, dtype=torch.float64)


def ours(mixer: Mixer = "cascaded", **options: Any) -> EfficientViT:
    """A tiny network of ours in float64, randomised, built for 96 pixels: maps of 6, 3 and 2 tokens in windows of 4."""
    options = {"query_kernels": (3, 5), **options}
    config = family_config("small", widths=(16, 24, 32), depths=(1, 1, 2), num_heads=(2, 2, 2), mixer=mixer, **options)
    network = effvit.create_model(config, image_size=96, window=4, num_classes=5)
    return randomise(network).double().eval()  # type: ignore[return-value]


class Fixed(nn.Module):
    """A network whose attention maps are given, for every picture the same or by a function of the pictures.

    Args:
        maps: (windows, heads, N, M), or a function from pictures to (B * windows, heads, N, M).
    """

    def __init__(self, maps: Tensor | Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.maps = maps

    def forward(self, x: Tensor) -> Tensor:
        maps = self.maps(x) if callable(self.maps) else self.maps.repeat(len(x), 1, 1, 1)
        return maps.log().softmax(-1).mean()
