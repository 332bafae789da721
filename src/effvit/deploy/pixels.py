"""Files that take pictures as a decoder gives them: uint8, (B, H, W, C), 0..255, normalised inside.

Nobody who runs such a file can forget the normalisation or get it wrong. Resizing and cropping stay
outside: they are where decoders and devices have faster ways of their own.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from effvit.preprocessing import Preprocessing

_WHITE = 255


class FromPixels(nn.Module):
    """A network behind its normalisation: the same operations in the same order as `effvit.data.transforms`.

    Not folded into the first convolution: its zero padding stands for normalised zeros, which no
    constant of a convolution on raw pixels can give at the border.

    Args:
        network: Takes float32 pictures (B, C, H, W).
        preprocessing: Mean and standard deviation of each channel.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.network = network
        mean, std = _channel_values(preprocessing)
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)
        self.train(network.training)

    def forward(self, pixels: Tensor) -> Tensor:
        """Classify pictures, uint8, (B, H, W, C), to the network's logits."""
        images = pixels.permute(0, 3, 1, 2).float()  # (B, H, W, C) -> (B, C, H, W)
        logits: Tensor = self.network((images - self.mean) / self.std)
        return logits


class InHalf(nn.Module):
    """A network with weights and arithmetic in float16, and float32 where it is fed and read.

    Args:
        network: In float32; copied.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = copy.deepcopy(network).half()
        self.train(network.training)

    def forward(self, images: Tensor) -> Tensor:
        """Classify pictures, float32, (B, C, H, W), to logits in float32."""
        logits: Tensor = self.network(images.half())
        return logits.float()


def in_half(model: nn.Module) -> nn.Module:
    """The same with the network in float16; a normalisation before it stays in float32, where it is exact."""
    if not isinstance(model, FromPixels):
        return InHalf(model)
    halved = copy.copy(model)
    halved._modules = {**model._modules, "network": InHalf(model.network)}
    return halved


def to_pixels(images: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Undo the normalisation: the very pixels that `effvit.data.transforms.normalize` was given.

    Args:
        images: Normalised pictures, float, (B, C, H, W).
        preprocessing: What they were normalised with.

    Returns:
        uint8, (B, H, W, C); what was never a pixel is brought to the nearest one.
    """
    mean, std = _channel_values(preprocessing)
    values = (images.cpu() * std + mean).round().clamp(0, _WHITE).to(torch.uint8)
    return values.permute(0, 2, 3, 1).contiguous()  # (B, C, H, W) -> (B, H, W, C)


def _channel_values(preprocessing: Preprocessing) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation on the scale of pixels, float32, (1, C, 1, 1)."""
    mean, std = (_WHITE * torch.tensor(values).view(1, -1, 1, 1) for values in (preprocessing.mean, preprocessing.std))
    return mean, std
