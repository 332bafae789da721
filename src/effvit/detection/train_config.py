"""Everything that decides what the training of a detector computes: one record, checked when made. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from effvit.detection.config import MIN_SIDE, TASKS
from effvit.preprocessing import IMAGENET_MEAN, IMAGENET_STD, MAX_IMAGE_SIZE
from effvit.sections import Limit, one_of
from effvit.train.run_config import RunConfig

_LONG_SIDE = 5 / 3
"""Longest side over shortest: COCO's 1333 x 800."""


@dataclass(frozen=True, kw_only=True)
class DetectionConfig(RunConfig):
    """A detector's training run.

    The defaults are for some hundred or thousand pictures of one's own on one machine: smaller pictures than the
    paper's, several sizes, a cosine over more epochs, a moving average. `recipes.py` has the paper's.
    """

    TITLE: ClassVar[str] = "detection training"
    LIMITS: ClassVar[tuple[Limit, ...]] = (
        ("task", *one_of(TASKS)),
        ("min_size", f"in {MIN_SIDE}..{MAX_IMAGE_SIZE}", lambda value: MIN_SIDE <= value <= MAX_IMAGE_SIZE),
        (
            "max_size",
            f"0, or in {MIN_SIDE}..{MAX_IMAGE_SIZE}",
            lambda value: not value or MIN_SIDE <= value <= MAX_IMAGE_SIZE,
        ),
        ("scales", "numbers in 0.1..10", lambda value: all(0.1 <= scale <= 10 for scale in value)),
        ("flip", "in 0..1", lambda value: 0 <= value <= 1),
        ("color_jitter", "in 0..1", lambda value: 0 <= value <= 1),
        ("neck_channels", "in 1..4096", lambda value: 1 <= value <= 4096),
        ("freeze_backbone_epochs", "0: detectors are trained whole", lambda value: value == 0),
        ("compile", "false: the losses of a detector have other shapes in each step", lambda value: not value),
    )

    model: str = "efficientvit_m0"
    """The backbone: a variant, `timm:NAME`, a weights or run folder, or `module.path:factory`."""
    task: str = "boxes"
    """boxes (RetinaNet) or masks (Mask R-CNN)."""
    epochs: int = 60
    """Passes over the training pictures, at least 1."""
    batch_size: int = 16
    """Most pictures in a step of the optimiser, all processes and micro-batches together, at least 1."""
    learning_rate: float = 5e-4
    """Highest learning rate, above 0, used as it stands unless base_batch_size is given. For a backbone that was
    never trained, as most are that begin here; with pretrained weights a fifth of it is a good beginning."""
    weight_decay: float = 0.05
    """AdamW's decoupled weight decay, at least 0; none on attention biases (paper, appendix)."""
    warmup_learning_rate: float = 1e-6
    """Learning rate of the first step when there is a warm-up, at least 0."""
    ema_decay: float = 0.998
    """Decay of the moving average of the weights, 0 up to below 1; 0 keeps none."""
    ema_warmup: bool = True
    """Whether the average's decay rises with the steps, for runs that are short beside 1 / (1 - ema_decay)."""
    min_size: int = 320
    """The short side a picture is brought to, in pixels, unless the long side would exceed max_size."""
    max_size: int = 0
    """Longest side of a picture, in pixels; 0 for 5/3 of the short side, as COCO's 1333 to 800."""
    scales: tuple[float, ...] = (0.75, 0.875, 1.0, 1.125, 1.25)
    """Factors of min_size; training draws one for each step. 1 alone is one size."""
    flip: float = 0.5
    """Probability that a training picture is mirrored, left to right."""
    color_jitter: float = 0.2
    """How much brightness, contrast and saturation of a training picture may change, 0..1."""
    neck_channels: int = 256
    """Channels of each map of the neck and of the heads' convolutions; fewer are faster."""
    mean: tuple[float, ...] = IMAGENET_MEAN
    """Per-channel mean subtracted after scaling to 0..1."""
    std: tuple[float, ...] = IMAGENET_STD
    """Per-channel standard deviation divided by."""

    def further_faults(self) -> list[str]:
        """Sizes that contradict each other."""
        faults = []
        if not self.scales:
            faults.append("scales must be at least one number, got none")
        if self.max_size and self.max_size < self.min_size:
            faults.append(f"max_size must not be below min_size, got {self.max_size} and {self.min_size}")
        return faults

    @property
    def long_side(self) -> int:
        """Longest side of a picture, in pixels."""
        return self.max_size or round(_LONG_SIDE * self.min_size)
