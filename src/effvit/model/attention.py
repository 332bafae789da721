"""Attention inside windows: cascaded groups (Sec. 3.1, Eq. 2-4), its ablations, and the cutting of windows.

Padding is handled so that it cannot be told from its absence: a window that reaches past the map
gives what the same attention gives on the part inside (`Window.inside`). The official code lets the
zeros take part; `mask_padding=False` does the same.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from effvit.errors import ConfigError
from effvit.model.config import Activation, BlockConfig, Norm
from effvit.model.layers import ACTIVATIONS, ConvNorm


def window_partition(x: Tensor, window: int) -> tuple[Tensor, tuple[int, int]]:
    """Cut a feature map into square windows, padding bottom and right with zeros.

    Args:
        x: Feature map, (B, C, H, W).
        window: Side of a window, in tokens.

    Returns:
        Windows, (B * num_windows, C, window, window), and the padded (height, width).

    Raises:
        ConfigError: If window is not positive.

    Source: arXiv:2305.07027, Sec. 3.2.
    """
    if window < 1:
        raise ConfigError(f"window must be positive, got {window}")
    B, C, H, W = x.shape
    rows, columns = -(-H // window), -(-W // window)
    padded = rows * window, columns * window
    if padded != (H, W):
        x = F.pad(x, (0, padded[1] - W, 0, padded[0] - H))
    x = x.reshape(B, C, rows, window, columns, window)  # (B, C, H, W) -> (B, C, rows, w, columns, w)
    x = x.permute(0, 2, 4, 1, 3, 5)  # -> (B, rows, columns, C, w, w)
    return x.reshape(B * rows * columns, C, window, window), padded


def window_reverse(windows: Tensor, padded: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Join what `window_partition` cut, and drop the padding.

    Args:
        windows: (B * num_windows, C, window, window).
        padded: Height and width of the padded map.
        size: Height and width of the map.

    Returns:
        Feature map, (B, C, *size).
    """
    _, C, window, _ = windows.shape
    rows, columns = padded[0] // window, padded[1] // window
    x = windows.reshape(-1, rows, columns, C, window, window)  # (B * n, C, w, w) -> (B, rows, columns, C, w, w)
    x = x.permute(0, 3, 1, 4, 2, 5)  # -> (B, C, rows, w, columns, w)
    x = x.reshape(-1, C, *padded)  # -> (B, C, padded height, padded width)
    return x[:, :, : size[0], : size[1]]


def relative_bias_index(window: int) -> Tensor:
    """Where in a head's bias table each pair of tokens of a window looks.

    The table has one value per |dy|, |dx|, row by row, so it is symmetric in both directions (Sec. 3.2).

    Args:
        window: Side of the window, in tokens.

    Returns:
        (window * window, window * window), int64, values below window * window.
    """
    row = torch.arange(window).repeat_interleave(window)
    column = torch.arange(window).repeat(window)
    return (row[:, None] - row).abs() * window + (column[:, None] - column).abs()


class WindowAttention(nn.Module):
    """Attention in windows of a feature map: cut, attend in each, join.

    A map that fits into one window is one window, however small: no padding. The mixers below
    compute what happens inside a window; this class owns everything that depends on windows: the bias
    table and the padding.

    Args:
        width: Channels in and out.
        block: Heads, dimensions, query kernels and mixer.
        window: Side of a window, in tokens.
        mask_padding: Whether padding is kept out of the attention.
        norm: Which norm.
        activation: Which activation.
    """

    bias_index: Tensor

    def __init__(
        self,
        width: int,
        block: BlockConfig,
        *,
        window: int,
        mask_padding: bool = True,
        norm: Norm = "batch",
        activation: Activation = "relu",
    ) -> None:
        super().__init__()
        self.window = window
        self.mask_padding = mask_padding
        self.attention_biases = nn.Parameter(torch.zeros(block.num_heads, window * window))
        # Not in the state dict and not derived from weights: nothing here can go stale.
        self.register_buffer("bias_index", relative_bias_index(window), persistent=False)
        mixer = MultiHeadSelfAttention if block.mixer == "mhsa" else CascadedGroupAttention
        self.mixer = mixer(width, block, norm=norm, activation=activation)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        H, W = x.shape[-2:]
        window = self.window
        if window >= H and window >= W and (self.mask_padding or H == W == window):
            return self.mixer(x, self.bias(H, W), None)  # type: ignore[no-any-return]
        windows, padded = window_partition(x, window)
        bias, inside = self.bias(window, window), None
        if self.mask_padding and padded != (H, W):
            inside = window_partition(x.new_ones(1, 1, H, W), window)[0]  # (num_windows, 1, w, w)
            outside = (inside == 0).flatten(1)[:, None, :]  # (num_windows, 1, w, w) -> (num_windows, 1, N)
            bias = bias[:, None].masked_fill(outside, float("-inf"))  # (heads, N, N) -> (heads, num_windows, N, N)
            bias = bias.repeat(1, x.shape[0], 1, 1)  # -> (heads, B * num_windows, N, N)
            inside = inside.repeat(x.shape[0], 1, 1, 1)  # -> (B * num_windows, 1, w, w)
        windows = self.mixer(windows, bias, inside)
        return window_reverse(windows, padded, (H, W))

    def bias(self, height: int, width: int) -> Tensor:
        """Bias of each head for a window of `height` x `width` tokens, no larger than the window.

        Gathered anew in every call: a cached copy is stale after loading weights or a step of an
        average of weights, which is the official code's best hidden defect.

        Returns:
            (num_heads, height * width, height * width).
        """
        window = self.window
        index = self.bias_index
        if (height, width) != (window, window):
            index = index.reshape(window, window, window, window)  # (N, N) -> (y, x, y', x')
            index = index[:height, :width, :height, :width].reshape(height * width, height * width)
        # index_select is twice as fast as indexing with a tensor, forward and backward.
        table = self.attention_biases.index_select(1, index.reshape(-1))
        return table.reshape(-1, *index.shape)  # (heads, N * N) -> (heads, N, N)


