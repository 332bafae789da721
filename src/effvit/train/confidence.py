"""How far a score could be from what more pictures of the same kind would give: intervals of 95 %.

The pictures are drawn again, with replacement, 10,000 times (the bootstrap: Efron and Tibshirani,
"An Introduction to the Bootstrap", 1993), all scores from the same draws. It answers for the choice
of the pictures alone: not for other kinds of pictures, nor for another seed of the training.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from effvit.train.calibration import NUM_BINS, equal_width_bins, sureness_gaps
from effvit.train.evaluation import Evaluation

NUM_RESAMPLES = 10_000
LEVEL = 0.95

_PICTURES_AT_ONCE = 2**21
"""Drawn pictures of one block: bounds the memory to some tens of megabytes."""
_FEW = 10
"""Fewer right, or fewer wrong, pictures tell the bootstrap too little: without a mistake it would exclude any."""

Floats = npt.NDArray[np.float64]
Draws = npt.NDArray[np.int64]


class Interval(NamedTuple):
    """Where a score lies with 95 % confidence."""

    low: float
    high: float
    method: str
    """`bootstrap` or `wilson`."""


def confidence_intervals(
    evaluation: Evaluation, *, num_resamples: int = NUM_RESAMPLES, seed: int = 0
) -> dict[str, Interval]:
    """Intervals of top1, top5 (of more than five classes), macro_f1 and ece.

    Bias-corrected percentiles of the resamples: a resample repeats pictures, which makes its
    calibration error larger and its macro F1 smaller than those of as many new ones. Shares with
    fewer than 10 pictures on one side have Wilson's interval.

    Args:
        evaluation: The predictions.
        num_resamples: How often the pictures are drawn again, at least 100.
        seed: Of the draws.
    """
    scores: dict[str, Callable[[Draws], Floats]] = {
        "macro_f1": _MacroF1(evaluation),
        "ece": _CalibrationError(evaluation),
    }
    shares = {"top1": evaluation.right}
    if evaluation.top5 is not None:
        shares["top5"] = evaluation.in_top5
    sampled = {name: right for name, right in shares.items() if min(right.sum(), (~right).sum()) >= _FEW}
    scores |= {name: _Share(right) for name, right in sampled.items()}

    count = evaluation.num_pictures
    everything = np.arange(count)[None]
    resampled: dict[str, list[Floats]] = {name: [] for name in scores}
    for draws in _draws(count, num_resamples, seed):
        for name, score in scores.items():
            resampled[name].append(score(draws))
    found = {
        name: _bias_corrected(np.concatenate(resampled[name]), float(score(everything)[0]))
        for name, score in scores.items()
    }
    found |= {name: wilson(int(right.sum()), count) for name, right in shares.items() if name not in sampled}
    return {name: found[name] for name in (*shares, "macro_f1", "ece")}


def wilson(num_right: int, num_pictures: int) -> Interval:
    """Interval of a share by its score test, sound for few pictures and for shares of 0 and 1.

    Source: E. B. Wilson, Journal of the American Statistical Association 22 (1927), p. 209.
    """
    z = NormalDist().inv_cdf((1 + LEVEL) / 2)
    share = num_right / num_pictures
    middle = share + z * z / (2 * num_pictures)
    half = z * math.sqrt(share * (1 - share) / num_pictures + z * z / (4 * num_pictures**2))
    scale = 1 + z * z / num_pictures
    return Interval(max((middle - half) / scale, 0.0), min((middle + half) / scale, 1.0), "wilson")


def _draws(count: int, num_resamples: int, seed: int) -> Iterator[Draws]:
    """Positions of the drawn pictures, (resamples, count), block by block."""
    generator = np.random.default_rng(seed)
    at_once = max(_PICTURES_AT_ONCE // count, 1)
    for start in range(0, num_resamples, at_once):
        yield generator.integers(count, size=(min(at_once, num_resamples - start), count))


def _bias_corrected(values: Floats, estimate: float) -> Interval:
    """Percentiles, moved by as much as the middle of the resamples lies off the estimate (Efron, 1981)."""
    normal = NormalDist()
    below = ((values < estimate).sum() + 0.5 * (values == estimate).sum()) / len(values)
    shift = normal.inv_cdf(float(np.clip(below, 1 / len(values), 1 - 1 / len(values))))
    tail = normal.inv_cdf((1 + LEVEL) / 2)
    low, high = np.quantile(values, [normal.cdf(2 * shift - tail), normal.cdf(2 * shift + tail)])
    return Interval(float(low), float(high), "bootstrap")


class _Share:
    def __init__(self, right: npt.NDArray[np.bool_]) -> None:
        self._right = right.astype(np.float64)

    def __call__(self, draws: Draws) -> Floats:
        return np.asarray(self._right[draws].mean(axis=1))


class _CalibrationError:
    def __init__(self, evaluation: Evaluation) -> None:
        self._gaps = sureness_gaps(evaluation)
        self._bins = equal_width_bins(evaluation.predicted_probabilities)

    def __call__(self, draws: Draws) -> Floats:
        sums = _count(self._bins[draws], NUM_BINS, weights=self._gaps[draws])
        return np.asarray(np.abs(sums).sum(axis=1) / draws.shape[1])


class _MacroF1:
    """Mean F1 over the classes that have pictures in the draw."""

    def __init__(self, evaluation: Evaluation) -> None:
        # Classes that are neither there nor said cost memory and change nothing.
        seen, codes = np.unique(np.concatenate([evaluation.targets, evaluation.predicted]), return_inverse=True)
        self._num_classes = len(seen)
        self._targets, self._predicted = np.split(codes, 2)

    def __call__(self, draws: Draws) -> Floats:
        targets, predicted = self._targets[draws], self._predicted[draws]
        present = _count(targets, self._num_classes)
        said = _count(predicted, self._num_classes)
        right = _count(targets, self._num_classes, weights=(targets == predicted).astype(np.float64))
        f1 = 2 * right / np.maximum(present + said, 1)
        return np.asarray((f1 * (present > 0)).sum(axis=1) / (present > 0).sum(axis=1))


def _count(codes: Draws, num_codes: int, weights: Floats | None = None) -> Floats:
    """How often each code stands in each row, or the sum of its weights, (rows, num_codes)."""
    rows = np.arange(len(codes))[:, None] * num_codes
    flat = None if weights is None else weights.ravel()
    counts = np.bincount((rows + codes).ravel(), weights=flat, minlength=len(codes) * num_codes)
    return counts.reshape(len(codes), num_codes).astype(np.float64)  # (rows * num_codes,) -> (rows, num_codes)
