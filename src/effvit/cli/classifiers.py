"""What a verb's first argument may stand for: a run, weights, an exported file, a network of timm or torchvision."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from effvit.errors import ConfigError, RunError, WeightsError
from effvit.model.checkpoints import WeightsInfo
from effvit.model.network import EfficientViT
from effvit.preprocessing import Preprocessing
from effvit.train.evaluate import Predict
from effvit.train.runs import RunFolder

if TYPE_CHECKING:
    from effvit.cli.published import Description


@dataclass(frozen=True, kw_only=True)
class Classifier:
    """Something that classifies pictures, and what must be known to feed it."""

    predict: Predict
    """Prepared pictures to logits, divided by the temperature if there is one."""
    class_names: tuple[str, ...]
    """Name of each logit."""
    preprocessing: Preprocessing
    """What must happen to a picture first."""
    device: str
    """Where pictures are handed over."""
    temperature: float = 1.0
    """What the logits have been divided by."""
    namings: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """Other ways in which data sets call the same classes, and what each is called."""


def open_classifier(
    source: str,
    device: str,
    image_size: tuple[int, int] | None = None,
    *,
    weights: str | None = None,
    like: str | None = None,
) -> Classifier:
    """Open a run folder, a weights folder, a Hub id, an exported file, or a network by name with weights.

    Args:
        source: Where it is, or a name: ours, `timm:NAME` or `torchvision:NAME`.
        device: Where networks run; exported files run on the CPU.
        image_size: Height and width in pixels to feed it pictures of; None for its own.
        weights: Weights for a name: a file; for ours also `imagenet` or a Hub id. None downloads those that timm
            or torchvision publish.
        like: For an exported file that does not say it: whose preprocessing and classes it has.

    Raises:
        WeightsError: If it cannot be read, or does not name its classes.
        ConfigError: If the device is not there, or an argument does not belong to this kind of source.
    """
    from effvit.deploy.runtimes import is_exported
    from effvit.model.published import is_published

    if is_exported(source):
        if weights is not None:
            raise ConfigError(f"{source} has its weights inside; leave out --weights {weights}")
        return _open_exported(source, device, image_size, like)
    if like is not None:
        raise ConfigError(f"--like is for an exported file that does not name its classes, not for {source}")
    if is_published(source):
        return _open_published(source, device, image_size, weights)
    return _open_ours(source, device, image_size, weights)


def _open_ours(source: str, device: str, image_size: tuple[int, int] | None, weights: str | None) -> Classifier:
    from effvit.cli.published import Description, imagenet_description
    from effvit.device import find_device
    from effvit.model.published import NUM_IMAGENET_CLASSES
    from effvit.train.evaluate import network_predictor

    where = find_device(device)
    network, info = open_network(source, weights)
    if info.class_names is not None:
        description = Description(class_names=info.class_names, preprocessing=info.preprocessing)
    elif weights is not None and network.config.num_classes == NUM_IMAGENET_CLASSES:
        description = imagenet_description(info.preprocessing)  # the official weights, in whichever file
    else:
        raise WeightsError(f"{source} does not name its classes")
    return Classifier(
        predict=_tempered(network_predictor(network.to(where)), info.temperature),
        class_names=description.class_names,
        preprocessing=description.preprocessing.at_size(image_size),
        device=str(where),
        temperature=info.temperature,
        namings=description.namings,
    )


def _open_published(source: str, device: str, image_size: tuple[int, int] | None, weights: str | None) -> Classifier:
    from effvit.cli.published import describe
    from effvit.device import find_device
    from effvit.model.published import open_published
    from effvit.train.evaluate import network_predictor

    where = find_device(device)
    description = describe(source, own_weights=weights is not None)
    return Classifier(
        predict=network_predictor(open_published(source, weights).to(where)),
        class_names=description.class_names,
        preprocessing=description.preprocessing.at_size(image_size),
        device=str(where),
        namings=description.namings,
    )


def _open_exported(source: str, device: str, image_size: tuple[int, int] | None, like: str | None) -> Classifier:
    """An exported file, fed like a network: whether it takes pixels or batches of one size only is its own affair."""
    from effvit.cli.published import Description
    from effvit.deploy.pixels import to_pixels
    from effvit.deploy.runtimes import any_batch, open_file

    if device not in ("auto", "cpu"):
        raise ConfigError(f"{source} is an exported file and runs on the CPU here; leave out --device {device}")
    model = open_file(source)
    names, stored = model.metadata.class_names, model.metadata.preprocessing
    if names is not None and stored is not None:
        if like is not None:
            raise ConfigError(f"{source} names its classes and preprocessing itself; leave out --like {like}")
        description = Description(class_names=names, preprocessing=stored)
    elif like is not None:
        description = _described_like(like)
    else:
        raise WeightsError(
            f"{source} does not name its classes; export it from a run, which does, or say whose they are:"
            " --like timm:NAME, torchvision:NAME or a run"
        )
    preprocessing, run = description.preprocessing.at_size(image_size), any_batch(model)
    temperature = model.metadata.temperature or 1.0

    def predict(images: Tensor) -> Tensor:
        return run(to_pixels(images, preprocessing) if model.takes_pixels else images)

    return Classifier(
        predict=_tempered(predict, temperature),
        class_names=description.class_names,
        preprocessing=preprocessing,
        device="cpu",
        temperature=temperature,
        namings=description.namings,
    )


def _described_like(like: str) -> Description:
    from effvit.cli.published import Description, describe
    from effvit.model.factory import find_weights
    from effvit.model.published import is_published

    if is_published(like):
        return describe(like)
    info = find_weights(like).info
    if info.class_names is None:
        raise WeightsError(f"{like} does not name its classes either")
    return Description(class_names=info.class_names, preprocessing=info.preprocessing)


def _tempered(predict: Callable[[Tensor], Tensor], temperature: float) -> Predict:
    if temperature == 1:
        return predict  # bit for bit what the network says
    return lambda images: predict(images) / temperature


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
