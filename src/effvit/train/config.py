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


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """A training run: network, data, optimiser, schedule.

    The defaults are the paper's where they do not depend on its 300 epochs of ImageNet (Sec. 4.1:
    AdamW, weight decay, label smoothing, adaptive clipping, cosine schedule and its ends). Learning
    rate, batch size and warm-up suit short runs on some thousand photos.
    """

    model: str = "efficientvit_m0"
    """Name of the network."""
    epochs: int = 20
    """Passes over the training pictures, at least 1."""
    batch_size: int = 64
    """Most pictures in a step, at least 2 (batch normalisation needs two)."""
    learning_rate: float = 4e-3
    """Highest learning rate, above 0, used as it stands. The paper's 1e-3 x batch/512 would be 1.25e-4 at 64, for
    some hundred thousand steps; short runs from scratch on some thousand photos want more."""
    warmup_share: float = 0.1
    """Share of all steps, 0..1, in which the learning rate rises linearly to its height."""
    warmup_learning_rate: float = 1e-6
    """Learning rate of the first step when there is a warm-up, at least 0."""
    min_learning_rate: float = 1e-5
    """Learning rate the cosine falls to, at least 0."""
    weight_decay: float = 0.025
    """AdamW's decoupled weight decay, at least 0; none on biases, norms and attention biases."""
    label_smoothing: float = 0.1
    """Probability mass taken from the true class and spread over all, 0 up to below 1."""
    clip_grad: float = 0.02
    """Adaptive clipping: largest norm of a unit's gradient as a share of its weights' norm; 0 turns it off."""
    drop_path: float = 0.0
    """Probability of skipping a residual branch of the network, 0 up to below 1."""
    val_fraction: float = 0.2
    """Share of each class held out where the data come without a val folder, in (0, 1)."""
    seed: int = 0
    """Seed of the split, the initial weights, the order and the augmentation, at least 0."""
    num_workers: int = 0
    """Processes that decode pictures; does not change the result."""
    device: str = "cpu"
    """Where the network is trained: cpu, cuda, cuda:1, mps."""
    augmentation: Augmentation = field(default_factory=Augmentation)
    """How training pictures are varied."""
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    """Input size and normalisation; travels with the weights."""

    def __post_init__(self) -> None:
        faults = [
            f"{name} must be {allowed}, got {getattr(self, name)!r}"
            for name, allowed, holds in _LIMITS
            if not holds(getattr(self, name))
        ]
        faults += [
            f"{name} must be finite, got {value}"
            for name, value in vars(self).items()
            if isinstance(value, float) and not math.isfinite(value)
        ]
        if not faults and self.min_learning_rate > self.learning_rate:
            faults.append(
                f"min_learning_rate must not be above learning_rate, "
                f"got {self.min_learning_rate} and {self.learning_rate}"
            )
        if faults:
            raise ConfigError("training: " + "; ".join(faults))

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


_SECTIONS: dict[str, type[Augmentation] | type[Preprocessing]] = {
    "augmentation": Augmentation,
    "preprocessing": Preprocessing,
}

_LIMITS: tuple[tuple[str, str, typing.Callable[[Any], bool]], ...] = (
    ("epochs", "in 1..1000000", lambda value: 1 <= value <= 10**6),
    ("batch_size", "in 2..1000000", lambda value: 2 <= value <= 10**6),
    ("learning_rate", "above 0", lambda value: value > 0),
    ("warmup_share", "in 0..1", lambda value: 0 <= value <= 1),
    ("warmup_learning_rate", "at least 0", lambda value: value >= 0),
    ("min_learning_rate", "at least 0", lambda value: value >= 0),
    ("weight_decay", "at least 0", lambda value: value >= 0),
    ("label_smoothing", "at least 0 and below 1", lambda value: 0 <= value < 1),
    ("clip_grad", "at least 0", lambda value: value >= 0),
    ("drop_path", "at least 0 and below 1", lambda value: 0 <= value < 1),
    ("val_fraction", "above 0 and below 1", lambda value: 0 < value < 1),
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
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals:
            raise ConfigError(f"--set wants field=value, got {assignment!r}")
        section, _, leaf = name.strip().rpartition(".")
        types_by_name = field_types()
        if name.strip() not in types_by_name:
            raise ConfigError(unknown_name("field", name.strip(), types_by_name))
        target = values[section] if section else values
        target[leaf] = _parse(name.strip(), text.strip(), types_by_name[name.strip()])
    return TrainConfig.from_dict(values)


def field_types() -> dict[str, Any]:
    """Every field that can be set, as `field` or `section.field`, and its type."""
    found: dict[str, Any] = {}
    for name, hint in typing.get_type_hints(TrainConfig).items():
        if name in _SECTIONS:
            inner = typing.get_type_hints(_SECTIONS[name])
            found.update({f"{name}.{leaf}": inner_hint for leaf, inner_hint in inner.items()})
        else:
            found[name] = hint
    return found


def _parse(name: str, text: str, hint: Any) -> Any:
    """Read `text` as a value of type `hint`: str, int, float, or a tuple of these."""
    if typing.get_origin(hint) is tuple:
        element = typing.get_args(hint)[0]
        return tuple(_parse(name, part.strip(), element) for part in text.split(","))
    try:
        return hint(text)
    except ValueError as error:
        raise ConfigError(f"{name} must be {_type_name(hint)}, got {text!r}") from error


def _type_name(hint: type) -> str:
    return {int: "a whole number", float: "a number", str: "text"}[hint]
