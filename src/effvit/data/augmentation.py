"""How training pictures are varied: one record, checked when it is made. No torch here."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

from effvit.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Random crop, flip and colour jitter, in this order."""

    crop_scale: tuple[float, float] = (0.35, 1.0)
    """Least and largest share of the picture's area that a random crop keeps, in (0, 1]."""
    crop_aspect: tuple[float, float] = (3 / 4, 4 / 3)
    """Least and largest stretch of the crop, width / height relative to the network's input, above 0."""
    horizontal_flip: float = 0.5
    """Probability of mirroring, 0..1; 0 where left and right mean something (digits, signs)."""
    color_jitter: float = 0.3
    """Largest relative change of brightness, contrast and saturation, 0..1; 0 turns it off."""

    def __post_init__(self) -> None:
        faults = []
        if not _ascending(self.crop_scale) or not 0 < self.crop_scale[0] <= self.crop_scale[1] <= 1:
            faults.append(f"crop_scale must be two ascending values in (0, 1], got {self.crop_scale}")
        if not _ascending(self.crop_aspect) or self.crop_aspect[0] <= 0:
            faults.append(f"crop_aspect must be two ascending values above 0, got {self.crop_aspect}")
        if not 0 <= self.horizontal_flip <= 1:
            faults.append(f"horizontal_flip must be in 0..1, got {self.horizontal_flip}")
        if not 0 <= self.color_jitter <= 1:
            faults.append(f"color_jitter must be in 0..1, got {self.color_jitter}")
        if faults:
            raise ConfigError("augmentation: " + "; ".join(faults))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Augmentation:
        """Rebuild from `to_dict`; an unknown key is an error."""
        unknown = set(values) - {field.name for field in fields(cls)}
        if unknown:
            raise ConfigError(f"augmentation: unknown keys {sorted(unknown)}")
        plain: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in values.items()}
        return cls(**plain)


def _ascending(pair: tuple[float, float]) -> bool:
    return len(pair) == 2 and pair[0] <= pair[1]
