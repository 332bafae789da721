"""What every kind of training run is told: steps, optimiser, schedule, checkpoints. No torch here."""

from __future__ import annotations

import dataclasses
import math
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Self, TypeVar

from effvit.errors import ConfigError, unknown_name
from effvit.sections import Limit, limit_faults, one_of, parse_value

PRECISIONS = ("float32", "bfloat16", "float16")
SCHEDULES = ("cosine", "milestones")
SCHEDULE_UNITS = ("step", "epoch")


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """The part of a run's settings that the training loop itself reads, whatever is trained.

    A kind of run adds its own fields, what is allowed in them (`LIMITS`), and which of them are records of their own
    (`SECTIONS`).
    """

    LIMITS: ClassVar[tuple[Limit, ...]] = ()
    """What is allowed in the fields that a kind of run adds."""
    SECTIONS: ClassVar[Mapping[str, Any]] = {}
    """Fields that are records of their own, with `to_dict` and `from_dict`."""
    TITLE: ClassVar[str] = "training"
    """What messages about the settings begin with."""

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
    warmup_steps: int = 0
    """The same as a number of steps; 0 goes by warmup_share."""
    warmup_learning_rate: float = 1e-6
    """Learning rate of the first step when there is a warm-up, at least 0."""
    min_learning_rate: float = 1e-5
    """Learning rate the cosine falls to, at least 0."""
    schedule: str = "cosine"
    """How the learning rate falls after the warm-up: cosine, or milestones (to a tenth at each)."""
    milestones: tuple[float, ...] = ()
    """Epochs that are done when the rate falls to a tenth, rising, each above 0."""
    schedule_unit: str = "step"
    """How often the learning rate changes: every step, or every epoch as in the paper's code."""
    layer_decay: float = 1.0
    """Factor on the learning rate from each layer to the one before it, in (0, 1]; 1 for one rate. For fine-tuning."""
    weight_decay: float = 0.025
    """AdamW's decoupled weight decay, at least 0; none on biases, norms and attention biases."""
    clip_grad: float = 0.0
    """Adaptive clipping: largest norm of a unit's gradient as a share of its weights' norm; 0 turns it off. The paper
    has 0.02 for its 300 epochs of ImageNet; in 20 epochs on some thousand photos it did not help (docs/learning.md)."""
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

    def __post_init__(self) -> None:
        limits = {limit[0]: limit for limit in (*_LIMITS, *self.LIMITS)}  # the kind's own word counts
        faults = limit_faults(self, tuple(limits.values()))
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
        if self.schedule == "milestones" and not self.milestones:
            faults.append("schedule milestones needs milestones=EPOCH,EPOCH,...")
        faults += self.further_faults()
        if faults:
            raise ConfigError(f"{self.TITLE}: " + "; ".join(faults))

    def further_faults(self) -> list[str]:
        """Faults of fields that contradict each other, for a kind of run to add."""
        return []

    @property
    def peak_learning_rate(self) -> float:
        """Highest learning rate of the run, with the batch's scaling."""
        scale = self.batch_size / self.base_batch_size if self.base_batch_size else 1.0
        return self.learning_rate * scale

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Rebuild from `to_dict`.

        Raises:
            ConfigError: With all faults, those of the sections and unknown keys included.
        """
        faults = []
        unknown = set(values) - {entry.name for entry in fields(cls)}
        if unknown:
            faults.append(f"{cls.TITLE}: unknown keys {sorted(unknown)}")
        known: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value
            for key, value in values.items()
            if key not in unknown
        }
        for name, section in cls.SECTIONS.items():
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

    @classmethod
    def field_types(cls) -> dict[str, Any]:
        """Every field that can be set, as `field` or `section.field`, and its type; `recipe` says what was set."""
        found: dict[str, Any] = {}
        hints = typing.get_type_hints(cls)
        for name in (entry.name for entry in fields(cls) if entry.name != "recipe"):
            if name in cls.SECTIONS:
                inner = typing.get_type_hints(cls.SECTIONS[name])
                found.update({f"{name}.{leaf.name}": inner[leaf.name] for leaf in fields(cls.SECTIONS[name])})
            else:
                found[name] = hints[name]
        return found


Config = TypeVar("Config", bound=RunConfig)

_LIMITS: tuple[Limit, ...] = (
    ("epochs", "in 1..1000000", lambda value: 1 <= value <= 10**6),
    ("batch_size", "in 1..1000000", lambda value: 1 <= value <= 10**6),
    ("accumulation", "in 1..10000", lambda value: 1 <= value <= 10**4),
    ("learning_rate", "above 0", lambda value: value > 0),
    ("base_batch_size", "in 0..1000000", lambda value: 0 <= value <= 10**6),
    ("warmup_share", "in 0..1", lambda value: 0 <= value <= 1),
    ("warmup_steps", "at least 0", lambda value: value >= 0),
    ("warmup_learning_rate", "at least 0", lambda value: value >= 0),
    ("min_learning_rate", "at least 0", lambda value: value >= 0),
    ("schedule", *one_of(SCHEDULES)),
    (
        "milestones",
        "rising numbers above 0",
        lambda value: all(a < b for a, b in zip((0, *value), value, strict=False)),
    ),
    ("schedule_unit", *one_of(SCHEDULE_UNITS)),
    ("layer_decay", "above 0, at most 1", lambda value: 0 < value <= 1),
    ("weight_decay", "at least 0", lambda value: value >= 0),
    ("clip_grad", "at least 0", lambda value: value >= 0),
    ("ema_decay", "at least 0 and below 1", lambda value: 0 <= value < 1),
    ("precision", *one_of(PRECISIONS)),
    ("freeze_backbone_epochs", "at least 0", lambda value: value >= 0),
    ("patience", "at least 0", lambda value: value >= 0),
    ("val_fraction", "above 0 and below 1", lambda value: 0 < value < 1),
    ("max_unreadable", "in 0..1", lambda value: 0 <= value <= 1),
    ("checkpoint_minutes", "above 0", lambda value: value > 0),
    ("seed", "in 0..2**63-1", lambda value: 0 <= value < 2**63),
    ("num_workers", "in 0..256", lambda value: 0 <= value <= 256),
)


def field_of(assignment: str) -> str:
    """The field that `field=value` sets."""
    return assignment.partition("=")[0].strip()


def replace_fields(config: Config, assignments: Sequence[str]) -> Config:
    """Set fields by their written names, as `--set` does.

    Args:
        config: Where the other values come from.
        assignments: `field=value` or `section.field=value`; a tuple is written `0.5,1`.

    Returns:
        A new, checked config of the same kind.

    Raises:
        ConfigError: If an assignment is malformed, names no field, has a value of another type, or the
            result is not allowed.
    """
    values = config.to_dict()
    types_by_name = config.field_types()
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
    return type(config).from_dict(values)


def flat_settings(config: RunConfig) -> dict[str, Any]:
    """Every field by the name that `--set` knows it by."""
    values, found = config.to_dict(), {}
    for name in config.field_types():
        section, _, leaf = name.rpartition(".")
        found[name] = values[section][leaf] if section else values[leaf]
    return found
