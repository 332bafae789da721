"""Run a classifier over labelled pictures and keep every prediction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support
from torch import Tensor, nn

from effvit.data.loaders import PictureLoader, UnreadableCount
from effvit.data.transforms import normalize
from effvit.errors import DataError, RunError
from effvit.preprocessing import Preprocessing

Predict = Callable[[Tensor], Tensor]
"""Normalised pictures (B, 3, H, W), float32 -> logits (B, num_classes): a network or a runtime's session."""

_TOP_K = 5


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


@dataclass(frozen=True)
class Evaluation:
    """Every prediction on a set of pictures, in the order of the samples; the scores follow from them."""

    class_names: tuple[str, ...]
    paths: tuple[str, ...]
    targets: npt.NDArray[np.int64]
    """True class of each picture, (N,)."""
    predicted: npt.NDArray[np.int64]
    """Most probable class of each picture, (N,)."""
    target_probabilities: npt.NDArray[np.float64]
    """Probability given to the true class, (N,)."""
    predicted_probabilities: npt.NDArray[np.float64]
    """Probability given to the predicted class, (N,)."""
    losses: npt.NDArray[np.float64]
    """Cross entropy of each picture, in nats, (N,)."""
    in_top5: npt.NDArray[np.bool_]
    """Whether the true class is among the five most probable, (N,)."""
    unreadable: tuple[str, ...]
    """One line for each picture that could not be read and is not counted."""

    @property
    def num_pictures(self) -> int:
        """Number of pictures that were evaluated."""
        return len(self.paths)

    @property
    def top1(self) -> float:
        """Share of pictures whose most probable class is right, 0..1."""
        return float((self.predicted == self.targets).mean())

    @property
    def top5(self) -> float | None:
        """Share of pictures with the right class among the first five; None with five classes or fewer."""
        return float(self.in_top5.mean()) if len(self.class_names) > _TOP_K else None

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

    def summary(self) -> dict[str, Any]:
        """The scores as plain values for JSON."""
        scores = [score.f1 for score in self.per_class if score.f1 is not None]
        return {
            "num_pictures": self.num_pictures,
            "top1": self.top1,
            "top5": self.top5,
            "loss": self.loss,
            "macro_f1": float(np.mean(scores)),
            "num_unreadable": len(self.unreadable),
            "unreadable": list(self.unreadable),
            "per_class": [score._asdict() for score in self.per_class],
        }


def network_predictor(model: nn.Module) -> Predict:
    """Put a network in eval mode and give its plain, gradient-free call."""
    model.eval()

    def predict(batch: Tensor) -> Tensor:
        with torch.inference_mode():
            logits: Tensor = model(batch)
        return logits

    return predict


def evaluate(
    predict: Predict,
    loader: PictureLoader,
    *,
    class_names: Sequence[str],
    preprocessing: Preprocessing,
    device: torch.device | str = "cpu",
    on_batch: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Predict every picture of a loader and compare with its class.

    Args:
        predict: The classifier.
        loader: The pictures, transformed by `eval_transform(preprocessing)`.
        class_names: Names by class index.
        preprocessing: How the classifier wants its input.
        device: Where batches are normalised and handed over.
        on_batch: Called after each batch with the number of batches done and in all.

    Raises:
        DataError: If too many pictures cannot be read, or the classifier has another number of classes.
        RunError: If an output is not finite.
    """
    unreadable = UnreadableCount(len(loader.samples))
    rows: list[Tensor] = []
    indices: list[Tensor] = []
    for done, batch in enumerate(loader.batches(), start=1):
        unreadable.add(batch.unreadable)
        if len(batch.targets):
            logits = predict(normalize(batch.images.to(device), preprocessing)).float().cpu()
            check_logits(logits, len(class_names))
            rows.append(_compare(logits, batch.targets))
            indices.append(batch.indices)
        if on_batch is not None:
            on_batch(done, len(loader))
    if not rows:
        raise DataError(f"no picture could be read: {'; '.join(unreadable.reasons)}")
    positions = torch.cat(indices)
    order = positions.argsort()  # of the samples, whatever order the loader had
    columns = torch.cat(rows)[order].numpy().T
    samples = [loader.samples[position] for position in positions[order].tolist()]
    return Evaluation(
        class_names=tuple(class_names),
        paths=tuple(str(sample.path) for sample in samples),
        targets=np.array([sample.target for sample in samples], dtype=np.int64),
        predicted=columns[0].astype(np.int64),
        predicted_probabilities=columns[1],
        target_probabilities=columns[2],
        losses=columns[3],
        in_top5=columns[4].astype(bool),
        unreadable=tuple(unreadable.reasons),
    )


def _compare(logits: Tensor, targets: Tensor) -> Tensor:
    """Predicted class, its probability, the true class's probability, loss, in top five: float64, (B, 5)."""
    log_probabilities = F.log_softmax(logits.double(), dim=1)
    best, predicted = log_probabilities.max(dim=1)
    of_target = log_probabilities.gather(1, targets[:, None]).squeeze(1)
    top = log_probabilities.topk(min(_TOP_K, logits.shape[1])).indices
    in_top = (top == targets[:, None]).any(dim=1)
    return torch.stack([predicted.double(), best.exp(), of_target.exp(), -of_target, in_top.double()], dim=1)


def check_logits(logits: Tensor, num_classes: int) -> None:
    """Refuse outputs that cannot be what they are taken for.

    Raises:
        DataError: If they are not (B, num_classes).
        RunError: If one is not finite.
    """
    if logits.ndim != 2 or logits.shape[1] != num_classes:
        raise DataError(f"the network gives outputs of shape {tuple(logits.shape)} for {num_classes} classes")
    if not logits.isfinite().all():
        raise RunError("the network gives outputs that are not finite (nan or inf)")


def _defined(share: float) -> float | None:
    return None if np.isnan(share) else float(share)
