"""What happens to a picture before it reaches a network: one record that travels with the weights.

It stands below `model` and `data` because both need it: the reader and writer of weights store it,
the transforms carry it out. No torch here.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

from effvit.errors import ConfigError
from effvit.sections import read_section

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
MAX_IMAGE_SIZE = 8192
"""Largest side of a picture in pixels: beyond it is a mistyped number, and takes the machine's memory."""
INTERPOLATIONS = ("bicubic", "bilinear", "nearest")


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """Resize the short side to `image_size / crop_ratio`, crop the centre, scale to 0..1, normalise."""

    image_size: tuple[int, int] = (224, 224)
    """Height and width the network is fed, in pixels."""
    mean: tuple[float, ...] = IMAGENET_MEAN
    """Per-channel mean subtracted after scaling to 0..1."""
    std: tuple[float, ...] = IMAGENET_STD
    """Per-channel standard deviation divided by."""
    interpolation: str = "bicubic"
    """How pictures are resized: bicubic, bilinear or nearest."""
    crop_ratio: float = 0.875
    """Share of the resized picture that the centre crop keeps, in (0, 1]; 224 / 256 for ImageNet."""

    def __post_init__(self) -> None:
        faults = []
        if len(self.image_size) != 2 or not all(1 <= side <= MAX_IMAGE_SIZE for side in self.image_size):
            faults.append(f"image_size must be two whole numbers in 1..{MAX_IMAGE_SIZE}, got {self.image_size}")
        if not all(map(math.isfinite, (*self.mean, *self.std))):
            faults.append(f"mean and std must be finite, got {self.mean} and {self.std}")
        if len(self.mean) != len(self.std) or not self.mean:
            faults.append(f"mean and std must have one value per channel, got {self.mean} and {self.std}")
        if any(value <= 0 for value in self.std):
            faults.append(f"std must be positive, got {self.std}")
        if self.interpolation not in INTERPOLATIONS:
            faults.append(f"interpolation must be one of {', '.join(INTERPOLATIONS)}, got {self.interpolation!r}")
        if not 0 < self.crop_ratio <= 1:
            faults.append(f"crop_ratio must be in (0, 1], got {self.crop_ratio}")
        if faults:
            raise ConfigError("preprocessing: " + "; ".join(faults))

    def at_size(self, image_size: tuple[int, int] | None) -> Preprocessing:
        """The same for pictures of another height and width in pixels; None keeps them."""
        return self if image_size is None else replace(self, image_size=image_size)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Preprocessing:
        """Rebuild from `to_dict`; an unknown key is an error."""
        return read_section(cls, values, "preprocessing")
