"""Everything that decides what the training of a classifier computes: one record, checked when made. No torch here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from effvit.data.augmentation import Augmentation
from effvit.preprocessing import Preprocessing
from effvit.sections import Limit, one_of
from effvit.train.distillation_config import Distillation
from effvit.train.run_config import RunConfig

CLASS_WEIGHTS = ("none", "inverse", "effective")
SAMPLERS = ("shuffle", "balanced")


@dataclass(frozen=True, kw_only=True)
class TrainConfig(RunConfig):
    """A classifier's training run: network, data, optimiser, schedule.

    The defaults are the paper's where they do not depend on its 300 epochs of ImageNet (Sec. 4.1:
    AdamW, weight decay, label smoothing, cosine schedule and its ends). Learning rate, batch size,
    warm-up and clipping suit short runs on some thousand photos. `recipes.py` has whole sets.
    """

    LIMITS: ClassVar[tuple[Limit, ...]] = (
        ("batch_size", "in 2..1000000", lambda value: value >= 2),
        ("label_smoothing", "at least 0 and below 1", lambda value: 0 <= value < 1),
        ("window", "in 0..1024", lambda value: 0 <= value <= 1024),
        ("drop_path", "at least 0 and below 1", lambda value: 0 <= value < 1),
        ("class_weights", *one_of(CLASS_WEIGHTS)),
        ("sampler", *one_of(SAMPLERS)),
    )
    SECTIONS = {"augmentation": Augmentation, "distillation": Distillation, "preprocessing": Preprocessing}  # noqa: RUF012

    label_smoothing: float = 0.1
    """Probability mass taken from the true class and spread over all, 0 up to below 1."""
    window: int = 0
    """Side of the attention windows, in tokens; 0 keeps the network's (7 for M0..M5). Larger pictures may want
    others, see the recipe high_resolution."""
    drop_path: float = 0.0
    """Probability of skipping a residual branch of the network, 0 up to below 1."""
    class_weights: str = "none"
    """Weights of the classes in the loss: none, inverse (frequency) or effective (number of samples)."""
    sampler: str = "shuffle"
    """Order of an epoch: shuffle (each picture once), or balanced (each class equally often)."""
    augmentation: Augmentation = field(default_factory=Augmentation)
    """How training pictures are varied."""
    distillation: Distillation = field(default_factory=Distillation)
    """A network to learn from, beside the labels."""
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    """Input size and normalisation; travels with the weights."""

    def further_faults(self) -> list[str]:
        """A balanced order repeats pictures itself."""
        if self.sampler != "balanced" or self.augmentation.repeats == 1:
            return []
        return [
            f"sampler balanced draws pictures several times itself; set augmentation.repeats=1, got "
            f"{self.augmentation.repeats}"
        ]
