"""Everything that decides what a training run computes: one record, checked when it is made. No torch here."""

from __future__ import annotations

import dataclasses
import math
import typing
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from effvit.data.augmentation import Augmentation
from effvit.errors import ConfigError, unknown_name
from effvit.preprocessing import Preprocessing
from effvit.sections import Limit, limit_faults, parse_value
from effvit.train.distillation_config import Distillation

PRECISIONS = ("float32", "bfloat16", "float16")
SCHEDULE_UNITS = ("step", "epoch")
CLASS_WEIGHTS = ("none", "inverse", "effective")
SAMPLERS = ("shuffle", "balanced")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """A training run: network, data, optimiser, schedule.

    The defaults are the paper's where they do not depend on its 300 epochs of ImageNet (Sec. 4.1:
    AdamW, weight decay, label smoothing, cosine schedule and its ends). Learning rate, batch size,
    warm-up and clipping suit short runs on some thousand photos. `recipes.py` has whole sets.
    """

    recipe: str = ""
    """Name of the recipe the values come from, for the record; empty for these defaults."""
    model: str = "efficientvit_m0"
    """Name of the network."""
    epochs: int = 20
    """Passes over the training pictures, at least 1."""
    batch_size: int = 64
    """Most pictures in a step of the optimiser, all processes and micro-batches together, at least 2 (batch
    normalisation needs two)."""
    accumulation: int = 1
    """Micro-batches a process cuts its part of a step into, at least 1, for batches that do not fit its memory."""
    learning_rate: float = 4e-3
    """Highest learning rate, above 0, used as it stands unless base_batch_size is given. The paper's
    1e-3 x batch/512 would be 1.25e-4 at 64, for some hundred thousand steps; short runs want more."""
    base_batch_size: int = 0
    """Batch that learning_rate is meant for: the highest rate is learning_rate x batch_size / base_batch_size. 0
    takes learning_rate as it stands."""
    warmup_share: float = 0.1
    """Share of all steps, 0..1, in which the learning rate rises linearly to its height."""
    warmup_learning_rate: float = 1e-6
    """Learning rate of the first step when there is a warm-up, at least 0."""
    min_learning_rate: float = 1e-5
    """Learning rate the cosine falls to, at least 0."""
    schedule_unit: str = "step"
    """How often the learning rate changes: every step, or every epoch as in the paper's code."""
    layer_decay: float = 1.0
    """Factor on the learning rate from each layer to the one before it, in (0, 1]; 1 for one rate. For fine-tuning."""
    weight_decay: float = 0.025
    """AdamW's decoupled weight decay, at least 0; none on biases, norms and attention biases."""
    label_smoothing: float = 0.1
    """Probability mass taken from the true class and spread over all, 0 up to below 1."""
    clip_grad: float = 0.0
    """Adaptive clipping: largest norm of a unit's gradient as a share of its weights' norm; 0 turns it off. The paper
    has 0.02 for its 300 epochs of ImageNet; in 20 epochs on some thousand photos it did not help (docs/learning.md)."""
    window: int = 0
    """Side of the attention windows, in tokens; 0 keeps the network's (7 for M0..M5). Larger pictures may want
    others, see the recipe high_resolution."""
    drop_path: float = 0.0
    """Probability of skipping a residual branch of the network, 0 up to below 1."""
    class_weights: str = "none"
    """Weights of the classes in the loss: none, inverse (frequency) or effective (number of samples)."""
    sampler: str = "shuffle"
    """Order of an epoch: shuffle (each picture once), or balanced (each class equally often)."""
    ema_decay: float = 0.0
    """Decay of the moving average of the weights, 0 up to below 1; 0 keeps none."""
    ema_warmup: bool = False
    """Whether the average's decay rises with the steps, for runs that are short beside 1 / (1 - ema_decay)."""
    precision: str = "float32"
    """What the forward pass computes in: float32, or bfloat16 / float16 by torch's autocast."""
    channels_last: bool = False
    """Whether pictures and weights lie in memory with the channels innermost."""
    compile: bool = False
    """Whether training steps run through torch.compile."""
    freeze_norm: bool = False
    """Whether batch normalisation keeps the statistics it came with."""
    sync_norm: bool = False
    """Whether batch statistics are taken over all processes (CUDA only)."""
    freeze_backbone_epochs: int = 0
    """First epochs in which only the head is trained, at least 0."""
    patience: int = 0
    """Epochs without a better validation after which a run stops; 0 never stops early."""
    val_fraction: float = 0.2
    """Share of each class held out where the data come without a val folder, in (0, 1)."""
    max_unreadable: float = 0.01
    """Share of the pictures that may be unreadable before the run stops, 0..1."""
    checkpoint_minutes: float = 10.0
    """Longest time between two checkpoints, above 0; one more is written after every epoch."""
    tensorboard: bool = False
    """Whether the curves are also written for TensorBoard, into the run folder."""
    seed: int = 0
    """Seed of the split, the initial weights, the order and the augmentation, at least 0."""
    num_workers: int = 0
    """Processes that decode pictures, for each process that trains; does not change the result."""
    device: str = "cpu"
    """Where the network is trained: cpu, cuda, cuda:1, mps."""
    augmentation: Augmentation = field(default_factory=Augmentation)
    """How training pictures are varied."""
    distillation: Distillation = field(default_factory=Distillation)
    """A network to learn from, beside the labels."""
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    """Input size and normalisation; travels with the weights."""

    def __post_init__(self) -> None:
        faults = limit_faults(self, _LIMITS)
        faults += [
            f"{name} must be finite, got {value}"
            for name, value in vars(self).items()
            if isinstance(value, float) and not math.isfinite(value)
        ]
        if not faults and self.min_learning_rate > self.peak_learning_rate:
            faults.append(
                f"min_learning_rate must not be above learning_rate, "
                f"got {self.min_learning_rate} and {self.peak_learning_rate}"
            )
        if self.sampler == "balanced" and self.augmentation.repeats > 1:
            faults.append(
                f"sampler balanced draws pictures several times itself; set augmentation.repeats=1, got "
                f"{self.augmentation.repeats}"
            )
        if faults:
            raise ConfigError("training: " + "; ".join(faults))

    @property
    def peak_learning_rate(self) -> float:
        """Highest learning rate of the run, with the batch's scaling."""
        scale = self.batch_size / self.base_batch_size if self.base_batch_size else 1.0
        return self.learning_rate * scale

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> TrainConfig:
        """Rebuild from `to_dict`.

        Raises:
            ConfigError: With all faults, those of the sections and unknown keys included.
        """
        faults = []
        unknown = set(values) - {entry.name for entry in fields(cls)}
        if unknown:
            faults.append(f"training: unknown keys {sorted(unknown)}")
        known = {key: value for key, value in values.items() if key not in unknown}
        for name, section in _SECTIONS.items():
            try:
                known[name] = section.from_dict(known.get(name, {}))
            except ConfigError as error:
                faults.append(str(error))
                del known[name]  # the default stands in, so that the other faults are found as well
        try:
            config = cls(**known)
        except ConfigError as error:
            faults.append(str(error))
        if faults:
            raise ConfigError("; ".join(faults))
        return config


