"""Parameter groups of a network: which weights decay, and which learn how fast."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import nn

from effvit.errors import ConfigError
from effvit.model.config import EfficientViTConfig


def parameter_groups(
    parameters: Iterable[tuple[str, nn.Parameter]],
    config: EfficientViTConfig,
    *,
    undecayed: set[str],
    learning_rate: float,
    weight_decay: float,
    layer_decay: float,
) -> list[dict[str, Any]]:
    """Group a network's named parameters; see `EfficientViT.parameter_groups`."""
    depth_of_head = depth_of("head", config)
    return grouped(
        parameters,
        layers_from_end=lambda name, parameter: depth_of_head - depth_of(name, config),
        is_decayed=lambda name, parameter: parameter.dim() > 1 and name not in undecayed,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        layer_decay=layer_decay,
    )


def grouped(
    parameters: Iterable[tuple[str, nn.Parameter]],
    *,
    layers_from_end: Callable[[str, nn.Parameter], int],
    is_decayed: Callable[[str, nn.Parameter], bool],
    learning_rate: float,
    weight_decay: float,
    layer_decay: float,
) -> list[dict[str, Any]]:
    """Groups of the parameters that learn alike, for an optimiser.

    Args:
        parameters: By name; those without a gradient are left out.
        layers_from_end: How many layers lie between one and the last.
        is_decayed: Whether one gets weight decay.
        learning_rate: Of the last layer.
        weight_decay: Of those that get it.
        layer_decay: Factor on the rate from each layer to the one before it, in (0, 1].

    Raises:
        ConfigError: If layer_decay is not in (0, 1].
    """
    if not 0 < layer_decay <= 1:
        raise ConfigError(f"layer_decay must be in (0, 1], got {layer_decay}")
    groups: dict[tuple[float, bool], dict[str, Any]] = {}
    for name, parameter in parameters:
        if not parameter.requires_grad:
            continue
        scale = layer_decay ** layers_from_end(name, parameter)
        decayed = is_decayed(name, parameter)
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


def attention_bias_names(network: nn.Module) -> set[str]:
    """Names of the attention bias tables, which weight decay must leave alone."""
    return {name for name, _ in network.named_parameters() if name.endswith("attention_biases")}


def depth_of(name: str, config: EfficientViTConfig) -> int:
    """Depth of a parameter by its name: 0 for the stem, 1.. for the blocks, one more for the head.

    A subsample counts with the block that follows it.
    """
    part, *rest = name.split(".")
    if part == "stem":
        return 0
    num_blocks = [len(stage.blocks) for stage in config.stages]
    if part != "stages":
        return sum(num_blocks) + 1
    stage, layer = int(rest[0]), int(rest[1])
    offset = 0 if config.stages[stage].subsample is None else 1
    return sum(num_blocks[:stage]) + max(layer - offset, 0) + 1
