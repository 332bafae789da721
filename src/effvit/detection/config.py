"""What a detector is, as a value that is stored beside its weights. No torch here."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from effvit.errors import ConfigError
from effvit.preprocessing import IMAGENET_MEAN, IMAGENET_STD, MAX_IMAGE_SIZE
from effvit.sections import Limit, limit_faults, read_section

TASKS = ("boxes", "masks")
MIN_SIDE = 32


@dataclass(frozen=True, kw_only=True)
class DetectorConfig:
    """RetinaNet for boxes, Mask R-CNN for boxes and masks, on a backbone; the defaults are the paper's (appendix)."""

    backbone: str | dict[str, Any] = "efficientvit_m4"
    """Name of a variant, `timm:NAME`, or the plain values of an `EfficientViTConfig`: any network we can build."""
    task: str = "boxes"
    """boxes (RetinaNet) or masks (Mask R-CNN)."""
    class_names: tuple[str, ...] = ()
    """Name of each class, in the order of the labels; at least one."""
    category_ids: tuple[int, ...] = ()
    """Each class's id in the COCO file it was trained with; empty for 1, 2, 3, ..."""
    min_size: int = 800
    """The short side a picture is brought to, in pixels, unless the long side would exceed max_size."""
    max_size: int = 1333
    """Longest side of a picture, in pixels."""
    mean: tuple[float, ...] = IMAGENET_MEAN
    """Per-channel mean subtracted after scaling to 0..1."""
    std: tuple[float, ...] = IMAGENET_STD
    """Per-channel standard deviation divided by."""
    neck_channels: int = 256
    """Channels of each map of the neck."""
    score_threshold: float = 0.05
    """Detections below are dropped, 0..1."""
    nms_threshold: float = 0.5
    """Overlap (IoU) from which on the less sure of two boxes of a class is dropped, 0..1."""
    max_detections: int = 100
    """Most detections of a picture."""

    def __post_init__(self) -> None:
        faults = limit_faults(self, _LIMITS)
        if len(set(self.class_names)) != len(self.class_names) or not self.class_names:
            faults.append(f"class_names must be at least one, all different, got {self.class_names!r:.80}")
        if self.category_ids and not len(set(self.category_ids)) == len(self.category_ids) == len(self.class_names):
            faults.append(
                f"category_ids must be one for each of {len(self.class_names)} classes, all different, got"
                f" {self.category_ids!r:.80}"
            )
        if not faults and self.min_size > self.max_size:
            faults.append(f"min_size must not be above max_size, got {self.min_size} and {self.max_size}")
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            faults.append(f"mean and std must be three values each, std above 0, got {self.mean} and {self.std}")
        if faults:
            raise ConfigError("detector: " + "; ".join(faults))

    @property
    def num_classes(self) -> int:
        """Classes, without a background."""
        return len(self.class_names)

    @property
    def ids(self) -> tuple[int, ...]:
        """Each class's COCO category id."""
        return self.category_ids or tuple(range(1, self.num_classes + 1))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> DetectorConfig:
        """Rebuild from `to_dict`; an unknown key is an error."""
        return read_section(cls, values, "detector")


_LIMITS: tuple[Limit, ...] = (
    ("task", f"one of {', '.join(TASKS)}", lambda value: value in TASKS),
    ("min_size", f"in {MIN_SIDE}..{MAX_IMAGE_SIZE}", lambda value: MIN_SIDE <= value <= MAX_IMAGE_SIZE),
    ("max_size", f"in {MIN_SIDE}..{MAX_IMAGE_SIZE}", lambda value: MIN_SIDE <= value <= MAX_IMAGE_SIZE),
    ("neck_channels", "in 1..4096", lambda value: 1 <= value <= 4096),
    ("score_threshold", "in 0..1", lambda value: 0 <= value <= 1),
    ("nms_threshold", "in 0..1", lambda value: 0 <= value <= 1),
    ("max_detections", "in 1..10000", lambda value: 1 <= value <= 10000),
)
