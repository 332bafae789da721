"""What a verb's first argument may stand for: a run, a weights folder, an exported file."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from effvit.errors import ConfigError, RunError, WeightsError
from effvit.model.checkpoints import WeightsInfo
from effvit.model.network import EfficientViT
from effvit.preprocessing import Preprocessing
from effvit.train.evaluate import Predict
from effvit.train.runs import RunFolder


@dataclass(frozen=True, kw_only=True)
class Classifier:
    """Something that classifies pictures, and what must be known to feed it."""

    predict: Predict
    """Prepared pictures to logits."""
    class_names: tuple[str, ...]
    """Name of each logit."""
    preprocessing: Preprocessing
    """What must happen to a picture first."""
    device: str
    """Where pictures are handed over."""


def open_classifier(source: str, device: str, image_size: tuple[int, int] | None = None) -> Classifier:
    """Open a run folder, a weights folder, a Hub id or an exported file.

    Args:
        source: Where it is.
        device: Where networks run; exported files run on the CPU.
        image_size: Height and width in pixels to feed it pictures of; None for its own.

    Raises:
        WeightsError: If it cannot be read, or does not name its classes.
        ConfigError: If the device is not there.
    """
    from effvit.deploy.runtimes import is_exported
    from effvit.device import find_device
    from effvit.train.evaluate import network_predictor

    if is_exported(source):
        return _open_exported(source, device, image_size)
    from effvit.model.factory import load

    where = find_device(device)
    network, info = load(source, device=where)
    if info.class_names is None:
        raise WeightsError(f"{source} does not name its classes")
    return Classifier(
        predict=network_predictor(network),
        class_names=info.class_names,
        preprocessing=info.preprocessing.at_size(image_size),
        device=str(where),
    )


def _open_exported(source: str, device: str, image_size: tuple[int, int] | None) -> Classifier:
    """An exported file, fed like a network: whether it takes pixels or batches of one size only is its own affair."""
    from effvit.deploy.pixels import to_pixels
    from effvit.deploy.runtimes import any_batch, open_file

    if device not in ("auto", "cpu"):
        raise ConfigError(f"{source} is an exported file and runs on the CPU here; leave out --device {device}")
    model = open_file(source)
    names, stored = model.metadata.class_names, model.metadata.preprocessing
    if names is None or stored is None:
        raise WeightsError(f"{source} does not name its classes; export it from a run, which does")
    preprocessing, run = stored.at_size(image_size), any_batch(model)

    def predict(images: Tensor) -> Tensor:
        return run(to_pixels(images, preprocessing) if model.takes_pixels else images)

    return Classifier(predict=predict, class_names=names, preprocessing=preprocessing, device="cpu")


def open_network(source: str, weights: str | None) -> tuple[EfficientViT, WeightsInfo]:
    """Open a run folder, a weights folder or a Hub id, or a variant by name with weights from elsewhere.

    Raises:
        ConfigError: If a name comes without weights, or weights without a name.
        WeightsError: If the weights cannot be had or do not fit.
    """
    from effvit.deploy.runtimes import is_exported
    from effvit.model.factory import create_model, find_weights, load
    from effvit.model.variants import VARIANTS

    if is_exported(source):
        raise ConfigError(f"{source} is an exported file, which cannot be exported again; give the run or its weights")
    if source not in VARIANTS:
        near = difflib.get_close_matches(source, VARIANTS, n=1, cutoff=0.8)
        if near and not Path(source).exists():
            raise ConfigError(f"no network or folder {source!r}; did you mean {near[0]}?")
        if weights is not None:
            raise ConfigError(f"--weights goes with a name of `effvit models`, and {source!r} is none")
        return load(source)
    if weights is None:
        raise ConfigError(f"{source} is a name without weights: add --weights imagenet, a path or a Hub id")
    found = find_weights(weights, source)
    return create_model(source, weights=found).eval(), found.info


def run_of(source: str) -> RunFolder | None:
    """The run folder that a path stands for; None if it is something else."""
    try:
        return RunFolder.open(Path(source))
    except RunError:
        return None
