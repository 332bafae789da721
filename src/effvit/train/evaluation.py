"""What a classifier said of labelled pictures, and the scores that follow from it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from effvit.data.samples import Sample

TOP_K = 5
"""How many of the most probable classes of a picture are kept; fewer if the network has fewer."""


class ClassScore(NamedTuple):
    """How well one class is recognised; None where the share has no denominator."""

    name: str
    precision: float | None
    """Share of the pictures called this class that are of it."""
    recall: float | None
    """Share of the pictures of this class that are called it."""
    f1: float | None
    """Harmonic mean of the two."""
    num_pictures: int


class Average(NamedTuple):
    """Mean over the classes that have pictures; one that has and is never said counts with precision 0."""

    precision: float
    recall: float
    f1: float


class Confusion(NamedTuple):
    """One class that is taken for another."""

    true: str
    predicted: str
    num_pictures: int
    """Pictures of the first that were called the second."""
    share: float
    """Share of the pictures of the first, 0..1."""


@dataclass(frozen=True)
class Evaluation:
    """Every prediction on a set of pictures, in the order of the samples; the scores follow from them."""

    class_names: tuple[str, ...]
    samples: tuple[Sample, ...]
    """The pictures that could be read, N of them."""
    top_classes: npt.NDArray[np.int64]
    """Most probable classes of each picture, the first first, (N, K) with K = 5 or all of fewer classes."""
    top_probabilities: npt.NDArray[np.float64]
    """Their probabilities, (N, K)."""
    losses: npt.NDArray[np.float64]
    """Cross entropy of each picture, in nats, (N,)."""
    unreadable: tuple[str, ...] = ()
    """One line for each picture that could not be read and is not counted."""
    logits: npt.NDArray[np.float32] | None = None
    """All outputs, (N, num_classes), if they were asked for: what a temperature is fitted on."""

    @property
    def num_pictures(self) -> int:
        """Number of pictures that were evaluated."""
        return len(self.samples)

    @property
    def names(self) -> tuple[str, ...]:
        """Each picture for a reader: its path, with its name in the shard if it lies in one."""
        return tuple(sample.name for sample in self.samples)

    @cached_property
    def targets(self) -> npt.NDArray[np.int64]:
        """True class of each picture, (N,)."""
        return np.array([sample.target for sample in self.samples], dtype=np.int64)

    @property
    def predicted(self) -> npt.NDArray[np.int64]:
        """Most probable class of each picture, (N,)."""
        return self.top_classes[:, 0]

    @property
    def predicted_probabilities(self) -> npt.NDArray[np.float64]:
        """Probability given to the predicted class, (N,)."""
        return self.top_probabilities[:, 0]

    @property
    def target_probabilities(self) -> npt.NDArray[np.float64]:
        """Probability given to the true class, (N,)."""
        return np.exp(-self.losses)

    @property
    def right(self) -> npt.NDArray[np.bool_]:
        """Whether the predicted class is the true one, (N,)."""
        return np.asarray(self.predicted == self.targets)

    @property
    def in_top5(self) -> npt.NDArray[np.bool_]:
        """Whether the true class is among the five most probable, (N,)."""
        return np.asarray((self.top_classes == self.targets[:, None]).any(axis=1))

    @property
    def top1(self) -> float:
        """Share of pictures whose most probable class is right, 0..1."""
        return float(self.right.mean())

    @property
    def top5(self) -> float | None:
        """Share of pictures with the right class among the first five; None with five classes or fewer."""
        return float(self.in_top5.mean()) if len(self.class_names) > TOP_K else None

    @property
    def loss(self) -> float:
        """Mean cross entropy in nats, without label smoothing."""
        return float(self.losses.mean())

    @cached_property
    def confusion(self) -> npt.NDArray[np.int64]:
        """Number of pictures by true (row) and predicted (column) class, (num_classes, num_classes)."""
        labels = range(len(self.class_names))
        return np.asarray(confusion_matrix(self.targets, self.predicted, labels=labels), dtype=np.int64)

    @cached_property
    def per_class(self) -> tuple[ClassScore, ...]:
        """Precision, recall and F1 of each class."""
        precision, recall, f1, support = precision_recall_fscore_support(
            self.targets, self.predicted, labels=range(len(self.class_names)), zero_division=np.nan
        )
        rows = zip(self.class_names, precision, recall, f1, support, strict=True)
        return tuple(
            ClassScore(name, _defined(p), _defined(r), _defined(f), int(count)) for name, p, r, f, count in rows
        )

    def average(self, *, weighted: bool = False) -> Average:
        """Precision, recall and F1 over the classes that have pictures.

        Args:
            weighted: Whether a class counts by its number of pictures (then recall is top-1), or each the same.
        """
        scores = [score for score in self.per_class if score.num_pictures]
        weights = [score.num_pictures if weighted else 1 for score in scores]
        values = [(score.precision or 0.0, score.recall or 0.0, score.f1 or 0.0) for score in scores]
        return Average(*np.average(values, axis=0, weights=weights).tolist())

    def most_confused(self, count: int = 20) -> tuple[Confusion, ...]:
        """The pairs of classes with the most mistakes, and between equals the larger share of the true class."""
        mistakes = self.confusion.copy()
        np.fill_diagonal(mistakes, 0)
        totals = self.confusion.sum(axis=1)
        pairs = [
            Confusion(self.class_names[row], self.class_names[column], number, number / int(totals[row]))
            for row, column in np.argwhere(mistakes).tolist()
            for number in [int(mistakes[row, column])]
        ]
        return tuple(sorted(pairs, key=lambda pair: (-pair.num_pictures, -pair.share))[:count])

    def surest_mistakes(self, count: int = 20) -> npt.NDArray[np.int64]:
        """Positions of the wrong predictions with the highest probability, the surest first."""
        mistakes = np.flatnonzero(~self.right)
        order = np.argsort(-self.predicted_probabilities[mistakes], kind="stable")
        return mistakes[order][:count]

    def least_sure(self, count: int = 20) -> npt.NDArray[np.int64]:
        """Positions of the predictions with the lowest probability, right or wrong, the least sure first."""
        return np.argsort(self.predicted_probabilities, kind="stable")[:count]

    def summary(self) -> dict[str, Any]:
        """The scores as plain values for JSON."""
        macro, weighted = self.average(), self.average(weighted=True)
        return {
            "num_pictures": self.num_pictures,
            "top1": self.top1,
            "top5": self.top5,
            "loss": self.loss,
            "macro_precision": macro.precision,
            "macro_recall": macro.recall,
            "macro_f1": macro.f1,
            "weighted_precision": weighted.precision,
            "weighted_recall": weighted.recall,
            "weighted_f1": weighted.f1,
            "num_unreadable": len(self.unreadable),
            "unreadable": list(self.unreadable),
            "per_class": [score._asdict() for score in self.per_class],
            "most_confused": [pair._asdict() for pair in self.most_confused()],
        }


def _defined(share: float) -> float | None:
    return None if np.isnan(share) else float(share)
