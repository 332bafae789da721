"""Networks of timm and torchvision with the weights of a file: to learn from, and to be evaluated beside ours."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path

import timm
from timm.models import PretrainedCfg, get_pretrained_cfg
from torch import nn

from effvit.errors import ConfigError, WeightsError
from effvit.model.tensors import read_tensors

_MAX_REASON = 200
"""Characters of somebody else's error message that are worth passing on."""


def timm_settings(name: str) -> PretrainedCfg | None:
    """What timm knows of a network and its published weights; None for a network without any.

    Args:
        name: `ARCHITECTURE` or `ARCHITECTURE.WEIGHTS`.

    Raises:
        ConfigError: If timm has no such network, or no such weights of it.
    """
    architecture = name.partition(".")[0]
    if not timm.is_model(architecture):
        near = get_close_matches(architecture, timm.list_models(), n=3)
        raise ConfigError(f"timm has no network {name!r}" + (f"; nearest: {', '.join(near)}" if near else ""))
    try:
        return get_pretrained_cfg(name)
    except RuntimeError as error:
        tags = ", ".join(timm.list_pretrained(f"{architecture}.*"))
        raise ConfigError(f"timm has no weights {name!r}; known: {tags or 'none'}") from error


def timm_network(name: str, path: Path, num_classes: int) -> nn.Module:
    """A timm network with the weights of a file, which timm reads as tensors, never as code.

    Timm reads it and not `read_tensors`, because timm knows the older names of its own layers, and takes the
    moving average where its training scripts stored both.

    Raises:
        WeightsError: If there is no such file, or it does not fit the network.
    """
    _check_file(path)
    # As timm's own weights, so that timm renames what it has to; with its classes named, it replaces no head.
    where = {"file": str(path), "num_classes": num_classes}
    try:
        network: nn.Module = timm.create_model(
            name, pretrained=True, pretrained_cfg_overlay=where, num_classes=num_classes
        )
    except Exception as error:  # whatever a damaged file makes the readers raise
        raise WeightsError(
            f"{path} does not hold weights of timm:{name} with {num_classes} classes: {_reason(error)}"
        ) from error
    return network


def fill_from_file(network: nn.Module, path: Path, name: str) -> None:
    """Put the weights of a file, in the network's own names, into a network.

    Args:
        network: Filled in place.
        path: Its weights; half precision is widened.
        name: What the network is called in an error.

    Raises:
        WeightsError: If there is no such file, it cannot be read, or it does not fit the network.
    """
    _check_file(path)
    try:
        network.load_state_dict(read_tensors(path))
    except RuntimeError as error:
        raise WeightsError(f"{path} does not fit {name}: {_reason(error)}") from error


def _check_file(path: Path) -> None:
    if not path.is_file():
        where = "" if path.is_absolute() else f" in {Path.cwd()}"
        raise WeightsError(f"no weights at {path}: no such file{where}")


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:_MAX_REASON]
