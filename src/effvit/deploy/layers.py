"""Feed-forward, merging and the way between them, in two layouts: tokens (NHWC) and maps (NCHW).

The two compute the same from the same numbers. Tokens suit torch, where a 1x1 convolution is a matrix product with
overhead; maps suit runtimes that keep feature maps in a blocked layout of their own and only leave it for attention.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from effvit.deploy.attention import Attention
from effvit.deploy.kernels import activate, add_linear, linear
from effvit.model.config import Activation

Values = tuple[Tensor, Tensor | None]
"""Weight and bias of one operator; no bias where it has moved."""


class Operator(nn.Module):
    """Weight and bias of one convolution, (out, in / groups, k, k) and (out,), kept as they will be used."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)

    def forward(self, x: Tensor, stride: int = 1, groups: int = 1) -> Tensor:
        """Convolve (B, C, H, W), keeping the size at stride 1."""
        return F.conv2d(x, self.weight, self.bias, stride, self.weight.shape[-1] // 2, 1, groups)


class TokenDepthwise(Operator):
    """Depth-wise convolution of a map in token-major layout."""

    def forward(self, x: Tensor, stride: int = 1, groups: int = 1) -> Tensor:
        """(B, H, W, C) -> (B, H / stride, W / stride, C), rounded up."""
        x = x.permute(0, 3, 1, 2)  # (B, H, W, C) -> (B, C, H, W), in memory as it was
        return super().forward(x, stride, self.weight.shape[0]).permute(0, 2, 3, 1)  # -> (B, H, W, C)


class TokenProduct(Operator):
    """1x1 convolution as a product with the tokens; its weight is (in, out)."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__(weight.flatten(1).t().contiguous(), bias)  # (out, in, 1, 1) -> (in, out)


class TokenFeedForward(nn.Module):
    """Token interaction with its residual in the kernel, then the feed-forward layer added to it in place."""

    def __init__(self, interaction: Values | None, expand: Values, project: Values, activation: Activation) -> None:
        super().__init__()
        self.interaction = None if interaction is None else TokenDepthwise(*interaction)
        self.expand, self.project = TokenProduct(*expand), TokenProduct(*project)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C); without interaction the memory of `x` is used again."""
        if self.interaction is not None:
            x = self.interaction(x)
        tokens = x.reshape(-1, x.shape[-1])  # (B, H, W, C) -> (B * N, C)
        hidden = linear(tokens, self.expand.weight, self.expand.bias, self.activation)
        tokens = add_linear(tokens, hidden, self.project.weight, self.project.bias)
        return tokens.reshape(x.shape)  # (B * N, C) -> (B, H, W, C)


class MapFeedForward(nn.Module):
    """The same on (B, C, H, W)."""

    def __init__(self, interaction: Values | None, expand: Values, project: Values, activation: Activation) -> None:
        super().__init__()
        self.interaction = None if interaction is None else Operator(*interaction)
        self.expand, self.project = Operator(*expand), Operator(*project)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        if self.interaction is not None:
            x = self.interaction(x, 1, x.shape[1])
        branch: Tensor = self.project(activate(self.expand(x), self.activation))
        return x + branch


class TokenMerging(nn.Module):
    """Patch merging: 1x1, depth-wise 3x3 of stride 2, squeeze-and-excite, 1x1."""

    def __init__(
        self, expand: Values, depthwise: Values, reduce: Values, widen: Values, project: Values, activation: Activation
    ) -> None:
        super().__init__()
        self.expand, self.depthwise = TokenProduct(*expand), TokenDepthwise(*depthwise)
        self.reduce, self.widen, self.project = TokenProduct(*reduce), TokenProduct(*widen), TokenProduct(*project)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H / 2, W / 2, C'), rounded up."""
        tokens = x.reshape(-1, x.shape[-1])  # (B, H, W, C) -> (B * N, C)
        tokens = linear(tokens, self.expand.weight, self.expand.bias, self.activation)
        x = tokens.reshape(*x.shape[:3], -1)  # (B * N, merge_dim) -> (B, H, W, merge_dim)
        x = activate(self.depthwise(x, 2), self.activation)
        gate = linear(x.mean((1, 2)), self.reduce.weight, self.reduce.bias, "relu")  # (B, H, W, C) -> (B, C) -> ...
        gate = linear(gate, self.widen.weight, self.widen.bias).sigmoid_()
        x = x.mul_(gate[:, None, None, :])
        tokens = linear(
            x.reshape(-1, x.shape[-1]), self.project.weight, self.project.bias
        )  # (B, H, W, C) -> (B * N, C')
        return tokens.reshape(*x.shape[:3], -1)  # (B * N, C') -> (B, H, W, C')


class MapMerging(nn.Module):
    """The same on (B, C, H, W)."""

    def __init__(
        self, expand: Values, depthwise: Values, reduce: Values, widen: Values, project: Values, activation: Activation
    ) -> None:
        super().__init__()
        self.expand, self.depthwise, self.reduce = Operator(*expand), Operator(*depthwise), Operator(*reduce)
        self.widen, self.project = Operator(*widen), Operator(*project)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H / 2, W / 2), rounded up."""
        x = activate(self.expand(x), self.activation)
        x = activate(self.depthwise(x, 2, x.shape[1]), self.activation)
        gate = F.adaptive_avg_pool2d(x, 1)  # (B, C, H, W) -> (B, C, 1, 1); runtimes know it, unlike a mean, as pooling
        gate = torch.relu(self.reduce(gate))
        return self.project(x * torch.sigmoid(self.widen(gate)))  # type: ignore[no-any-return]


class MapAttention(nn.Module):
    """Attention on tokens between two layers on maps: its projection is a convolution again."""

    def __init__(self, attention: Attention) -> None:
        super().__init__()
        self.attention = attention
        weight = attention.weight.t()[
            :, :, None, None
        ]  # (num_heads * value_dim, C) -> (C, num_heads * value_dim, 1, 1)
        self.project = Operator(weight.contiguous(), attention.bias)
        del attention.weight, attention.bias

    def forward(self, x: Tensor) -> Tensor:
        """`x + attention(x)`, (B, C, H, W) -> (B, C, H, W)."""
        tokens = x.permute(0, 2, 3, 1)  # (B, C, H, W) -> (B, H, W, C)
        grid = self.attention.grid_of(tokens)
        found = grid.join(self.attention.attend(grid.cut(tokens), grid))
        branch: Tensor = self.project(found.permute(0, 3, 1, 2))  # (B, H, W, C') -> (B, C', H, W)
        return x + branch
