"""Do two models compute the same function? Compared on pictures, decided by one stated tolerance."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from effvit.errors import ConfigError, ExportError

TOLERANCE = 1e-4
"""Largest allowed error over the largest logit, in float32.

Measured with random numbers in every weight, norm and bias table, float32 against float64, a few draws each:
rounding alone reaches 2e-7 to 8e-7 for M0..M4 and 8e-5 for M5; a head without its cascade, a window without
its mask or one head of two gives 8e-4 to 1. Smaller faults are a matter for the float64 test of the deploy
form, which holds 1e-12; in float32 no tolerance tells them from rounding.
"""


@dataclass(frozen=True, kw_only=True)
class Verification:
    """How far a candidate is from its reference."""

    num_pictures: int
    """Pictures compared."""
    max_abs_error: float
    """Largest difference of two logits."""
    max_rel_error: float
    """The same over the largest absolute logit of the reference."""
    top1_agreement: float
    """Share of pictures with the same first class, 0..1. Below 1 in a passed check only by ties: a class can
    overtake another only if the two were within twice the largest error of each other."""
    tolerance: float
    """Largest `max_rel_error` that passes."""

    @property
    def passed(self) -> bool:
        """Whether the error is finite and within the tolerance."""
        return self.max_rel_error <= self.tolerance  # False for NaN

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, the decision included."""
        return {**asdict(self), "passed": self.passed}

    def __str__(self) -> str:
        return (
            f"largest error {self.max_abs_error:.2g}, {self.max_rel_error:.2g} of the largest logit"
            f" (allowed: {self.tolerance:.2g}), same first class on {self.top1_agreement:.2%}"
            f" of {self.num_pictures} pictures"
        )


def verify(
    reference: Callable[[Tensor], Tensor],
    candidate: Callable[[Tensor], Tensor],
    batches: Iterable[Tensor],
    *,
    tolerance: float = TOLERANCE,
) -> Verification:
    """Compare two models on pictures.

    Args:
        reference: What is right; pictures (B, C, H, W) to logits (B, num_classes).
        candidate: What is in question, the same call.
        batches: Prepared pictures, batch by batch; real ones where possible.
        tolerance: Largest error over the largest logit that passes.

    Returns:
        The comparison; `passed` is the decision.

    Raises:
        ConfigError: If there is no picture.
        ExportError: If the two answer in different shapes.
    """
    num_pictures = num_agreeing = 0
    max_error = max_logit = torch.zeros((), dtype=torch.float64)
    for images in batches:
        with torch.inference_mode():
            expected, actual = (model(images).to("cpu", torch.float64) for model in (reference, candidate))
        if expected.shape != actual.shape:
            raise ExportError(f"answers differ in shape: expected {tuple(expected.shape)}, got {tuple(actual.shape)}")
        num_pictures += len(expected)
        num_agreeing += int((expected.argmax(1) == actual.argmax(1)).sum())
        # torch.maximum keeps a NaN, Python's max may lose it.
        max_error = torch.maximum(max_error, (expected - actual).abs().max())
        max_logit = torch.maximum(max_logit, expected.abs().max())
    if num_pictures == 0:
        raise ConfigError("verification needs at least one picture, got none")
    error, logit = max_error.item(), max_logit.item()
    return Verification(
        num_pictures=num_pictures,
        max_abs_error=error,
        max_rel_error=_relative(error, logit),
        top1_agreement=num_agreeing / num_pictures,
        tolerance=tolerance,
    )


def _relative(error: float, largest: float) -> float:
    """Error over the largest value; of a reference that is 0 everywhere, only no error at all is small."""
    if largest == 0:
        return 0.0 if error == 0 else math.inf
    return error / largest
