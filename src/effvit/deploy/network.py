"""The deploy form: the function of an `EfficientViT` for inference, with all that can be known beforehand.

Made by `effvit.deploy.rewrite`; not trained, and not written by hand.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from effvit.deploy.kernels import activate, linear
from effvit.deploy.layers import Operator
from effvit.errors import ConfigError
from effvit.model.config import MIN_IMAGE_SIZE, PATCH_SIZE, EfficientViTConfig

Layout = Literal["tokens", "maps"]
"""How feature maps lie between two operators: tokens, (B, H, W, C), for torch; maps, (B, C, H, W), for runtimes."""


class DeployedEfficientViT(nn.Module):
    """Stem, layers, pooling, one linear head.

    Args:
        config: Of the network it was made from, with one head.
        layout: How the layers take their maps.
        stem: The four convolutions.
        layers: Feed-forward, attention and merging in this layout, in order.
        stage_ends: Number of layers up to the end of each stage.
        head: Weight (C, num_classes) and bias of the classifier; None for none, the pooled features are returned.
        image_size: Height and width it is fixed to, in pixels; None for any from 32 up.
    """

    def __init__(
        self,
        config: EfficientViTConfig,
        *,
        layout: Layout,
        stem: list[Operator],
        layers: list[nn.Module],
        stage_ends: Sequence[int],
        head: tuple[Tensor, Tensor] | None,
        image_size: tuple[int, int] | None,
    ) -> None:
        super().__init__()
        self.config, self.layout, self.image_size = config, layout, image_size
        self.stem = nn.ModuleList(stem)
        self.layers = nn.Sequential(*layers)
        self.stage_ends = tuple(stage_ends)
        self.head_weight = None if head is None else nn.Parameter(head[0], requires_grad=False)
        self.head_bias = None if head is None else nn.Parameter(head[1], requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """Classify pictures.

        Args:
            x: Normalised pictures, (B, in_channels, H, W), of the fixed size if there is one. Fastest in
                `torch.channels_last`, the order of a decoder.

        Returns:
            Logits, (B, num_classes); the pooled features if there are no classes.
        """
        x = self.layers(self._embed(x))
        x = x.mean((1, 2) if self.layout == "tokens" else (2, 3))  # (B, H, W, C) or (B, C, H, W) -> (B, C)
        return x if self.head_weight is None else linear(x, self.head_weight, self.head_bias)

    def features(self, x: Tensor) -> list[Tensor]:
        """Feature map of each stage, (B, C, H, W), as `EfficientViT.features` gives them; see `forward` for `x`."""
        maps = []
        x = self._embed(x)
        for index, layer in enumerate(self.layers, start=1):
            x = layer(x)
            if index in self.stage_ends:
                # A copy: the memory of tokens belongs to whatever layer comes next.
                maps.append(x.permute(0, 3, 1, 2).clone() if self.layout == "tokens" else x)  # -> (B, C, H, W)
        return maps

    def output_shapes(self) -> list[tuple[int, int]]:
        """Channels and stride of each map of `features`."""
        return [(stage.width, PATCH_SIZE * 2**index) for index, stage in enumerate(self.config.stages)]

    def _embed(self, x: Tensor) -> Tensor:
        """The stem: pictures to the first map, in the layout of the layers."""
        self._check(x)
        if self.layout == "tokens":
            x = x.contiguous(memory_format=torch.channels_last)
        last = len(self.stem) - 1
        for index, convolution in enumerate(self.stem):
            x = convolution(x, 2)
            if index < last:
                x = activate(x, self.config.activation)
        return x.permute(0, 2, 3, 1) if self.layout == "tokens" else x  # -> (B, H, W, C), in memory as it was

    def _check(self, x: Tensor) -> None:
        config, size = self.config, self.image_size
        if x.dim() != 4 or x.shape[1] != config.in_channels or min(x.shape[2:]) < MIN_IMAGE_SIZE:
            allowed = f"height and width from {MIN_IMAGE_SIZE} up"
        elif size is not None and tuple(x.shape[2:]) != size:
            allowed = f"height {size[0]} and width {size[1]}, which it was rewritten for"
        else:
            return
        raise ConfigError(
            f"{config.name} takes (batch, {config.in_channels}, height, width) with {allowed}, got {tuple(x.shape)}"
        )
