"""Whether a classifier is as often right as it is sure, and the temperature that makes it so.

A classifier is calibrated if, of the pictures it is 80 % sure of, 80 % are right. The expected
calibration error (ECE) is the mean distance between the two, over bins of pictures of like
probability (Naeini et al., AAAI 2015; Guo et al., arXiv:1706.04599). Dividing the logits by one
number, the temperature, changes how sure a classifier is and never what it says.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from effvit.errors import DataError
from effvit.train.evaluation import Evaluation

NUM_BINS = 15
"""Bins of the calibration error, as in Guo et al. and most papers since."""
NUM_FOLDS = 5
"""Parts of the pictures; the temperature that judges a part is fitted on the others."""

_TEMPERATURES = (0.05, 20.0)
"""Beyond these a fit has run away: there is nothing to fit, as where every prediction is right."""
_MAX_STEPS = 100
_ROWS_AT_ONCE = 4096
"""Pictures of one block of arithmetic: 1000 classes in float64 take 33 MB."""


class Bin(NamedTuple):
    """Pictures whose prediction is about equally sure."""

    low: float
    """Least probability, exclusive but for the first bin."""
    high: float
    """Largest probability, inclusive."""
    num_pictures: int
    confidence: float | None
    """Mean probability of the predicted class; None without pictures."""
    accuracy: float | None
    """Share of right predictions; None without pictures."""


class Calibration(NamedTuple):
    """A temperature and what it does, as plain values."""

    temperature: float
    """What the logits are divided by, fitted on all pictures."""
    num_pictures: int
    """How many it was fitted on."""
    num_folds: int
    """Parts of the cross-validation behind the values after."""
    ece_before: float
    ece_after: float
    """Of pictures each judged at a temperature fitted on the others: what new pictures can expect."""
    loss_before: float
    """Mean cross entropy, in nats."""
    loss_after: float
    """As `ece_after`."""


def reliability(evaluation: Evaluation, num_bins: int = NUM_BINS) -> tuple[Bin, ...]:
    """Sureness and accuracy over bins of equal width in the probability of the predicted class."""
    edges = np.linspace(0, 1, num_bins + 1)
    members = equal_width_bins(evaluation.predicted_probabilities, num_bins)
    bins = []
    for index in range(num_bins):
        inside = members == index
        count = int(inside.sum())
        confidence = float(evaluation.predicted_probabilities[inside].mean()) if count else None
        accuracy = float(evaluation.right[inside].mean()) if count else None
        bins.append(Bin(float(edges[index]), float(edges[index + 1]), count, confidence, accuracy))
    return tuple(bins)


def equal_width_bins(probabilities: npt.NDArray[np.float64], num_bins: int = NUM_BINS) -> npt.NDArray[np.int64]:
    """Bin of each probability, from 0: a value on an edge belongs to the bin below."""
    return np.clip(np.ceil(probabilities * num_bins).astype(np.int64) - 1, 0, num_bins - 1)


def sureness_gaps(evaluation: Evaluation) -> npt.NDArray[np.float64]:
    """Probability less outcome (1 if right) of each picture, (N,)."""
    return evaluation.predicted_probabilities - evaluation.right


def expected_calibration_error(evaluation: Evaluation, num_bins: int = NUM_BINS) -> float:
    """Mean distance of sureness and accuracy over bins of equal width, 0..1."""
    members = equal_width_bins(evaluation.predicted_probabilities, num_bins)
    gaps = np.bincount(members, weights=sureness_gaps(evaluation), minlength=num_bins)
    return float(np.abs(gaps).sum() / evaluation.num_pictures)


def adaptive_calibration_error(evaluation: Evaluation, num_bins: int = NUM_BINS) -> float:
    """The same over bins with equally many pictures, which the sure ones of a good network do not crowd into one.

    Source: adaptive bins as in Nixon et al., arXiv:1904.01685, of the predicted class alone.
    """
    order = np.argsort(evaluation.predicted_probabilities, kind="stable")
    parts = np.array_split(sureness_gaps(evaluation)[order], num_bins)
    return float(sum(abs(part.sum()) for part in parts) / evaluation.num_pictures)


def fit_temperature(logits: npt.NDArray[np.float32], targets: npt.NDArray[np.int64]) -> float:
    """The temperature with the least mean cross entropy.

    Cross entropy is convex in the inverse temperature, so that Newton's steps, held within a factor
    of two, find its only minimum.

    Args:
        logits: Outputs, (N, num_classes).
        targets: True classes, (N,).

    Raises:
        DataError: If there is none between 0.05 and 20: every prediction is right, or none is better than chance.
    """
    inverse = 1.0
    for _ in range(_MAX_STEPS):
        slope, curvature = _slope_and_curvature(logits, targets, inverse)
        wanted = inverse - slope / curvature if curvature > 0 else inverse * (0.5 if slope > 0 else 2.0)
        updated = float(np.clip(wanted, inverse / 2, inverse * 2))
        if not _TEMPERATURES[0] < 1 / updated < _TEMPERATURES[1]:
            raise DataError(
                f"no temperature between {_TEMPERATURES[0]} and {_TEMPERATURES[1]} suits these {len(targets)} pictures"
                f" (top-1 {(logits.argmax(axis=1) == targets).mean():.1%}): it takes a network that is better than"
                " chance, and some mistakes"
            )
        if abs(updated - inverse) < 1e-9 * inverse:
            break
        inverse = updated
    return 1 / updated


def calibrate(evaluation: Evaluation, *, seed: int = 0) -> Calibration:
    """Fit a temperature on all pictures, and tell by cross-validation what it is worth on others.

    Args:
        evaluation: With its logits.
        seed: Of the folds.

    Raises:
        DataError: If there are no logits, fewer pictures than folds, or nothing to fit.
    """
    logits, targets = _logits(evaluation), evaluation.targets
    if len(targets) < 2 * NUM_FOLDS:
        raise DataError(f"calibration needs at least {2 * NUM_FOLDS} pictures, got {len(targets)}")
    order = np.random.default_rng(seed).permutation(len(targets))
    temperatures = np.empty(len(targets))
    for fold in np.array_split(order, NUM_FOLDS):
        others = np.setdiff1d(order, fold)
        temperatures[fold] = fit_temperature(logits[others], targets[others])
    judged = at_temperature(evaluation, temperatures)
    return Calibration(
        temperature=fit_temperature(logits, targets),
        num_pictures=len(targets),
        num_folds=NUM_FOLDS,
        ece_before=expected_calibration_error(evaluation),
        ece_after=expected_calibration_error(judged),
        loss_before=evaluation.loss,
        loss_after=judged.loss,
    )


def at_temperature(evaluation: Evaluation, temperature: float | npt.NDArray[np.float64]) -> Evaluation:
    """What the evaluation would have been with the logits divided by a number, or by one for each picture, (N,)."""
    logits, targets = _logits(evaluation), evaluation.targets
    inverse = np.broadcast_to(1 / np.asarray(temperature, dtype=np.float64), targets.shape)
    probabilities, losses = np.empty_like(evaluation.top_probabilities), np.empty(len(targets))
    for rows in _blocks(len(targets)):
        logs = _log_softmax(logits[rows] * inverse[rows, None])
        probabilities[rows] = np.exp(np.take_along_axis(logs, evaluation.top_classes[rows], axis=1))
        losses[rows] = -np.take_along_axis(logs, targets[rows, None], axis=1)[:, 0]
    scaled = (logits * inverse[:, None]).astype(np.float32)
    return replace(evaluation, top_probabilities=probabilities, losses=losses, logits=scaled)


def calibration_summary(evaluation: Evaluation) -> dict[str, Any]:
    """Calibration errors and the bins of the reliability plot as plain values for JSON."""
    return {
        "ece": expected_calibration_error(evaluation),
        "ece_adaptive": adaptive_calibration_error(evaluation),
        "confidence": float(evaluation.predicted_probabilities.mean()),
        "bins": [entry._asdict() for entry in reliability(evaluation)],
    }


def _slope_and_curvature(
    logits: npt.NDArray[np.float32], targets: npt.NDArray[np.int64], inverse: float
) -> tuple[float, float]:
    """First and second derivative of the mean cross entropy by the inverse temperature."""
    slope = curvature = 0.0
    for rows in _blocks(len(targets)):
        block = logits[rows].astype(np.float64)
        probabilities = np.exp(_log_softmax(block * inverse))
        mean = (probabilities * block).sum(axis=1)
        slope += float((mean - np.take_along_axis(block, targets[rows, None], axis=1)[:, 0]).sum())
        curvature += float((probabilities * (block - mean[:, None]) ** 2).sum())
    return slope / len(targets), curvature / len(targets)


def _log_softmax(logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.asarray(torch.from_numpy(logits).log_softmax(dim=1).numpy())


def _blocks(count: int) -> Iterator[slice]:
    return (slice(start, min(start + _ROWS_AT_ONCE, count)) for start in range(0, count, _ROWS_AT_ONCE))


def _logits(evaluation: Evaluation) -> npt.NDArray[np.float32]:
    if evaluation.logits is None:
        raise DataError("a temperature is fitted on the logits: evaluate with keep_logits=True")
    return evaluation.logits
