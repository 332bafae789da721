"""Run classifiers over labelled pictures and keep every prediction."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from effvit.data.loaders import PictureLoader, Unreadable, UnreadableCount
from effvit.data.samples import Sample
from effvit.data.transforms import normalize
from effvit.data.views import dead_workers_in_one_line
from effvit.errors import DataError, RunError
from effvit.preprocessing import Preprocessing
from effvit.train.distributed import gather
from effvit.train.evaluation import TOP_K
from effvit.train.evaluation import Evaluation as Evaluation  # of this module's results

Predict = Callable[[Tensor], Tensor]
"""Normalised pictures (B, 3, H, W), float32 -> logits (B, num_classes): a network or a runtime's session."""

_ONLY = "classifier"


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
    max_unreadable: float = 0.01,
    keep_logits: bool = False,
    on_batch: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """`evaluate_all` of one classifier."""
    evaluations = evaluate_all(
        {_ONLY: predict},
        loader,
        class_names=class_names,
        preprocessing=preprocessing,
        device=device,
        max_unreadable=max_unreadable,
        keep_logits=keep_logits,
        on_batch=on_batch,
    )
    return evaluations[_ONLY]


@dead_workers_in_one_line()
def evaluate_all(
    predictors: Mapping[str, Predict],
    loader: PictureLoader,
    *,
    class_names: Sequence[str],
    preprocessing: Preprocessing,
    device: torch.device | str = "cpu",
    max_unreadable: float = 0.01,
    keep_logits: bool = False,
    on_batch: Callable[[int, int], None] | None = None,
) -> dict[str, Evaluation]:
    """Predict every picture of a loader with each classifier and compare with its class.

    Each picture is read once, whatever the number of classifiers. Where several processes train, each
    predicts its part and all get all results.

    Args:
        predictors: The classifiers by name.
        loader: The pictures, transformed by `eval_transform(preprocessing)`.
        class_names: Names by class index.
        preprocessing: How the classifiers want their input.
        device: Where batches are normalised and handed over.
        max_unreadable: Share of the pictures that may be unreadable, 0..1; they are listed and not counted.
        keep_logits: Whether all outputs are kept, 4 bytes each: 200 MB for the 50,000 pictures of ImageNet.
        on_batch: Called after each batch with the number of batches done and in all.

    Returns:
        One evaluation for each name, in the order of the samples.

    Raises:
        DataError: If too many pictures cannot be read, or a classifier has another number of classes.
        RunError: If an output is not finite.
    """
    unreadable = UnreadableCount(len(loader.samples), max_unreadable)
    lost: list[Unreadable] = []
    rows: dict[str, list[_Rows]] = {name: [] for name in predictors}
    for done, batch in enumerate(loader.batches(), start=1):
        unreadable.add(batch.unreadable)
        lost.extend(batch.unreadable)
        if len(batch.targets):
            images = normalize(batch.images.to(device), preprocessing)
            for name, predict in predictors.items():
                logits = predict(images).float().cpu()
                check_logits(logits, len(class_names))
                rows[name].append(_rows(logits, batch.targets, batch.indices, keep_logits=keep_logits))
        if on_batch is not None:
            on_batch(done, len(loader))
    reasons = all_reasons(lost, len(loader.samples), max_unreadable)
    return {
        name: _evaluation(gather(parts), loader.samples, tuple(class_names), reasons) for name, parts in rows.items()
    }


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


class _Rows(NamedTuple):
    """Predictions of some pictures, as they travel between processes."""

    positions: npt.NDArray[np.int64]
    """In the loader's samples, (B,)."""
    top_classes: npt.NDArray[np.int64]
    top_probabilities: npt.NDArray[np.float64]
    losses: npt.NDArray[np.float64]
    logits: npt.NDArray[np.float32] | None


def _rows(logits: Tensor, targets: Tensor, positions: Tensor, *, keep_logits: bool) -> _Rows:
    log_probabilities = F.log_softmax(logits.double(), dim=1)
    # A stable sort and no topk: of equal outputs, which int8 has, the first is taken, as argmax does everywhere else.
    values, classes = log_probabilities.sort(dim=1, descending=True, stable=True)
    return _Rows(
        positions=positions.numpy(),
        top_classes=classes[:, :TOP_K].numpy().copy(),
        top_probabilities=values[:, :TOP_K].exp().numpy(),
        losses=F.nll_loss(log_probabilities, targets, reduction="none").numpy(),
        logits=logits.numpy() if keep_logits else None,
    )


def _evaluation(
    parts: Sequence[_Rows], samples: Sequence[Sample], class_names: tuple[str, ...], unreadable: tuple[str, ...]
) -> Evaluation:
    """Put the parts of all processes in the order of the samples, each picture once."""
    if not parts:
        raise DataError(f"no picture could be read: {'; '.join(unreadable)}")
    positions, first = np.unique(np.concatenate([part.positions for part in parts]), return_index=True)
    logits = [part.logits for part in parts if part.logits is not None]
    return Evaluation(
        class_names=class_names,
        samples=tuple(samples[position] for position in positions.tolist()),
        top_classes=np.concatenate([part.top_classes for part in parts])[first],
        top_probabilities=np.concatenate([part.top_probabilities for part in parts])[first],
        losses=np.concatenate([part.losses for part in parts])[first],
        unreadable=unreadable,
        logits=np.concatenate(logits)[first] if logits else None,
    )


def all_reasons(lost: Iterable[Unreadable], num_pictures: int, max_share: float) -> tuple[str, ...]:
    """Why pictures of any process could not be read, in the order of the samples; an error if they are too many."""
    everywhere = sorted(set(gather(list(lost))))
    UnreadableCount(num_pictures, max_share).add(everywhere)
    return tuple(picture.reason for picture in everywhere)
