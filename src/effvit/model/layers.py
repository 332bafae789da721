"""The parts every block is made of: convolution with norm, feed-forward, merging, residual.

Layers take plain numbers; only `EfficientViT` knows the configuration. What runs its parts one after
the other is a `Sequential` with names: at batch 1 a tenth of the time is Python looking up modules,
and a `Sequential` does not look them up.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from effvit.model.config import Activation, Norm

ACTIVATIONS: dict[Activation, Callable[[], nn.Module]] = {
    # In place: always after a norm, whose gradient does not need the output.
    "relu": partial(nn.ReLU, inplace=True),
    "hard_swish": nn.Hardswish,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
}


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of a feature map, at each position (Table 6, row 10)."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (B, C, H, W) over C."""
        x = x.permute(0, 2, 3, 1)  # (B, C, H, W) -> (B, H, W, C)
        x = F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)
        return x.permute(0, 3, 1, 2)  # (B, H, W, C) -> (B, C, H, W)


class ConvNorm(nn.Sequential):
    """Convolution without bias, then norm: the only form in which the network convolves.

    Args:
        in_channels: Channels in.
        out_channels: Channels out.
        kernel_size: Side of the kernel; the padding keeps the size at stride 1.
        stride: Stride.
        groups: Groups; equal to the channels for a depth-wise convolution.
        norm: Which norm.
        zero_init: Start the norm's weight at 0, so that the residual branch this ends starts as identity.
    """

    conv: nn.Conv2d
    norm: nn.Module

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel_size: int = 1,
        stride: int = 1,
        groups: int = 1,
        norm: Norm = "batch",
        zero_init: bool = False,
    ) -> None:
        padding = kernel_size // 2
        conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, groups=groups, bias=False)
        weighted = nn.BatchNorm2d(out_channels) if norm == "batch" else ChannelNorm(out_channels)
        nn.init.constant_(weighted.weight, 0.0 if zero_init else 1.0)
        super().__init__(OrderedDict(conv=conv, norm=weighted))


class NormLinear(nn.Sequential):
    """Norm, then linear layer: a classifier head."""

    norm: nn.Module
    linear: nn.Linear

    def __init__(self, in_features: int, out_features: int, *, norm: Norm = "batch") -> None:
        linear = nn.Linear(in_features, out_features)
        nn.init.trunc_normal_(linear.weight, std=0.02)
        nn.init.zeros_(linear.bias)
        normalise = nn.BatchNorm1d(in_features) if norm == "batch" else nn.LayerNorm(in_features)
        super().__init__(OrderedDict(norm=normalise, linear=linear))


class Residual(nn.Module):
    """`x + body(x)`, the branch dropped for whole pictures in training with probability `drop_path`."""

    def __init__(self, body: nn.Module, drop_path: float = 0.0) -> None:
        super().__init__()
        self.body = body
        self.drop_path = drop_path

    def forward(self, x: Tensor) -> Tensor:
        """Any shape that `body` keeps, batch first."""
        branch: Tensor = self.body(x)
        if self.training and self.drop_path > 0:
            keep = 1 - self.drop_path
            # Divided by its probability, so that the expectation is the branch itself.
            branch = branch * branch.new_empty((x.shape[0], 1, 1, 1)).bernoulli_(keep).div_(keep)
        return x + branch


class FeedForward(nn.Sequential):
    """Two 1x1 convolutions with an activation between them (Sec. 3.1)."""

    expand: ConvNorm
    project: ConvNorm

    def __init__(
        self, channels: int, hidden_dim: int, *, norm: Norm = "batch", activation: Activation = "relu"
    ) -> None:
        expand = ConvNorm(channels, hidden_dim, norm=norm)
        project = ConvNorm(hidden_dim, channels, norm=norm, zero_init=True)
        super().__init__(OrderedDict(expand=expand, act=ACTIVATIONS[activation](), project=project))


class FeedForwardUnit(nn.Sequential):
    """Token interaction (a depth-wise 3x3 convolution), then a feed-forward layer, each residual (Eq. 1).

    Args:
        channels: Channels in and out.
        hidden_dim: Channels inside the feed-forward layer.
        token_interaction: Whether there is the depth-wise convolution (Table 6, row 9).
        zero_init: Start the depth-wise convolution's branch at 0. The official code does so inside the
            blocks and not beside the merging.
        norm: Which norm.
        activation: Which activation.
        drop_path: See `Residual`.
    """

    interaction: Residual  # only with token interaction
    ffn: Residual

    def __init__(
        self,
        channels: int,
        hidden_dim: int,
        *,
        token_interaction: bool = True,
        zero_init: bool = False,
        norm: Norm = "batch",
        activation: Activation = "relu",
        drop_path: float = 0.0,
    ) -> None:
        parts: OrderedDict[str, nn.Module] = OrderedDict()
        if token_interaction:
            depthwise = ConvNorm(channels, channels, kernel_size=3, groups=channels, norm=norm, zero_init=zero_init)
            parts["interaction"] = Residual(depthwise, drop_path)
        parts["ffn"] = Residual(FeedForward(channels, hidden_dim, norm=norm, activation=activation), drop_path)
        super().__init__(parts)


class SqueezeExcite(nn.Module):
    """Scale each channel by a gate computed from the picture's channel means (arXiv:1709.01507)."""

    def __init__(self, channels: int, squeeze_dim: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, squeeze_dim, 1)
        self.expand = nn.Conv2d(squeeze_dim, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        gate = x.mean((2, 3), keepdim=True)  # (B, C, H, W) -> (B, C, 1, 1)
        gate = torch.sigmoid(self.expand(F.relu(self.reduce(gate))))
        return x * gate


class PatchMerging(nn.Module):
    """Halve the resolution in an inverted bottleneck with squeeze-and-excite (Sec. 3.2).

    Args:
        in_channels: Width of the stage before.
        out_channels: Width of the stage after.
        merge_dim: Channels inside.
        squeeze_dim: Channels inside the squeeze-and-excite.
        norm: Which norm.
        activation: Which activation.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        merge_dim: int,
        squeeze_dim: int,
        norm: Norm = "batch",
        activation: Activation = "relu",
    ) -> None:
        super().__init__()
        self.expand = ConvNorm(in_channels, merge_dim, norm=norm)
        self.depthwise = ConvNorm(merge_dim, merge_dim, kernel_size=3, stride=2, groups=merge_dim, norm=norm)
        self.squeeze_excite = SqueezeExcite(merge_dim, squeeze_dim)
        self.project = ConvNorm(merge_dim, out_channels, norm=norm)
        self.act = ACTIVATIONS[activation]()

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, out_channels, H / 2, W / 2), rounded up."""
        x = self.act(self.expand(x))
        x = self.act(self.depthwise(x))
        x = self.project(self.squeeze_excite(x))
        return x
