"""Networks of other libraries by name, with their own weights or a file's: `timm:NAME`, `torchvision:NAME`."""

from __future__ import annotations

import math
from difflib import get_close_matches
from pathlib import Path

import timm
import torchvision
from timm.data.config import resolve_data_config
from torch import nn

from effvit.errors import ConfigError, WeightsError, first_line
from effvit.model.foreign import fill_from_file, timm_network, timm_settings
from effvit.model.hub import fetch
from effvit.model.variants import TIMM_PREFIX, TORCHVISION_PREFIX
from effvit.preprocessing import Preprocessing

NUM_IMAGENET_CLASSES = 1000
"""Of ImageNet-1k, which networks are published with and whose classes they do not name."""


def is_published(source: str) -> bool:
    """Whether a source names a network of timm or torchvision."""
    return source.startswith((TIMM_PREFIX, TORCHVISION_PREFIX))


def published_input(source: str, *, own_weights: bool = False, for_pictures: bool = True) -> tuple[Preprocessing, int]:
    """How a published network's pictures are prepared, and how many classes it has, without the network.

    Args:
        source: `timm:NAME` or `torchvision:NAME`.
        own_weights: Whether weights come from a file. Then torchvision's first recipe for the network is taken,
            which plain files have mostly been trained with, not that of its newest weights.
        for_pictures: Whether pictures are to be prepared. If not, what is said of it has no meaning, and a network of
            timm whose pictures are prepared in a way that is not offered here has classes all the same.

    Raises:
        ConfigError: If there is no such network, or its pictures are prepared in a way that is not offered here.
    """
    if source.startswith(TIMM_PREFIX):
        return _timm_input(source.removeprefix(TIMM_PREFIX), for_pictures=for_pictures)
    return _torchvision_input(source.removeprefix(TORCHVISION_PREFIX), own_weights=own_weights)


def open_published(source: str, weights: str | None) -> nn.Module:
    """Build a published network with its own weights, downloaded, or with those of a file.

    Raises:
        ConfigError: If there is no such network.
        WeightsError: If the weights cannot be had or do not fit.
    """
    if weights is not None:
        return _with_weights_of(Path(weights), source)
    library, _, name = source.partition(":")
    known = timm_settings(name) if library == "timm" else None
    if known is not None and known.hf_hub_id is not None and known.hf_hub_filename is None:
        # Timm's own download tries for a minute without a connection, and comments on each attempt.
        return timm_network(name, fetch(known.hf_hub_id)[0], known.num_classes)
    try:
        network: nn.Module = (
            timm.create_model(name, pretrained=True)
            if library == "timm"
            else torchvision.models.get_model(name, weights="DEFAULT")
        )
    except Exception as error:  # the download's many failures share no base class
        raise WeightsError(
            f"cannot get the weights of {source} ({first_line(error)}); with a file of them: --weights FILE"
        ) from error
    return network


def _with_weights_of(path: Path, source: str) -> nn.Module:
    if source.startswith(TIMM_PREFIX):
        name = source.removeprefix(TIMM_PREFIX)
        known = timm_settings(name)
        return timm_network(name, path, NUM_IMAGENET_CLASSES if known is None else known.num_classes)
    network: nn.Module = torchvision.models.get_model(source.removeprefix(TORCHVISION_PREFIX), weights=None)
    fill_from_file(network, path, source)
    return network


def _timm_input(name: str, *, for_pictures: bool) -> tuple[Preprocessing, int]:
    found = timm_settings(name)
    values = found.to_dict() if found is not None else {}  # type: ignore[no-untyped-call]
    num_classes: int = values.get("num_classes", NUM_IMAGENET_CLASSES)
    if not for_pictures:
        return Preprocessing(), num_classes
    config = resolve_data_config(pretrained_cfg=values, use_test_size=True)  # type: ignore[no-untyped-call]
    if config["crop_mode"] != "center":
        raise ConfigError(
            f"timm:{name} wants crop mode {config['crop_mode']!r}; here pictures are cropped at the centre"
        )
    preprocessing = Preprocessing(
        image_size=config["input_size"][1:],
        mean=config["mean"],
        std=config["std"],
        interpolation=config["interpolation"],
        crop_ratio=config["crop_pct"],
    )
    return preprocessing, num_classes


def _torchvision_input(name: str, *, own_weights: bool) -> tuple[Preprocessing, int]:
    try:
        choices = list(torchvision.models.get_model_weights(name))
    except ValueError as error:
        near = get_close_matches(name, torchvision.models.list_models(torchvision.models), n=3)
        hint = f"; nearest: {', '.join(near)}" if near else ""
        raise ConfigError(f"torchvision has no classifier {name!r}{hint}") from error
    chosen = choices[0] if own_weights else torchvision.models.get_model_weights(name).DEFAULT
    preset = chosen.transforms()
    if not hasattr(preset, "crop_size"):
        raise ConfigError(f"torchvision:{name} is no classifier of pictures")
    (side,), (resized,) = preset.crop_size, preset.resize_size
    preprocessing = Preprocessing(
        image_size=(side, side),
        mean=tuple(preset.mean),
        std=tuple(preset.std),
        interpolation=preset.interpolation.value,
        crop_ratio=_ratio(side, resized),
    )
    return preprocessing, len(chosen.meta["categories"])


def _ratio(side: int, resized: int) -> float:
    """The crop ratio whose quotient, rounded down, is the resized side again."""
    ratio = side / resized
    return ratio if math.floor(side / ratio) == resized else math.nextafter(ratio, 0)
