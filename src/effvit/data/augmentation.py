"""How training pictures are varied: one record, checked when it is made. No torch here."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import Any

from effvit.errors import ConfigError
from effvit.sections import Limit, limit_faults, read_section

ERASING_MODES = ("pixel", "rand", "const")
"""timm's: noise in every pixel, one random colour, black."""


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Each picture alone: random crop, flip, RandAugment or colour jitter, erasing; then pairs: mixup, cutmix."""

    crop_scale: tuple[float, float] = (0.35, 1.0)
    """Least and largest share of the picture's area that a random crop keeps, in (0, 1]."""
    crop_aspect: tuple[float, float] = (3 / 4, 4 / 3)
    """Least and largest stretch of the crop, width / height relative to the network's input, above 0."""
    horizontal_flip: float = 0.5
    """Probability of mirroring, 0..1; 0 where left and right mean something (digits, signs)."""
    color_jitter: float = 0.3
    """Largest relative change of brightness, contrast and saturation, 0..1; 0 turns it off."""
    rand_augment: str = ""
    """timm's words for RandAugment, as `rand-m9-mstd0.5-inc1`; empty turns it off. It takes the colour jitter's
    place, as in timm: with it, the jitter's strength is not used."""
    random_erasing: float = 0.0
    """Probability of erasing a rectangle, 0..1."""
    erasing_mode: str = "pixel"
    """What the rectangle is filled with: pixel, rand or const."""
    repeats: int = 1
    """Views of a picture in one epoch, at least 1: repeated augmentation (Hoffer et al., arXiv:1901.09335). An
    epoch keeps its length, so it sees one picture in `repeats`."""
    mixup: float = 0.0
    """Alpha of mixup's Beta distribution, at least 0; 0 turns it off."""
    cutmix: float = 0.0
    """Alpha of cutmix's Beta distribution, at least 0; 0 turns it off."""
    mix_probability: float = 1.0
    """Probability that a batch is mixed at all, 0..1."""
    mix_switch: float = 0.5
    """Probability of cutmix where both are on, 0..1."""

    def __post_init__(self) -> None:
        faults = []
        if not _ascending(self.crop_scale) or not 0 < self.crop_scale[0] <= self.crop_scale[1] <= 1:
            faults.append(f"crop_scale must be two ascending values in (0, 1], got {self.crop_scale}")
        if not _ascending(self.crop_aspect) or self.crop_aspect[0] <= 0:
            faults.append(f"crop_aspect must be two ascending values above 0, got {self.crop_aspect}")
        faults += limit_faults(self, _LIMITS)
        if self.rand_augment and not re.match(r"rand(-|$)", self.rand_augment):
            faults.append(f"rand_augment must begin with rand-, as rand-m9-mstd0.5-inc1, got {self.rand_augment!r}")
        if faults:
            raise ConfigError("augmentation: " + "; ".join(faults))

    @property
    def mixes(self) -> bool:
        """Whether pictures of a batch are mixed, so that targets are soft."""
        return (self.mixup > 0 or self.cutmix > 0) and self.mix_probability > 0

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Augmentation:
        """Rebuild from `to_dict`; an unknown key is an error."""
        return read_section(cls, values, "augmentation")


_LIMITS: tuple[Limit, ...] = (
    ("horizontal_flip", "in 0..1", lambda value: 0 <= value <= 1),
    ("color_jitter", "in 0..1", lambda value: 0 <= value <= 1),
    ("random_erasing", "in 0..1", lambda value: 0 <= value <= 1),
    ("erasing_mode", f"one of {', '.join(ERASING_MODES)}", lambda value: value in ERASING_MODES),
    ("repeats", "in 1..100", lambda value: 1 <= value <= 100),
    ("mixup", "in 0..100", lambda value: 0 <= value <= 100),
    ("cutmix", "in 0..100", lambda value: 0 <= value <= 100),
    ("mix_probability", "in 0..1", lambda value: 0 <= value <= 1),
    ("mix_switch", "in 0..1", lambda value: 0 <= value <= 1),
)


def _ascending(pair: tuple[float, float]) -> bool:
    return len(pair) == 2 and pair[0] <= pair[1]
