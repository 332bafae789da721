"""Parameter groups of a detector: which weights decay, and which learn how fast."""

from __future__ import annotations

from typing import Any

from torch import nn

from effvit.detection.backbones import Backbone
from effvit.errors import ConfigError
from effvit.model.groups import depth_of
from effvit.model.network import EfficientViT


def undecayed_names(detector: nn.Module) -> set[str]:
    """Names of the attention bias tables."""
    return {name for name, _ in detector.named_parameters() if name.endswith("attention_biases")}


def detector_groups(
    detector: nn.Module, backbone: Backbone, *, learning_rate: float, weight_decay: float, layer_decay: float
) -> list[dict[str, Any]]:
    """Group a detector's parameters; see `Detector.parameter_groups`."""
    if not 0 < layer_decay <= 1:
        raise ConfigError(f"layer_decay must be in (0, 1], got {layer_decay}")
    if layer_decay != 1 and not isinstance(backbone.network, EfficientViT):
        raise ConfigError(
            f"layer_decay {layer_decay:g} needs to know the layers of the backbone, and {backbone.source} does not"
            " tell; set layer_decay=1"
        )
    undecayed = undecayed_names(detector)
    from_the_end = _blocks_from_the_end(backbone)
    groups: dict[tuple[float, bool], dict[str, Any]] = {}
    for name, parameter in detector.named_parameters():
        if not parameter.requires_grad:
            continue
        scale = layer_decay ** from_the_end.get(parameter, 0)
        decayed = name not in undecayed
        new: dict[str, Any] = {
            "params": [],
            "names": [],
            "lr": learning_rate * scale,
            "lr_scale": scale,
            "weight_decay": weight_decay if decayed else 0.0,
        }
        group = groups.setdefault((scale, decayed), new)
        group["params"].append(parameter)
        group["names"].append(name)
    return list(groups.values())


def _blocks_from_the_end(backbone: Backbone) -> dict[nn.Parameter, int]:
    """How many layers of one of our networks lie between a parameter and the neck, that of its own included."""
    network = backbone.network
    if not isinstance(network, EfficientViT):
        return {}
    last = depth_of("head", network.config)
    return {parameter: last - depth_of(name, network.config) for name, parameter in network.named_parameters()}
