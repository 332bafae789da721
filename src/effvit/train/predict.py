"""Name what is on pictures without labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F

from effvit.data.loaders import PictureLoader
from effvit.data.samples import Sample
from effvit.data.transforms import eval_transform, normalize
from effvit.errors import ConfigError
from effvit.preprocessing import Preprocessing
from effvit.train.evaluate import Predict, check_logits

_NO_TARGET = -1


class PicturePrediction(NamedTuple):
    """The most probable classes of a picture, or why it could not be read."""

    path: Path
    classes: tuple[tuple[str, float], ...]
    """Names and probabilities, most probable first; empty if the picture could not be read."""
    error: str | None = None


def predict_pictures(
    predict: Predict,
    paths: Sequence[Path],
    *,
    preprocessing: Preprocessing,
    class_names: Sequence[str],
    top_k: int = 5,
    batch_size: int = 32,
    num_workers: int = 0,
    device: torch.device | str = "cpu",
    on_batch: Callable[[int, int], None] | None = None,
) -> list[PicturePrediction]:
    """Classify pictures; one that cannot be read is reported in its place.

    Args:
        predict: The classifier.
        paths: The pictures, as from `list_pictures`.
        preprocessing: How the classifier wants its input.
        class_names: Names by class index.
        top_k: How many classes to name, at least 1; all of them if there are fewer.
        batch_size: Pictures at once.
        num_workers: Processes that decode.
        device: Where batches are normalised and handed over.
        on_batch: Called after each batch with the number of batches done and in all.

    Returns:
        One result for each path, in their order.

    Raises:
        ConfigError: If top_k is below 1.
        DataError: If there are no paths, or the classifier has another number of classes.
        RunError: If an output is not finite.
    """
    if top_k < 1:
        raise ConfigError(f"top_k must be at least 1, got {top_k}")
    loader = PictureLoader(
        [Sample(path, _NO_TARGET) for path in paths],
        eval_transform(preprocessing),
        batch_size=batch_size,
        num_workers=num_workers,
    )
    results: dict[int, PicturePrediction] = {}
    for done, batch in enumerate(loader.batches(), start=1):
        for position, reason in batch.unreadable:
            results[position] = PicturePrediction(paths[position], (), reason)
        if len(batch.indices):
            logits = predict(normalize(batch.images.to(device), preprocessing)).double().cpu()
            check_logits(logits, len(class_names))
            probabilities = F.softmax(logits, dim=1)
            best = probabilities.topk(min(top_k, len(class_names)))
            for position, values, classes in zip(
                batch.indices.tolist(), best.values.tolist(), best.indices.tolist(), strict=True
            ):
                named = zip((class_names[index] for index in classes), values, strict=True)
                results[position] = PicturePrediction(paths[position], tuple(named))
        if on_batch is not None:
            on_batch(done, len(loader))
    return [results[position] for position in range(len(paths))]
