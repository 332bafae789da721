"""timm's attention with fewer query, key and value channels, and the network that has it.

timm's own modules give queries, keys and values the same number of channels and derive the scale from it. These
keep the scale of the attention that they were made from, so that what is left of it is the same. Names of weights are
timm's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers.attention import Attention
from timm.layers.mlp import Mlp
from timm.models.swin_transformer import WindowAttention
from torch import Tensor, nn

from effvit.errors import ConfigError

Shapes = Mapping[str, Mapping[str, int]]
"""Name of a module -> `key_dim` and `value_dim` of an attention, or `hidden_dim` of a feed-forward layer."""


class _Narrow(nn.Module):
    """What the two kinds share: channels per head, and the cutting of their one linear layer."""

    num_heads: int
    key_dim: int
    value_dim: int
    qkv: nn.Linear

    def _set_dims(self, original: nn.Module, key_dim: int, value_dim: int) -> None:
        like: Any = original
        self.key_dim, self.value_dim, self.scale = key_dim, value_dim, like.scale
        options = {"device": like.qkv.weight.device, "dtype": like.qkv.weight.dtype}
        channels = self.num_heads * (2 * key_dim + value_dim)
        bias = like.qkv.bias is not None
        self.qkv = nn.Linear(like.qkv.in_features, channels, bias=bias, **options)
        bias = like.proj.bias is not None
        self.proj = nn.Linear(self.num_heads * value_dim, like.proj.out_features, bias=bias, **options)
        self.attn_drop, self.proj_drop = nn.Dropout(like.attn_drop.p), nn.Dropout(like.proj_drop.p)
        self.train(original.training)

    def _queries_keys_values(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        heads = self.num_heads
        parts = self.qkv(x).split([heads * self.key_dim, heads * self.key_dim, heads * self.value_dim], dim=-1)
        # (B, N, heads * dim) -> (B, heads, N, dim)
        q, k, v = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in parts)
        return q, k, v

    def _attend(
        self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, *, fused: bool, is_causal: bool = False
    ) -> Tensor:
        """What the heads found, side by side: (B, heads, N, dim) each -> (B, N, heads * value_dim)."""
        drop = self.attn_drop.p if self.training else 0.0
        if fused or is_causal:
            x = F.scaled_dot_product_attention(
                q, k, v, attn_mask=bias, dropout_p=drop, is_causal=is_causal, scale=self.scale
            )
        else:
            logits = self.scale * q @ k.transpose(-2, -1)  # (B, heads, N, N)
            if bias is not None and bias.dtype == torch.bool:
                logits = logits.masked_fill(~bias, float("-inf"))
            elif bias is not None:
                logits = logits + bias
            x = self.attn_drop(logits.softmax(dim=-1)) @ v
        return x.transpose(1, 2).flatten(2)  # (B, heads, N, dim) -> (B, N, heads * dim)


class NarrowAttention(_Narrow):
    """timm's `Attention` (ViT, DeiT) with its own numbers of query/key and value channels per head."""

    def __init__(self, original: nn.Module, *, key_dim: int, value_dim: int) -> None:
        super().__init__()
        like: Any = original
        self.num_heads, self.fused_attn = like.num_heads, like.fused_attn
        # What these run over keeps its channels: see `timm_parts.find_channels`.
        self.q_norm, self.k_norm, self.norm, self.gate = like.q_norm, like.k_norm, like.norm, like.gate
        self._set_dims(original, key_dim, value_dim)

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """Attend over tokens, (B, N, C) -> (B, N, C)."""
        q, k, v = self._queries_keys_values(x)
        attended = self._attend(
            self.q_norm(q), self.k_norm(k), v, attn_mask, fused=self.fused_attn, is_causal=is_causal
        )
        attended = self.norm(attended)
        if self.gate is not None:
            attended = attended * self.gate(x).sigmoid()
        result: Tensor = self.proj_drop(self.proj(attended))
        return result


class NarrowWindowAttention(_Narrow, WindowAttention):
    """timm's `WindowAttention` (Swin) with its own numbers of query/key and value channels per head."""

    def __init__(self, original: nn.Module, *, key_dim: int, value_dim: int) -> None:
        like: Any = original
        table = like.relative_position_bias_table
        WindowAttention.__init__(
            self, like.dim, like.num_heads, window_size=like.window_size, device=table.device, dtype=table.dtype
        )
        self.fused_attn = like.fused_attn
        self._set_dims(original, key_dim, value_dim)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attend within windows, (B * num_windows, N, C) -> the same; the mask is (num_windows, N, N)."""
        bias: Tensor = self._get_rel_pos_bias()
        if mask is not None:
            # (num_windows, N, N) + (1, heads, N, N) -> (B * num_windows, heads, N, N)
            bias = (mask[:, None] + bias).repeat(len(x) // len(mask), 1, 1, 1)
        attended = self._attend(*self._queries_keys_values(x), bias, fused=self.fused_attn)
        result: Tensor = self.proj_drop(self.proj(attended))
        return result


def dims_of(attention: nn.Module) -> tuple[int, int]:
    """Query/key and value channels per head."""
    if isinstance(attention, _Narrow):
        return attention.key_dim, attention.value_dim
    found: Any = attention
    dim = found.qkv.out_features // (3 * found.num_heads)
    return dim, dim


def is_attention(module: nn.Module) -> bool:
    """Whether a module is attention of timm whose forward is known; a subclass may do something else."""
    return type(module) in (Attention, WindowAttention, NarrowAttention, NarrowWindowAttention)


def is_feed_forward(module: nn.Module) -> bool:
    """Whether a module is timm's feed-forward layer on tokens."""
    return type(module) is Mlp and isinstance(module.fc1, nn.Linear)


def narrow(network: nn.Module, shapes: Shapes) -> nn.Module:
    """Give modules of a network other shapes, in place; their new weights are random.

    Args:
        network: With timm's modules under the names of `shapes`.
        shapes: What each shall have.

    Raises:
        ConfigError: If the network has no such module.
    """
    for name, dims in shapes.items():
        try:
            module: Any = network.get_submodule(name)
        except AttributeError as error:
            raise ConfigError(f"these shapes are for another network: {error}") from error
        if is_attention(module):
            kind = NarrowWindowAttention if isinstance(module, WindowAttention) else NarrowAttention
            network.set_submodule(name, kind(module, **dims))
        elif is_feed_forward(module):
            hidden = dims["hidden_dim"]
            options = {"device": module.fc1.weight.device, "dtype": module.fc1.weight.dtype}
            module.fc1 = nn.Linear(module.fc1.in_features, hidden, bias=module.fc1.bias is not None, **options)
            module.fc2 = nn.Linear(hidden, module.fc2.out_features, bias=module.fc2.bias is not None, **options)
        else:
            raise ConfigError(f"these shapes are for another network: {name} is a {type(module).__name__}")
    return network
