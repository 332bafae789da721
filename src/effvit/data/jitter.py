"""Colour jitter: Pillow's pixels, bit for bit, at a third of its time."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision import transforms

_LUMA = (19595, 38470, 7471)
"""Weights of red, green and blue in Pillow's grey (ITU-R 601-2), in 1/65536."""


class ColorJitter:
    """Changes brightness, contrast and saturation of a picture by random factors, in random order.

    Equals torchvision's ColorJitter on a Pillow picture, in what it draws and in every pixel; a test holds it. All
    three are blends of the picture with another: black, its mean grey, and itself in grey. Pillow rounds down to
    whole values after each; float32 holds all of this exactly, and torch computes in it on many values at once.

    Args:
        strength: Factors are drawn from 1 - strength to 1 + strength, 0..1; 0 leaves pictures alone.
    """

    def __init__(self, strength: float) -> None:
        self.range = (max(0.0, 1 - strength), 1 + strength)

    def __call__(self, pixels: Tensor) -> Tensor:
        """Jitter a picture: uint8, (3, H, W), contiguous; draws from torch's CPU generator."""
        order, *factors, _ = transforms.ColorJitter.get_params(self.range, self.range, self.range, None)
        values = pixels.float()
        for kind in order.tolist():
            if kind < len(_BLENDS):
                values = _BLENDS[kind](values, factors[kind])
        return values.byte()


def _brightness(values: Tensor, factor: float) -> Tensor:
    return _whole(values.mul_(factor), factor)


def _contrast(values: Tensor, factor: float) -> Tensor:
    mean = int(_grey(values).double().mean().item() + 0.5)
    return _whole(values.sub_(mean).mul_(factor).add_(mean), factor)


def _saturation(values: Tensor, factor: float) -> Tensor:
    grey = _grey(values)
    return _whole(values.sub_(grey).mul_(factor).add_(grey), factor)


_BLENDS = (_brightness, _contrast, _saturation)
"""In the order in which torchvision numbers them; its number 3, the hue, is not used."""


def _grey(values: Tensor) -> Tensor:
    """Pillow's greyscale of whole values, (3, H, W) -> (H, W): sums stay below 2**24, where float32 is exact."""
    red, green, blue = _LUMA
    weighted = values[0] * red
    weighted.add_(values[1] * green).add_(values[2] * blue).add_(1 << 15)
    return torch.mul(weighted, 2**-16, out=weighted).floor_()


def _whole(values: Tensor, factor: float) -> Tensor:
    """Round down as Pillow does; below a factor of 1 a blend stays between its two pictures."""
    return (values.clamp_(0, 255) if factor > 1 else values).floor_()
