"""Find things on pictures, one after the other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2.functional import pil_to_tensor

from effvit.data.pictures import read_picture
from effvit.data.samples import one_line
from effvit.detection.finders import Finder
from effvit.detection.records import Detections
from effvit.errors import ConfigError, DataError, RunError


class FoundOn(NamedTuple):
    """What was found on a picture, or why it could not be read."""

    path: Path
    picture: Image.Image | None
    """Upright, RGB: what the boxes are in pixels of; None if it could not be read."""
    detections: Detections | None
    """Those that are sure enough; None if the picture could not be read."""
    error: str | None = None


def predict_pictures(
    finder: Finder,
    paths: Sequence[Path],
    *,
    score: float,
    on_picture: Callable[[int, int], None] | None = None,
) -> Iterator[FoundOn]:
    """Find things on pictures; one that cannot be read is reported in its place.

    Pictures are as a viewer shows them (upright by EXIF), each a batch of its own, and handed out one by one, so
    that memory does not grow with their number.

    Args:
        finder: A detector, or an exported one.
        paths: The pictures, as from `list_pictures`.
        score: Things found less surely are left out, 0..1.
        on_picture: Called after each with the number done and in all.

    Raises:
        ConfigError: If score is not in 0..1.
        RunError: If a box or a score is not finite.
    """
    check_score(score)
    for done, path in enumerate(paths, start=1):
        try:
            picture = read_picture(path)
            found = find_things(finder, pil_to_tensor(picture), score=score, name=str(path))
        except DataError as error:
            yield FoundOn(path, None, None, str(error))
        else:
            yield FoundOn(path, picture, found)
        if on_picture is not None:
            on_picture(done, len(paths))


def find_things(finder: Finder, pixels: Tensor, *, score: float, name: str) -> Detections:
    """What is found on one picture, on the CPU.

    Args:
        finder: A detector, or an exported one.
        pixels: uint8, (3, H, W).
        score: Things found less surely are left out.
        name: The picture, for the message.

    Raises:
        DataError: If the detector does not take the picture; names it.
        RunError: If a box or a score is not finite.
    """
    try:
        with torch.inference_mode():
            (found,) = finder.detect([pixels])
    except DataError as error:
        raise DataError(f"cannot use picture {one_line(name)}: {error}") from error
    if not found.boxes.isfinite().all() or not found.scores.isfinite().all():
        raise RunError(f"the detector gives boxes or scores of {name} that are not finite (nan or inf)")
    sure = found.above(score)
    return Detections(
        boxes=sure.boxes.float().cpu(),
        scores=sure.scores.float().cpu(),
        labels=sure.labels.cpu(),
        masks=None if sure.masks is None else sure.masks.cpu(),
    )


def count_things(detections: Detections, class_names: Sequence[str]) -> dict[str, int]:
    """How many things of each class, the most frequent first."""
    counts = Counter(detections.labels.tolist())
    return {class_names[label]: count for label, count in counts.most_common()}


def check_score(score: float) -> None:
    """Raise a `ConfigError` for a score threshold outside 0..1."""
    if not 0 <= score <= 1:
        raise ConfigError(f"score must be in 0..1, got {score}")
