"""DeiT and Swin with any share of attention, of timm's own parts: at the usual share they are timm's networks.

But for DeiT's class token, in whose place tokens are averaged: without attention it would see nothing of the picture.
The paper does not say what it did.

A layer is what a transformer's block has two of: a norm and attention, or a norm and a feed-forward layer, each with
its residual. What a layer is inside (a feed-forward layer's hidden channels, a head's) follows from the width and can
be scaled beside it: processors like widths in steps of 8, which are too coarse to bring a network to a speed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, TypeVar

from timm.layers.mlp import Mlp
from timm.models.swin_transformer import SwinTransformer, SwinTransformerBlock
from timm.models.vision_transformer import Attention, VisionTransformer  # type: ignore[attr-defined]
from torch import Tensor, nn

from effvit.analysis.ratios.spread import multiples, spread_evenly
from effvit.errors import ConfigError

_FFN_RATIO = 4
"""Hidden channels of a feed-forward layer over its width, in both families."""
FFN_STEP, HEAD_STEP = 8, 4
"""Hidden channels, and channels of a head, are multiples of these."""
_LEAST_WINDOW = 4
"""Side of the smallest window, in tokens: in smaller ones there is little to attend to."""
_LARGEST_WINDOW = 16

Size = tuple[int, int]
"""Height and width."""
A = TypeVar("A", bound=nn.Module)


class ResidualLayer(nn.Module):
    """`x + body(norm(x))`."""

    def __init__(self, norm: nn.Module, body: nn.Module) -> None:
        super().__init__()
        self.norm, self.body = norm, body

    def forward(self, x: Tensor) -> Tensor:
        """Any shape that `body` keeps, channels last."""
        branch: Tensor = self.body(self.norm(x))
        return x + branch


class SwinAttentionLayer(SwinTransformerBlock):
    """The attention half of timm's Swin block: shift, windows, attention, and all back."""

    def __init__(self, width: int, **arguments: Any) -> None:
        super().__init__(width, mlp_ratio=1 / width, **arguments)  # of one hidden channel, dropped at once
        del self.norm2, self.mlp, self.drop_path2
        _step_by_step(self.attn)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        branch: Tensor = self._attn(self.norm1(x))  # type: ignore[no-untyped-call]
        return x + branch


def patch_for(image_size: Size, largest: int, least_tokens: int) -> int:
    """Side of a patch: the family's own, halved until the shorter side has enough tokens.

    Args:
        image_size: Height and width, in pixels.
        largest: The family's own patch.
        least_tokens: How many patches the shorter side must have.

    Raises:
        ConfigError: If the patches do not fill the picture.
    """
    patch = largest
    while patch > 1 and min(image_size) // patch < least_tokens:
        patch //= 2
    if any(side % patch for side in image_size):
        raise ConfigError(f"height and width must be multiples of {patch}, the side of a patch, got {image_size}")
    return patch


def window_for(maps: Sequence[Size]) -> int:
    """Side of Swin's windows for pictures of any size.

    Swin's is an eighth of the first map (7 of 56 at 224 pixels, 8 of 64 at 256). Where that is too small or its windows
    would have to be padded, the nearest that is not.

    Args:
        maps: Height and width of each stage's map, in tokens.
    """
    wanted = max(min(maps[0]) / 8, _LEAST_WINDOW)
    fits = [
        window
        for window in range(_LEAST_WINDOW, _LARGEST_WINDOW + 1)
        if all(side % window == 0 or side < window for size in maps for side in size)
    ]
    return min(fits, key=lambda window: (abs(window - wanted), -window), default=round(wanted))


