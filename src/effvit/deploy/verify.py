"""Do two models compute the same function? Compared on pictures, decided by one stated tolerance."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

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

Measure = Literal["error", "agreement"]
"""What decides: the largest error of a logit, or the share of pictures with another first class."""


class Labelled(NamedTuple):
    """A batch of pictures whose classes are known: a comparison on it tells both models' accuracy too."""

    images: Tensor
    """As the models take them."""
    targets: Tensor
    """Class indices, int64, (B,)."""


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
    """Share of pictures with the same first class, 0..1. Below 1 in a check of errors passed only by ties: a class
    can overtake another only if the two were within twice the largest error of each other."""
    tolerance: float
    """Largest `max_rel_error`, or share of pictures with another first class, that passes."""
    measure: Measure = "error"
    """Which of the two it is."""
    top1_reference: float | None = None
    """Accuracy of the reference on the labelled pictures, 0..1; None if there were none."""
    top1_candidate: float | None = None
    """The same of the candidate."""

    @property
    def passed(self) -> bool:
        """Whether every answer is finite, and the measure within the tolerance."""
        if not math.isfinite(self.max_rel_error):
            return False
        return (self.max_rel_error if self.measure == "error" else 1 - self.top1_agreement) <= self.tolerance

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, the decision included."""
        return {**asdict(self), "passed": self.passed}

    def __str__(self) -> str:
        error, agreement = "", ""
        if self.measure == "error":
            error = f" (allowed: {self.tolerance:.2g})"
        else:
            agreement = f" (at least: {1 - self.tolerance:.2%})"
        return (
            f"largest error {self.max_abs_error:.2g}, {self.max_rel_error:.2g} of the largest logit{error},"
            f" same first class on {self.top1_agreement:.2%} of {self.num_pictures} pictures{agreement}"
        )


class _Tally:
    """What is counted over the batches."""

    def __init__(self) -> None:
        self.num_pictures = self.num_agreeing = self.num_labelled = 0
        self.num_right = [0, 0]
        self.max_error = self.max_logit = torch.zeros((), dtype=torch.float64)

    def add(self, expected: Tensor, actual: Tensor, targets: Tensor | None) -> None:
        """Count a batch: logits of the reference and the candidate, (B, num_classes), float64."""
        if expected.shape != actual.shape:
            raise ExportError(f"answers differ in shape: expected {tuple(expected.shape)}, got {tuple(actual.shape)}")
        classes = expected.argmax(1), actual.argmax(1)
        self.num_pictures += len(expected)
        self.num_agreeing += int((classes[0] == classes[1]).sum())
        # torch.maximum keeps a NaN, Python's max may lose it.
        self.max_error = torch.maximum(self.max_error, (expected - actual).abs().max())
        self.max_logit = torch.maximum(self.max_logit, expected.abs().max())
        if targets is not None:
            self.num_labelled += len(targets)
            self.num_right = [
                count + int((answer == targets).sum()) for count, answer in zip(self.num_right, classes, strict=True)
            ]


def verify(
    reference: Callable[[Tensor], Tensor],
    candidate: Callable[[Tensor], Tensor],
    batches: Iterable[Tensor | Labelled],
    *,
    tolerance: float = TOLERANCE,
    measure: Measure = "error",
) -> Verification:
    """Compare two models on pictures.

    Args:
        reference: What is right; pictures (B, C, H, W) to logits (B, num_classes).
        candidate: What is in question, the same call.
        batches: Prepared pictures, batch by batch; real ones where possible, with their classes where known.
        tolerance: Largest error over the largest logit that passes; or share of pictures with another first class.
        measure: Which of the two decides.

    Returns:
        The comparison; `passed` is the decision.

    Raises:
        ConfigError: If there is no picture.
        ExportError: If the two answer in different shapes.
    """
    tally = _Tally()
    for batch in batches:
        images, targets = batch if isinstance(batch, Labelled) else (batch, None)
        with torch.inference_mode():
            expected, actual = (model(images).to("cpu", torch.float64) for model in (reference, candidate))
        tally.add(expected, actual, targets)
    if tally.num_pictures == 0:
        raise ConfigError("verification needs at least one picture, got none")
    error, logit = tally.max_error.item(), tally.max_logit.item()
    top1 = [right / tally.num_labelled for right in tally.num_right] if tally.num_labelled else [None, None]
    return Verification(
        num_pictures=tally.num_pictures,
        max_abs_error=error,
        max_rel_error=_relative(error, logit),
        top1_agreement=tally.num_agreeing / tally.num_pictures,
        tolerance=tolerance,
        measure=measure,
        top1_reference=top1[0],
        top1_candidate=top1[1],
    )


def _relative(error: float, largest: float) -> float:
    """Error over the largest value; of a reference that is 0 everywhere, only no error at all is small."""
    if largest == 0:
        return 0.0 if error == 0 else math.inf
    return error / largest
