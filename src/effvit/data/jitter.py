"""Colour jitter: Pillow's pixels, bit for bit, at a fraction of its time."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision import transforms

Values = NDArray[np.float32]

_LUMA = np.array([19595, 38470, 7471], np.float32)
"""Weights of red, green and blue in Pillow's grey (ITU-R 601-2), in 1/65536."""


class ColorJitter:
    """Changes brightness, contrast and saturation of a picture by random factors, in random order.

    Equals torchvision's ColorJitter on a Pillow picture, in what it draws and in every pixel; a test holds it. All
    three are blends of the picture with another: black, its mean grey, and itself in grey. Pillow rounds down to
    whole values after each; float32 holds all of this exactly, and NumPy computes in it on many values at once.

    Args:
        strength: Factors are drawn from 1 - strength to 1 + strength, 0..1.
    """

    def __init__(self, strength: float) -> None:
        self.range = (max(0.0, 1 - strength), 1 + strength)

    def __call__(self, pixels: Tensor) -> Tensor:
        """Jitter a picture, uint8, (3, H, W); draws from torch's CPU generator."""
        order, *factors, _ = transforms.ColorJitter.get_params(self.range, self.range, self.range, None)
        values = pixels.numpy().astype(np.float32, order="C")
        for kind in order.tolist():
            if kind < len(_ORIGINS):
                _blend(values, _ORIGINS[kind](values), factors[kind])
        return torch.from_numpy(values.astype(np.uint8))


def _blend(values: Values, origin: Values | np.float32, factor: float) -> None:
    """origin + factor x (values - origin), as whole values, in place."""
    values -= origin
    values *= np.float32(factor)
    values += origin
    if factor > 1:  # below, a blend stays between its two pictures
        torch.from_numpy(values).clamp_(0, 255)  # the same memory; several times as fast as NumPy's
    np.floor(values, out=values)


def _black(values: Values) -> np.float32:
    return np.float32(0)


def _mean_grey(values: Values) -> np.float32:
    grey = _grey(values)
    return np.float32(int(grey.sum(dtype=np.float64) / grey.size + 0.5))


def _grey(values: Values) -> Values:
    """Pillow's greyscale of whole values, (3, H, W) -> (H, W): sums stay below 2**24, where float32 is exact."""
    grey: Values = np.dot(_LUMA, values.reshape(3, -1)).reshape(values.shape[1:])  # (3, H, W) -> (3, H W) -> (H, W)
    grey += 1 << 15
    grey *= np.float32(2**-16)
    return np.floor(grey, out=grey)


_ORIGINS = (_black, _mean_grey, _grey)
"""What brightness, contrast and saturation blend with: torchvision's numbers, of which 3 is the hue, unused."""