def swin_maps(image_size: Size, num_stages: int) -> tuple[Size, ...]:
    """Height and width of each stage's map, in tokens: each half of the one before, rounded up."""
    patch = patch_for(image_size, largest=4, least_tokens=16)
    height, width = (side // patch for side in image_size)
    return tuple((-(-height // 2**stage), -(-width // 2**stage)) for stage in range(num_stages))


def deit(
    width: int,
    *,
    num_layers: int,
    num_attention: int,
    num_heads: int,
    image_size: Size,
    num_classes: int,
    inner: float = 1.0,
) -> VisionTransformer:
    """DeiT without distillation and class token, its layers shared out anew.

    Args:
        width: Channels of a token.
        num_layers: Layers, attention and feed-forward together.
        num_attention: How many of them are attention.
        num_heads: Heads of each.
        image_size: Height and width, in pixels.
        num_classes: Classes.
        inner: What the inside of layers is scaled by.
    """
    network = VisionTransformer(
        img_size=image_size,
        patch_size=patch_for(image_size, largest=16, least_tokens=8),
        embed_dim=width,
        depth=0,
        num_heads=num_heads,
        num_classes=num_classes,
        class_token=False,
        global_pool="avg",
        fc_norm=False,  # the norm stays where DeiT has it, before the pooling
    )
    norm = partial(nn.LayerNorm, width, eps=1e-6)

    row = spread_evenly(num_layers, num_attention)
    hidden, head_dims = _inner_dims([width] * num_layers, row, [num_heads] * num_layers, inner)

    def layer(is_attention: bool) -> ResidualLayer:
        if is_attention:
            attention = Attention(width, num_heads, attn_head_dim=next(head_dims), qkv_bias=True)
            return ResidualLayer(norm(), _step_by_step(attention))
        return ResidualLayer(norm(), Mlp(width, next(hidden)))

    network.blocks = nn.Sequential(*map(layer, row))
    network.init_weights(needs_reset=False)
    return network


def swin(
    width: int,
    *,
    depths: Sequence[int],
    num_attention: int,
    num_heads: Sequence[int],
    image_size: Size,
    num_classes: int,
    inner: float = 1.0,
) -> SwinTransformer:
    """Swin, its layers shared out anew over all stages; each stage has two layers for each of its blocks.

    Args:
        width: Channels of the first stage; each other has twice those of the one before.
        depths: Blocks of each stage, as Swin counts them.
        num_attention: How many of all layers are attention.
        num_heads: Heads of each stage.
        image_size: Height and width, in pixels.
        num_classes: Classes.
        inner: What the inside of layers is scaled by.
    """
    maps = swin_maps(image_size, len(depths))
    window = window_for(maps)
    network = SwinTransformer(
        img_size=image_size,
        patch_size=patch_for(image_size, largest=4, least_tokens=16),
        embed_dim=width,
        depths=(0,) * len(depths),
        num_heads=tuple(num_heads),
        head_dim=1,  # of no block: the layers below have their own
        window_size=window,
        num_classes=num_classes,
        drop_path_rate=0.0,
    )
    row = spread_evenly(2 * sum(depths), num_attention)
    places = [index for index, depth in enumerate(depths) for _ in range(2 * depth)]
    hidden, head_dims = _inner_dims([width * 2**i for i in places], row, [num_heads[i] for i in places], inner)
    is_attention = iter(row)
    for index, (stage, depth, heads) in enumerate(zip(network.layers, depths, num_heads, strict=True)):
        channels, count = width * 2**index, 0
        layers: list[nn.Module] = []
        for _ in range(2 * depth):
            if not next(is_attention):
                layers.append(ResidualLayer(nn.LayerNorm(channels), Mlp(channels, next(hidden))))
                continue
            layers.append(
                SwinAttentionLayer(
                    channels,
                    input_resolution=maps[index],
                    num_heads=heads,
                    head_dim=next(head_dims),
                    window_size=window,
                    shift_size=window // 2 if count % 2 else 0,  # every second one, as in Swin
                )
            )
            count += 1
        stage.blocks = nn.Sequential(*layers)
    network.init_weights(needs_reset=False)
    return network


def _step_by_step(attention: A) -> A:
    """No fused kernel, whatever timm's default: its softmax and its copies would hide among the products."""
    attention.fused_attn = False  # type: ignore[assignment]
    return attention


def _inner_dims(
    widths: Sequence[int], row: Sequence[bool], num_heads: Sequence[int], inner: float
) -> tuple[Iterator[int], Iterator[int]]:
    """Hidden channels of each feed-forward layer, and channels of a head of each attention, in order."""
    ffns = [_FFN_RATIO * inner * width for width, is_attention in zip(widths, row, strict=True) if not is_attention]
    layers = zip(widths, row, num_heads, strict=True)
    heads = [inner * width / count for width, is_attention, count in layers if is_attention]
    return iter(multiples(ffns, FFN_STEP)), iter(multiples(heads, HEAD_STEP))
