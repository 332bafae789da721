"""The paper's neck: from a backbone's few maps to a pyramid of equal width, finer and coarser than they are."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from effvit.errors import ConfigError

PYRAMIDS = {"boxes": (8, 128), "masks": (4, 64)}
"""Finest and coarsest stride of each task's pyramid, in pixels (Sec. 4.3 and appendix)."""


class PyramidNeck(nn.Module):
    """Feature pyramid that reaches finer strides by transposed convolutions, coarser ones by strided ones.

    Laterals (1x1) are added from coarse to fine, brought to the finer map's size by repeating pixels. Where the
    backbone's finest map is too coarse, 2x2 transposed convolutions of stride 2 follow one another from the finest
    lateral on. Every map so far goes through a 3x3 convolution of its own. Where the coarsest is too fine, a 3x3
    convolution of stride 2 on the backbone's last map makes the next, and any further ones a ReLU and such a
    convolution on the one before. No norms, no activations but those.

    The paper's backbones (strides 16, 32, 64) thus get one transposed convolution and one extra level for boxes, two
    and none for masks; one with strides 8, 16, 32 gets RetinaNet's usual pyramid.

    A transposed convolution doubles its map exactly, so the finest levels of a picture whose sides are no multiples
    of the backbone's finest stride reach past it: cell i of every level lies at i * stride, wherever the picture ends.

    Args:
        shapes: Channels and stride of each map of the backbone, finest first.
        finest: Stride of the first level, in pixels.
        coarsest: Stride of the last level, in pixels.
        channels: Channels of each level.

    Raises:
        ConfigError: If the strides do not double from map to map, or lie outside finest..coarsest.

    Source: arXiv:2305.07027, Sec. 4.3; the official detection code's neck. The further extra levels are not in it.
    """

    def __init__(self, shapes: Sequence[tuple[int, int]], *, finest: int, coarsest: int, channels: int = 256) -> None:
        super().__init__()
        own = [stride for _, stride in shapes]
        self.strides = tuple(finest * 2**level for level in range((coarsest // finest).bit_length()))
        """Stride of each level, in pixels, finest first."""
        if not own or any(coarse != 2 * fine for fine, coarse in pairwise(own)):
            raise ConfigError(f"a pyramid needs maps whose strides double from one to the next, got strides {own}")
        if not set(own) <= set(self.strides):
            raise ConfigError(f"a pyramid of strides {list(self.strides)} cannot be made from maps of strides {own}")
        num_finer = self.strides.index(own[0])
        num_coarser = len(self.strides) - num_finer - len(own)
        self.lateral = nn.ModuleList(nn.Conv2d(width, channels, 1) for width, _ in shapes)
        self.upsample = nn.ModuleList(nn.ConvTranspose2d(channels, channels, 2, stride=2) for _ in range(num_finer))
        self.output = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(num_finer + len(own)))
        extra_inputs = [shapes[-1][0], *[channels] * num_coarser][:num_coarser]
        self.extra = nn.ModuleList(nn.Conv2d(width, channels, 3, stride=2, padding=1) for width in extra_inputs)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.xavier_uniform_(layer.weight)
                assert layer.bias is not None
                nn.init.zeros_(layer.bias)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Make the pyramid.

        Args:
            maps: The backbone's maps, finest first, (B, C_i, H_i, W_i).

        Returns:
            One map for each of `strides`, (B, channels, H_j, W_j).
        """
        levels = [lateral(x) for lateral, x in zip(self.lateral, maps, strict=True)]
        for index in range(len(levels) - 1, 0, -1):
            finer = levels[index - 1]
            levels[index - 1] = finer + F.interpolate(levels[index], size=finer.shape[-2:], mode="nearest")
        for upsample in self.upsample:
            levels.insert(0, upsample(levels[0]))
        levels = [output(x) for output, x in zip(self.output, levels, strict=True)]
        for index, extra in enumerate(self.extra):
            levels.append(extra(F.relu(levels[-1]) if index else maps[-1]))
        return levels
