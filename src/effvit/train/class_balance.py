"""Weights for classes with few pictures."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from effvit.data.samples import Sample


def count_classes(samples: Iterable[Sample], num_classes: int) -> list[int]:
    """Pictures of each class."""
    counts = Counter(sample.target for sample in samples)
    return [counts[target] for target in range(num_classes)]


def class_weights(kind: str, class_counts: Sequence[int]) -> Tensor | None:
    """Weight of each class in the loss.

    The mean over the training pictures is 1, so that the learning rate means the same with and without
    weights, and a step may divide by its number of pictures: losses stay sums over pictures, whichever process
    or micro-batch they are computed in. A class without pictures weighs nothing.

    Args:
        kind: none, inverse (1 / number of pictures: every class counts the same in all) or effective
            (1 / effective number of pictures, which grows ever slower with each picture; milder).
        class_counts: Training pictures of each class.

    Returns:
        Weights, float64, (num_classes,); None for none.

    Source: effective number (1 - b^n) / (1 - b): Cui et al., arXiv:1901.05555, Eq. 2, with b = (N - 1) / N for a class
    of N distinct pictures. Nobody knows N; here it is the median class's number of pictures, so that what a
    class has beyond a usual one is taken to say little new.
    """
    if kind == "none":
        return None
    counts = torch.tensor(class_counts, dtype=torch.float64)
    weights = torch.where(counts > 0, 1 / _effective(kind, counts), 0.0)
    mean = (weights * counts).sum() / counts.sum()
    balanced: Tensor = weights / mean
    return balanced


def _effective(kind: str, counts: Tensor) -> Tensor:
    if kind == "inverse":
        return counts
    distinct = statistics.median(count for count in counts.tolist() if count)
    beta = (distinct - 1) / distinct
    effective: Tensor = (1 - beta**counts) / (1 - beta)
    return effective