_SECTIONS: dict[str, type[Augmentation] | type[Distillation] | type[Preprocessing]] = {
    "augmentation": Augmentation,
    "distillation": Distillation,
    "preprocessing": Preprocessing,
}


def _one_of(names: Sequence[str]) -> tuple[str, typing.Callable[[Any], bool]]:
    return f"one of {', '.join(names)}", lambda value: value in names


_LIMITS: tuple[Limit, ...] = (
    ("epochs", "in 1..1000000", lambda value: 1 <= value <= 10**6),
    ("batch_size", "in 2..1000000", lambda value: 2 <= value <= 10**6),
    ("accumulation", "in 1..10000", lambda value: 1 <= value <= 10**4),
    ("learning_rate", "above 0", lambda value: value > 0),
    ("base_batch_size", "in 0..1000000", lambda value: 0 <= value <= 10**6),
    ("warmup_share", "in 0..1", lambda value: 0 <= value <= 1),
    ("warmup_learning_rate", "at least 0", lambda value: value >= 0),
    ("min_learning_rate", "at least 0", lambda value: value >= 0),
    ("schedule_unit", *_one_of(SCHEDULE_UNITS)),
    ("layer_decay", "above 0, at most 1", lambda value: 0 < value <= 1),
    ("weight_decay", "at least 0", lambda value: value >= 0),
    ("label_smoothing", "at least 0 and below 1", lambda value: 0 <= value < 1),
    ("clip_grad", "at least 0", lambda value: value >= 0),
    ("window", "in 0..1024", lambda value: 0 <= value <= 1024),
    ("drop_path", "at least 0 and below 1", lambda value: 0 <= value < 1),
    ("class_weights", *_one_of(CLASS_WEIGHTS)),
    ("sampler", *_one_of(SAMPLERS)),
    ("ema_decay", "at least 0 and below 1", lambda value: 0 <= value < 1),
    ("precision", *_one_of(PRECISIONS)),
    ("freeze_backbone_epochs", "at least 0", lambda value: value >= 0),
    ("patience", "at least 0", lambda value: value >= 0),
    ("val_fraction", "above 0 and below 1", lambda value: 0 < value < 1),
    ("max_unreadable", "in 0..1", lambda value: 0 <= value <= 1),
    ("checkpoint_minutes", "above 0", lambda value: value > 0),
    ("seed", "in 0..2**63-1", lambda value: 0 <= value < 2**63),
    ("num_workers", "in 0..256", lambda value: 0 <= value <= 256),
)


def replace_fields(config: TrainConfig, assignments: Sequence[str]) -> TrainConfig:
    """Set fields by their written names, as `--set` does.

    Args:
        config: Where the other values come from.
        assignments: `field=value` or `section.field=value`; a tuple is written `0.5,1`.

    Returns:
        A new, checked config.

    Raises:
        ConfigError: If an assignment is malformed, names no field, has a value of another type, or the
            result is not allowed.
    """
    values = config.to_dict()
    types_by_name = field_types()
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        name = name.strip()
        if not equals:
            raise ConfigError(f"--set wants field=value, got {assignment!r}")
        if name == "recipe":
            raise ConfigError(f"a recipe is a whole set of settings: give it as --recipe {text.strip()}")
        if name not in types_by_name:
            raise ConfigError(unknown_name("field", name, types_by_name))
        section, _, leaf = name.rpartition(".")
        target = values[section] if section else values
        target[leaf] = parse_value(name, text.strip(), types_by_name[name])
    return TrainConfig.from_dict(values)


def field_types() -> dict[str, Any]:
    """Every field that can be set, as `field` or `section.field`, and its type; a recipe's name says what was set."""
    found: dict[str, Any] = {}
    for name, hint in typing.get_type_hints(TrainConfig).items():
        if name == "recipe":
            continue
        if name in _SECTIONS:
            inner = typing.get_type_hints(_SECTIONS[name])
            found.update({f"{name}.{leaf}": inner_hint for leaf, inner_hint in inner.items()})
        else:
            found[name] = hint
    return found
