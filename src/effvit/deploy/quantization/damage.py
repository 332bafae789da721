"""int8: what is common to the runtimes - the record, the error of the logits, and which layers stay in float.

Eight bits for weights and activations are an approximation, and some layers bear it worse than others. So
each layer is quantised alone and the error of the logits is measured on calibration pictures: its
*damage*. Errors of many small roundings are independent, so their squares add up (on M0, the root of the
sum over 117 layers was 0.192 and the network with all of them in int8 was off by 0.191).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from effvit.errors import ConfigError, DataError, unknown_name

Progress = Callable[[int, int], None]
"""Told (steps done, steps in all)."""

MIN_PICTURES = 8
"""Fewest calibration pictures: ranges of fewer are those of single pictures."""
MAX_ERROR = 0.2
"""Default limit of the error of the logits: on M0 trained on 81 classes it costs nothing that can be measured."""
MAX_FLOAT_MACS = 0.05
"""Largest share of the multiplications that may be left in float: they run at a quarter of the speed."""

_MAX_BATCH = 16
"""Pictures fed at a time, where the file takes any number."""
_NEAR = 1.05
"""If the limit is out of reach, an error this much above the best measured is as good."""
NUM_JUDGES = 64
"""Pictures that damage is measured on: more change its ranking little, and it is measured once per layer."""


@dataclass(frozen=True, kw_only=True)
class LayerDamage:
    """What quantising one layer alone does."""

    name: str
    """The layer: the name of its weights, or of its operator if it has none."""
    operator: str
    """Kind of operator, in the runtime's words."""
    damage: float | None
    """Error of the logits with only this layer quantised, see `logits_error`; None if it was not measured."""
    mac_share: float
    """Its share of the multiply-accumulates of the network."""


