"""From a name to a network: the two functions most people ever call."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import torch

from effvit.device import find_device
from effvit.errors import ConfigError, WeightsError
from effvit.model.checkpoints import WeightsFile, WeightsInfo, load_weights, read_weights
from effvit.model.config import EfficientViTConfig
from effvit.model.hub import fetch, imagenet_repository, is_repository
from effvit.model.network import EfficientViT
from effvit.model.resizing import with_windows
from effvit.model.variants import variant_config

logger = logging.getLogger("effvit")


def create_model(
    name_or_config: str | EfficientViTConfig,
    *,
    weights: str | Path | WeightsFile | None = None,
    num_classes: int | None = None,
    in_channels: int | None = None,
    image_size: int | tuple[int, int] | None = None,
    window: int | None = None,
    distilled: bool | None = None,
    drop_path: float | None = None,
    mask_padding: bool | None = None,
) -> EfficientViT:
    """Build a network, with weights or without.

    What is left out (None) is taken from the weights if they say (the number of classes and of heads; from a
    folder of ours everything), else from the configuration; for a variant that is 1000 classes, 3 channels,
    224 x 224 pixels, window 7, one head, no dropped paths and masked padding. A configuration that is given as a
    value is kept as it is.

    Args:
        name_or_config: A name of `list_variants()`, or a configuration.
        weights: None for random ones; "imagenet" for the official ones from the Hugging Face Hub; a path of a
            file, a weights folder or a run folder; a Hub id such as `owner/name`; or what `find_weights` gave.
        num_classes: Classes; another number than the weights' gets a new head, 0 none.
        in_channels: Channels of a picture.
        image_size: Side, or height and width, in pixels, that the windows are chosen for.
        window: Side of the attention windows in tokens.
        distilled: Whether there is a second head for distillation.
        drop_path: Probability of dropping the last block's branches in training, see `EfficientViTConfig`.
        mask_padding: Whether window padding is kept out of the attention; False is the official behaviour.

    Returns:
        A network in training mode, as torch's and timm's factories return it.

    Raises:
        ConfigError: If the name is unknown or a number not allowed.
        WeightsError: If the weights cannot be had or do not fit.
    """
    config = variant_config(name_or_config) if isinstance(name_or_config, str) else name_or_config
    if not isinstance(config, EfficientViTConfig):
        raise ConfigError(f"create_model wants a name of list_variants() or an EfficientViTConfig, got {config!r}")
    source = None
    if weights is not None:
        source = weights if isinstance(weights, WeightsFile) else find_weights(weights, config.name)
        config = _adopt(config, source, named=isinstance(name_or_config, str))
    settings = {
        "num_classes": num_classes,
        "in_channels": in_channels,
        "distilled": distilled,
        "drop_path": drop_path,
        "mask_padding": mask_padding,
    }
    config = replace(config, **{key: value for key, value in settings.items() if value is not None})  # type: ignore[arg-type]
    model = EfficientViT(with_windows(config, image_size=image_size, window=window))
    if source is not None:
        report = load_weights(model, source)
        logger.log(logging.WARNING if report.head_replaced or report.tables_resized else logging.INFO, "%s", report)
    return model


def load(path: str | Path, *, device: str | torch.device = "cpu") -> tuple[EfficientViT, WeightsInfo]:
    """Load a network exactly as it was saved, with what belongs to it.

    Args:
        path: Weights folder, run folder, or Hub id of such a folder.
        device: Where to put it.

    Returns:
        The network, in eval mode, and its class names, preprocessing and provenance.

    Raises:
        WeightsError: If the weights cannot be had, or do not say which network they are for.
    """
    source = find_weights(path)
    if source.config is None:
        raise WeightsError(
            f"{source.path} does not say which network it is for; name it: create_model(NAME, weights={str(path)!r})"
        )
    where = find_device(str(device))
    model = EfficientViT(source.config)
    report = load_weights(model, source)
    if report.head_replaced or report.tables_resized:
        raise WeightsError(f"{source.path} and the config.json beside it do not belong together: {report}")
    return model.to(where).eval(), source.info


def find_weights(weights: str | Path, name: str = "") -> WeightsFile:
    """Read weights from wherever they are: a path, a Hub id, or "imagenet" for a variant's official ones.

    Raises:
        WeightsError: If they cannot be had.
    """
    if not isinstance(weights, str | Path) or not str(weights):
        raise WeightsError(f"weights must be a path, a Hub id or 'imagenet', got {weights!r}")
    text = str(weights)
    if text == "imagenet":
        text = imagenet_repository(name)
    elif not is_repository(text) or _means_a_path(text):
        return read_weights(weights)
    path, provenance = fetch(text)
    source = read_weights(path)
    return replace(source, info=replace(source.info, provenance={**source.info.provenance, **provenance}))


def _means_a_path(text: str) -> bool:
    """Whether `folder/name` is a place here and not a Hub id: a mistyped run must not go to the internet."""
    first = Path(text).parts[0]
    return Path(text).exists() or Path(first).is_dir() or first == "runs"


def _adopt(config: EfficientViTConfig, source: WeightsFile, *, named: bool) -> EfficientViTConfig:
    """Let the weights fill in what the caller may have left out."""
    if named and source.config is not None:
        if source.config.name != config.name:
            raise WeightsError(f"{source.path} holds weights of {source.config.name}, not of {config.name}")
        return source.config
    if named:
        config = replace(config, num_classes=source.num_classes, distilled=source.distilled)
    return config