class CascadedGroupAttention(nn.Module):
    """Each head attends over its own split of the channels plus what the head before it found (Eq. 2-4).

    Args:
        width: Channels in and out.
        block: Heads, dimensions, query kernels; `mixer="grouped"` leaves the cascade out (Table 6, row 6).
        norm: Which norm.
        activation: Which activation.

    Where a head's values are not as wide as its split (Fig. 7), the cascade adds the channels that both
    have; the paper does not say what it did.
    """

    def __init__(
        self, width: int, block: BlockConfig, *, norm: Norm = "batch", activation: Activation = "relu"
    ) -> None:
        super().__init__()
        self.cascade = block.mixer == "cascaded"
        self.dims = [block.key_dim, block.key_dim, block.value_dim]
        self.scale = block.key_dim**-0.5
        split = width // block.num_heads
        self.qkv = nn.ModuleList(ConvNorm(split, sum(self.dims), norm=norm) for _ in range(block.num_heads))
        self.query = _query_convolutions(block, norm)
        self.act = ACTIVATIONS[activation]()
        self.project = ConvNorm(block.num_heads * block.value_dim, width, norm=norm, zero_init=True)

    def forward(self, x: Tensor, bias: Tensor, inside: Tensor | None) -> Tensor:
        """Attend within windows.

        Args:
            x: Windows, (B, C, H, W).
            bias: Added to the attention logits, (num_heads, N, N) or (num_heads, B, N, N), N = H * W.
            inside: 1 where a token is in the map and 0 where it is padding, (B, 1, H, W); None for no padding.

        Returns:
            (B, C, H, W).
        """
        B, _, H, W = x.shape
        splits = x.chunk(len(self.qkv), dim=1)
        outputs: list[Tensor] = []
        for head, (split, qkv, query) in enumerate(zip(splits, self.qkv, self.query, strict=True)):
            if self.cascade and outputs:
                split = _add_common_channels(split, outputs[-1])
            q, k, v = qkv(split).split(self.dims, dim=1)  # (B, C', H, W) -> (B, dim, H, W) each
            q = query(q if inside is None else q * inside)
            q, k, v = q.flatten(2), k.flatten(2), v.flatten(2)  # (B, dim, H, W) -> (B, dim, N)
            logits = torch.baddbmm(bias[head], q.transpose(1, 2), k, alpha=self.scale)  # (B, N, N)
            output = torch.bmm(v, logits.softmax(dim=-1).transpose(1, 2))  # (B, value_dim, N)
            outputs.append(output.reshape(B, -1, H, W))  # (B, value_dim, N) -> (B, value_dim, H, W)
        x = self.project(self.act(torch.cat(outputs, dim=1)))
        return x


class MultiHeadSelfAttention(nn.Module):
    """The usual multi-head attention, every head seeing every channel (Table 6, row 5).

    Arguments and `forward` are those of `CascadedGroupAttention`. Queries, keys and values of all heads
    come from one convolution, in this order.
    """

    def __init__(
        self, width: int, block: BlockConfig, *, norm: Norm = "batch", activation: Activation = "relu"
    ) -> None:
        super().__init__()
        self.num_heads = block.num_heads
        self.dims = [block.num_heads * dim for dim in (block.key_dim, block.key_dim, block.value_dim)]
        self.scale = block.key_dim**-0.5
        self.qkv = ConvNorm(width, sum(self.dims), norm=norm)
        self.query = _query_convolutions(block, norm)
        self.act = ACTIVATIONS[activation]()
        self.project = ConvNorm(block.num_heads * block.value_dim, width, norm=norm, zero_init=True)

    def forward(self, x: Tensor, bias: Tensor, inside: Tensor | None) -> Tensor:
        """See `CascadedGroupAttention.forward`."""
        B, _, H, W = x.shape
        q, k, v = self.qkv(x).split(self.dims, dim=1)  # (B, heads * dim, H, W) each
        if inside is not None:
            q = q * inside
        q = torch.cat([query(part) for query, part in zip(self.query, q.chunk(self.num_heads, 1), strict=True)], 1)
        q, k, v = (part.reshape(B, self.num_heads, -1, H * W) for part in (q, k, v))  # -> (B, heads, dim, N)
        if bias.dim() == 4:
            bias = bias.transpose(0, 1)  # (heads, B, N, N) -> (B, heads, N, N)
        attention = (self.scale * q.transpose(2, 3) @ k + bias).softmax(dim=-1)  # (B, heads, N, N)
        x = (v @ attention.transpose(2, 3)).reshape(B, -1, H, W)  # (B, heads, dim, N) -> (B, heads * dim, H, W)
        x = self.project(self.act(x))
        return x


def _query_convolutions(block: BlockConfig, norm: Norm) -> nn.ModuleList:
    """One depth-wise convolution per head, or as many identities."""
    if not block.query_kernels:
        return nn.ModuleList(nn.Identity() for _ in range(block.num_heads))
    dim = block.key_dim
    return nn.ModuleList(
        ConvNorm(dim, dim, kernel_size=kernel, groups=dim, norm=norm) for kernel in block.query_kernels
    )


def _add_common_channels(split: Tensor, output: Tensor) -> Tensor:
    """Add the previous head's output to a split, in the channels that both have."""
    common = min(split.shape[1], output.shape[1])
    if common == split.shape[1]:
        return split + output[:, :common]
    return torch.cat([split[:, :common] + output, split[:, common:]], dim=1)