@dataclass(frozen=True, kw_only=True)
class Quantization:
    """How a file became int8, and what it cost on the calibration pictures."""

    runtime: str
    """Whose file it is."""
    num_pictures: int
    """Calibration pictures."""
    method: str
    """How the range of an activation follows from the pictures."""
    method_errors: dict[str, float]
    """Error of the logits with each method tried and every layer quantised."""
    layers: tuple[LayerDamage, ...]
    """Layers in int8, the most damaging first."""
    float_layers: tuple[LayerDamage, ...]
    """Layers left in float, the most damaging first."""
    max_error: float | None
    """The limit that layers were left in float for; None if they were given."""
    error_before: float
    """Error of the logits with every layer quantised."""
    error: float
    """Error of the logits as the file is."""
    agreement: float
    """Share of the calibration pictures on which the file and the float network name the same class."""

    @classmethod
    def judged(
        cls,
        runtime: str,
        errors: Mapping[str, float],
        method: str,
        layers: Sequence[LayerDamage],
        kept: Collection[str],
        *,
        max_error: float | None,
        reference: np.ndarray,
        logits: np.ndarray,
    ) -> Quantization:
        """The record of a finished quantisation.

        Args:
            runtime: Which runtime it is for.
            errors: Of each method that was tried, with no layer left in float by choice.
            method: The one taken.
            layers: Every layer that could be quantised.
            kept: Names of those left in float.
            max_error: The limit by which they were chosen; None if they were given.
            reference: Logits of the float file, (pictures, classes).
            logits: Those of the result.
        """
        return cls(
            runtime=runtime,
            num_pictures=len(reference),
            method=method,
            method_errors=dict(errors),
            layers=by_damage([layer for layer in layers if layer.name not in kept]),
            float_layers=by_damage([layer for layer in layers if layer.name in kept]),
            max_error=max_error,
            error_before=errors[method],
            error=logits_error(reference, logits),
            agreement=agreement(reference, logits),
        )

    @property
    def within_limit(self) -> bool:
        """Whether the limit was reached; true if there was none."""
        return self.max_error is None or self.error <= self.max_error

    def __str__(self) -> str:
        """One line for people."""
        left = ", ".join(layer.name for layer in self.float_layers) or "none"
        return (
            f"int8 by {self.method} on {self.num_pictures} pictures: {len(self.layers)} layers,"
            f" error of the logits {self.error:.3f}, same class on {self.agreement:.1%}; left in float: {left}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**asdict(self), "within_limit": self.within_limit}


def logits_error(reference: np.ndarray, logits: np.ndarray) -> float:
    """Root mean square of the difference over that of the reference, its mean over the classes taken off.

    The mean of a picture's logits is taken off because no decision depends on it.

    Args:
        reference: Logits in float, (pictures, classes).
        logits: Those in question, the same shape.

    Returns:
        0 for equal; infinite if a logit is not a number, or if the reference says nothing.
    """
    centred = reference - reference.mean(axis=1, keepdims=True)
    scale = float(np.sqrt(np.mean(np.square(centred, dtype=np.float64))))
    error = float(np.sqrt(np.mean(np.square(logits - reference, dtype=np.float64))))
    if error == 0:
        return 0.0
    return error / scale if scale > 0 and math.isfinite(error) else math.inf


def agreement(reference: np.ndarray, logits: np.ndarray) -> float:
    """Share of the pictures whose first class is the same; both (pictures, classes)."""
    return float((reference.argmax(axis=1) == logits.argmax(axis=1)).mean())


def choose_float_layers(
    damages: Sequence[LayerDamage],
    error: float,
    measure: Callable[[tuple[str, ...]], float],
    *,
    max_error: float = MAX_ERROR,
    max_float_macs: float = MAX_FLOAT_MACS,
) -> tuple[str, ...]:
    """Find the fewest layers to leave in float that bring the error within a limit.

    Where two layers do equal damage, the one that costs less time goes first: a layer in float costs its
    share of the multiplications and two conversions, taken as much as an average layer's share. How many
    are enough is measured, not summed up, because not all of the error is of layers: sums of residual
    branches are rounded too.

    Args:
        damages: Every layer that could be left in float, its damage measured.
        error: Error of the logits with all of them quantised.
        measure: Tells the error with these layers left in float.
        max_error: The limit.
        max_float_macs: Largest share of the multiply-accumulates left in float.

    Returns:
        Names, the best bargain first. If the limit cannot be reached, the fewest that come near the best
        that can be, which may be none.
    """
    order = _bargains(damages, max_float_macs)
    errors = {0: error}

    def within(count: int) -> bool:
        if count not in errors:
            errors[count] = measure(order[:count])
        return errors[count] <= max_error

    enough = 1
    while enough < len(order) and not within(enough):
        enough *= 2
    enough = min(enough, len(order))
    if not within(enough):
        best = min(errors.values())
        return order[: min(count for count in errors if errors[count] <= _NEAR * best)]
    too_few = max(count for count in errors if count < enough)
    while enough - too_few > 1:
        middle = (too_few + enough) // 2
        too_few, enough = (too_few, middle) if within(middle) else (middle, enough)
    return order[:enough]


def _bargains(damages: Sequence[LayerDamage], max_float_macs: float) -> tuple[str, ...]:
    """Layers by squared damage per time, as many as may be left in float."""
    conversions = 1 / max(len(damages), 1)
    chosen, macs = [], 0.0
    for layer in sorted(damages, key=lambda layer: -((layer.damage or 0.0) ** 2) / (layer.mac_share + conversions)):
        if layer.damage and macs + layer.mac_share <= max_float_macs:
            chosen.append(layer.name)
            macs += layer.mac_share
    return tuple(chosen)


def check_known(kind: str, names: Sequence[str], known: Collection[str]) -> None:
    """ConfigError, naming the nearest, if one of these is no method or layer that is known."""
    for name in names:
        if name not in known:
            raise ConfigError(unknown_name(kind, name, known))


def by_damage(layers: Sequence[LayerDamage]) -> tuple[LayerDamage, ...]:
    """The same layers, the most damaging first, those not measured last in the order they came."""
    return tuple(sorted(layers, key=lambda layer: (layer.damage is None, -(layer.damage or 0.0))))


def calibration_arrays(calibration: Sequence[Tensor], input_shape: Sequence[int | None], name: str) -> list[np.ndarray]:
    """Check calibration batches against what a file takes.

    Args:
        calibration: Batches of pictures as the file takes them.
        input_shape: The file's, batch first; None where any number will do.
        name: The file's name, for messages.

    Returns:
        The batches; cut to the file's batch size if that is fixed, an incomplete last one left out.

    Raises:
        DataError: If there are too few pictures.
        ConfigError: If a batch is not what the file takes.
    """
    for batch in calibration:
        if not _fits(batch.shape[1:], input_shape[1:]):
            wanted = ", ".join("any" if side is None else str(side) for side in input_shape)
            raise ConfigError(f"{name} takes pictures of shape ({wanted}), calibration has {tuple(batch.shape)}")
    # Every activation of a batch is in memory at once.
    arrays = [
        part.detach().cpu().contiguous().numpy() for batch in calibration for part in torch.split(batch, _MAX_BATCH)
    ]
    fixed = input_shape[0]
    if fixed is not None:
        pictures = np.concatenate(arrays) if arrays else np.empty((0,))
        arrays = [pictures[i : i + fixed] for i in range(0, len(pictures) - fixed + 1, fixed)]
    count = sum(map(len, arrays))
    if count < MIN_PICTURES:
        raise DataError(f"calibration needs at least {MIN_PICTURES} pictures, got {count}")
    return arrays


def _fits(shape: Sequence[int], wanted: Sequence[int | None]) -> bool:
    """Whether a shape is as wanted, None standing for any side."""
    return len(shape) == len(wanted) and all(want in (None, got) for want, got in zip(wanted, shape, strict=True))
