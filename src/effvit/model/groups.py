"""Parameter groups of a network: which weights decay, and which learn how fast."""

from __future__ import annotations

from collections.abc import Iterable
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
    if not 0 < layer_decay <= 1:
        raise ConfigError(f"layer_decay must be in (0, 1], got {layer_decay}")
    depth_of_head = depth_of("head", config)
    groups: dict[tuple[float, bool], dict[str, Any]] = {}
    for name, parameter in parameters:
        if not parameter.requires_grad:
            continue
        scale = layer_decay ** (depth_of_head - depth_of(name, config))
        decayed = parameter.dim() > 1 and name not in undecayed
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
