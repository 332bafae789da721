"""With and without head splits (Fig. 4): what a head may see decided anew, the weights kept.

The paper's remedy for heads that compute the same is to give each head its own part of the channels. Cut out of
weights that were trained without, this shows what the parts hold; how alike the heads of a network become that is
*trained* with splits is only told by training one, which `with_head_splits` prepares for timm's networks and
`BlockConfig.mixer` for ours.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from typing import cast

import torch
from timm.layers.attention import Attention, AttentionRope
from timm.models.beit import Attention as BeitAttention
from timm.models.eva import EvaAttention
from timm.models.swin_transformer import WindowAttention as SwinAttention
from timm.models.swin_transformer_v2 import WindowAttention as SwinV2Attention
from timm.models.vision_transformer_relpos import RelPosAttention
from torch import Tensor, nn

from effvit.errors import ConfigError
from effvit.model.config import BlockConfig, EfficientViTConfig, Mixer
from effvit.model.network import EfficientViT

_SPLITTABLE = (Attention, AttentionRope, BeitAttention, EvaAttention, RelPosAttention, SwinAttention, SwinV2Attention)
"""timm's attentions whose projections give queries, keys and values in this order, each head after head and as wide
as the others. A subclass may do something else, as those of pruned networks do."""

_VARIANT_OF: dict[Mixer, str] = {
    "mhsa": "no head splits",
    "grouped": "head splits, no cascade",
    "cascaded": "head splits and cascade",
}


class SplitLinear(nn.Linear):
    """A projection to heads in which each head sees its own split of the channels only.

    The weights that join a head to another head's channels are masked wherever the weight is read, so their gradient
    is zero too. State dict, device moves and gradients are those of the layer it stands for.

    Args:
        linear: The layer; its parameters are taken over, not copied.
        num_heads: Heads; the channels in are cut into as many splits.
        num_parts: 3 for queries, keys and values in one layer, each head after head; 1 for one of them.
    """

    mask: Tensor

    def __init__(self, linear: nn.Linear, *, num_heads: int, num_parts: int) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        # Not `self.weight = ...`: the name is that of the property below.
        self._parameters["weight"] = cast(nn.Parameter, linear.weight)
        self._parameters["bias"] = linear.bias
        head_dim = self.out_features // (num_parts * num_heads)
        head_of_row = torch.arange(self.out_features) // head_dim % num_heads
        head_of_channel = torch.arange(self.in_features) // (self.in_features // num_heads)
        mask = head_of_row[:, None] == head_of_channel  # (out_features, in_features)
        self.register_buffer("mask", mask.to(linear.weight), persistent=False)

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """The masked weight, (out_features, in_features)."""
        weight = self._parameters["weight"]
        assert weight is not None
        return weight * self.mask


def split_variants(network: nn.Module, *, fresh: bool = False) -> dict[str, nn.Module]:
    """What there is to compare a network with: the same with head splits, or if it has a cascade, without that.

    Args:
        network: See `with_head_splits`.
        fresh: Whether its weights are random, so that variants of ours are made anew rather than cut out of it.

    Returns:
        What was changed -> a copy of the network.

    Raises:
        ConfigError: If there is no such variant.
    """
    if not isinstance(network, EfficientViT):
        return {"head splits": with_head_splits(network)}
    mixers = _mixers(network.config)
    if fresh:
        others = [mixer for mixer in _VARIANT_OF if {mixer} != mixers]
        return {_VARIANT_OF[mixer]: EfficientViT(with_mixer(network.config, mixer)) for mixer in others}
    if "cascaded" in mixers:
        return {_VARIANT_OF["grouped"]: without_cascade(network)}
    return {"head splits": with_head_splits(network)}


def with_head_splits(network: nn.Module) -> nn.Module:
    """A copy of a network in which each head's queries, keys and values see their own split of the channels only.

    Weights are kept as far as they join a head to its split, the state dict of a timm network whole. Of ours,
    `mixer="mhsa"` becomes `"grouped"`. The output projection still sees all heads.

    Args:
        network: timm's with its usual attentions (ViT, DeiT, BEiT, EVA, Swin, Swin V2 and kin), or ours.

    Returns:
        A copy on the same device, in the same mode.

    Raises:
        ConfigError: If it has no attention whose projections are known, the heads have splits already, or the
            channels cannot be cut into as many splits as there are heads.
    """
    if isinstance(network, EfficientViT):
        if not _mixers(network.config) <= {"mhsa"}:
            raise ConfigError(f"{network.config.name}: its heads have splits already")
        return _grouped(network)
    copied = copy.deepcopy(network)
    attentions = [(name, module) for name, module in copied.named_modules() if type(module) in _SPLITTABLE]
    if not attentions:
        known = ", ".join(f"{kind.__module__.removeprefix('timm.')}.{kind.__name__}" for kind in _SPLITTABLE)
        raise ConfigError(
            f"{type(network).__name__} has no attention whose heads can be given splits; known are those of timm"
            f" ({known}) and ours"
        )
    for name, module in attentions:
        for projection, num_parts in (("qkv", 3), ("q_proj", 1), ("k_proj", 1), ("v_proj", 1)):
            linear = getattr(module, projection, None)
            if linear is None:
                continue
            _check_splittable(f"{name}.{projection}", linear, module.num_heads, num_parts)
            setattr(module, projection, SplitLinear(linear, num_heads=module.num_heads, num_parts=num_parts))
    return copied


def without_cascade(network: EfficientViT) -> EfficientViT:
    """A copy of ours in which no head sees what the head before it found, all weights kept (Table 6, row 6).

    Raises:
        ConfigError: If it has no cascade.
    """
    if "cascaded" not in _mixers(network.config):
        raise ConfigError(f"{network.config.name}: its heads have no cascade to be taken away")
    copied = EfficientViT(with_mixer(network.config, "grouped")).to(next(network.parameters()))
    copied.load_state_dict(network.state_dict())
    return copied.train(network.training)


def with_mixer(config: EfficientViTConfig, mixer: Mixer) -> EfficientViTConfig:
    """A configuration with what a head sees changed in every block that has attention, and nothing else."""

    def changed(block: BlockConfig) -> BlockConfig:
        return replace(block, mixer=mixer) if block.num_heads else block

    stages = tuple(replace(stage, blocks=tuple(map(changed, stage.blocks))) for stage in config.stages)
    return replace(config, stages=stages)


def _mixers(config: EfficientViTConfig) -> set[Mixer]:
    return {block.mixer for stage in config.stages for block in stage.blocks if block.num_heads}


def _check_splittable(name: str, linear: nn.Module, num_heads: int, num_parts: int) -> None:
    if not isinstance(linear, nn.Linear):
        raise ConfigError(f"{name} is a {type(linear).__name__}, and splits are for a torch.nn.Linear")
    if linear.in_features % num_heads or linear.out_features % (num_parts * num_heads):
        raise ConfigError(
            f"{name}: {linear.in_features} channels to {linear.out_features} cannot be cut into {num_heads} splits"
        )


def _grouped(network: EfficientViT) -> EfficientViT:
    """`mhsa` -> `grouped`: of the projection of all heads, each head's rows and its split's columns."""
    if network.config.norm != "batch":
        raise ConfigError(f"{network.config.name}: its norm runs over all heads at once, which splits cannot keep")
    copied = EfficientViT(with_mixer(network.config, "grouped")).to(next(network.parameters()))
    source, state = network.state_dict(), {}
    for name, value in copied.state_dict().items():
        before, middle, after = name.partition(".mixer.qkv.")
        if not middle:
            state[name] = source[name]
            continue
        head, _, rest = after.partition(".")
        whole = source[f"{before}{middle}{rest}"]
        if whole.dim() > 0:
            mixer = network.get_submodule(f"{before}.mixer")
            whole = whole[list(_rows(mixer.dims, int(head), mixer.num_heads))]  # type: ignore[arg-type]
        if whole.dim() > 1:
            split = value.shape[1]
            whole = whole[:, int(head) * split : (int(head) + 1) * split]
        state[name] = whole
    copied.load_state_dict(state)
    return copied.train(network.training)


def _rows(dims: list[int], head: int, num_heads: int) -> Iterator[int]:
    """Where a head's queries, keys and values are in the projection of all heads."""
    start = 0
    for dim in dims:
        own = dim // num_heads
        yield from range(start + head * own, start + (head + 1) * own)
        start += dim
