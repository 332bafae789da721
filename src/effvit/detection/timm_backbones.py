"""Networks of timm as backbones: their maps, with the published weights or those of a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

from effvit.errors import ConfigError, WeightsError, first_line
from effvit.model.foreign import timm_network, timm_settings
from effvit.model.hub import fetch
from effvit.model.sources import PRETRAINED
from effvit.model.tensors import read_tensors
from effvit.preprocessing import Preprocessing

IMAGENET = "imagenet"
_TRIAL_SIZE = (96, 160)
"""Height and width of a picture that no network is made for."""


def timm_backbone(
    name: str, strides: tuple[int, int], weights: str | Path | None
) -> tuple[nn.Module, list[tuple[int, int]], Preprocessing | None]:
    """A network of timm that gives the maps between two strides.

    Args:
        name: `ARCHITECTURE` or `ARCHITECTURE.WEIGHTS`.
        strides: Finest and coarsest stride of use, in pixels.
        weights: None for random ones, `imagenet` or `pretrained` for the published ones, or a file.

    Returns:
        The network, channels and stride of each of its maps, and what its weights expect of a picture (None for
        random ones).

    Raises:
        ConfigError: If timm has no such network, it gives no maps, none of use, or takes one picture size only.
        WeightsError: If weights cannot be had or do not fit.
    """
    known = timm_settings(name)
    with torch.device("meta"):
        probe = _maps_of(name)
    kept = {
        stride: index
        for index, stride in zip(probe.feature_info.out_indices, probe.feature_info.reduction(), strict=True)
        if strides[0] <= stride <= strides[1]
    }
    if not kept:
        found = probe.feature_info.reduction()
        raise ConfigError(f"timm:{name} has no map with a stride in {strides[0]}..{strides[1]}, only {found}")
    given: dict[str, Any] = {"out_indices": tuple(kept.values())}
    with torch.device("meta"):
        _try(_maps_of(name, **given), name)
    preprocessing = None
    if weights is not None:
        given.update(pretrained=True, pretrained_cfg_overlay=_overlay(name, weights))
        if known is not None and len(known.mean) == len(known.std) == 3:
            preprocessing = Preprocessing(mean=tuple(known.mean), std=tuple(known.std))
    network = _maps_of(name, **given)
    shapes = list(zip(network.feature_info.channels(), network.feature_info.reduction(), strict=True))
    return ChannelsFirst(network) if _channels_last(network) else network, shapes, preprocessing


class ChannelsFirst(nn.Module):
    """Maps that come as (B, H, W, C), as (B, C, H, W)."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> list[Tensor]:
        """The maps, (B, C, H, W)."""
        return [features.permute(0, 3, 1, 2).contiguous() for features in self.network(x)]


def _maps_of(name: str, **given: Any) -> Any:
    try:
        return timm.create_model(name, features_only=True, **given)
    except (RuntimeError, NotImplementedError, AssertionError, AttributeError, TypeError, ValueError) as error:
        raise ConfigError(f"timm:{name} does not give maps (features_only): {first_line(error)}") from error


def _channels_last(network: Any) -> bool:
    return str(getattr(network, "output_fmt", "NCHW")).endswith("NHWC")


def _try(network: nn.Module, name: str) -> None:
    """Run shapes through, which takes no arithmetic: some networks take one picture size and would only tell later."""
    height, width = _TRIAL_SIZE
    try:
        with torch.no_grad():
            network.eval()(torch.zeros(1, 3, height, width, device="meta"))
    except NotImplementedError:  # an operator that cannot be run without values; nothing was learned
        return
    except (AssertionError, RuntimeError, ValueError) as error:
        raise ConfigError(
            f"timm:{name} does not take pictures of any size, which a detector needs: {first_line(error)}"
        ) from error


def _overlay(name: str, weights: str | Path) -> dict[str, Any]:
    """Where timm shall read the weights; a file is first proved to fit, because timm takes what it finds."""
    known = timm_settings(name)
    if weights in (IMAGENET, PRETRAINED):
        if known is None or known.hf_hub_id is None:
            raise WeightsError(f"timm:{name} has no published weights")
        return {"file": str(fetch(known.hf_hub_id)[0])}
    path = Path(weights)
    num_classes = _num_classes(path, "" if known is None else known.classifier)
    timm_network(name, path, num_classes)
    return {"file": str(path), "num_classes": num_classes}


def _num_classes(path: Path, classifier: Any) -> int:
    """Classes of a file's head; 0 without one."""
    if not path.is_file():
        raise WeightsError(f"no weights at {path}: no such file")
    layer = classifier[0] if isinstance(classifier, tuple | list) else classifier
    head = read_tensors(path).get(f"{layer}.weight")
    return 0 if head is None else len(head)
