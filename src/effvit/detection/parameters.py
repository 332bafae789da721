"""Parameter groups of a detector: which weights decay, and which learn how fast."""

from __future__ import annotations

from typing import Any

from torch import nn

from effvit.detection.backbones import Backbone
from effvit.errors import ConfigError
from effvit.model.groups import attention_bias_names, depth_of, grouped
from effvit.model.network import EfficientViT


def detector_groups(
    detector: nn.Module, backbone: Backbone, *, learning_rate: float, weight_decay: float, layer_decay: float
) -> list[dict[str, Any]]:
    """Group a detector's parameters; see `Detector.parameter_groups`."""
    if 0 < layer_decay < 1 and not isinstance(backbone.network, EfficientViT):
        raise ConfigError(
            f"layer_decay {layer_decay:g} needs to know the layers of the backbone, and {backbone.source} does not"
            " tell; set layer_decay=1"
        )
    undecayed, from_the_end = attention_bias_names(detector), _blocks_from_the_end(backbone)
    return grouped(
        detector.named_parameters(),
        layers_from_end=lambda name, parameter: from_the_end.get(parameter, 0),
        is_decayed=lambda name, parameter: name not in undecayed,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        layer_decay=layer_decay,
    )


def _blocks_from_the_end(backbone: Backbone) -> dict[nn.Parameter, int]:
    """How many layers of one of our networks lie between a parameter and the neck, that of its own included."""
    network = backbone.network
    if not isinstance(network, EfficientViT):
        return {}
    last = depth_of("head", network.config)
    return {parameter: last - depth_of(name, network.config) for name, parameter in network.named_parameters()}
