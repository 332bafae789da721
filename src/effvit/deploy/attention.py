"""Cascaded group attention on tokens: per head one projection, one query convolution, two products (Eq. 2-4).

What `effvit.deploy.rewrite` has worked into the numbers: the norms, the softmax scale (into the query's
convolution) and the bias of the last projection (into a convolution before).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from effvit.deploy.kernels import activate, add_linear, linear
from effvit.deploy.windows import WindowGrid
from effvit.model.config import Activation


@dataclass(frozen=True)
class WindowTables:
    """What attention adds and multiplies in a grid of windows; computed once if the picture size is known."""

    bias: Tensor
    """Added to the logits: (num_heads, N, N), or (num_heads, num_windows, N, N), -inf where a key is padding."""
    inside: Tensor | None
    """1 for tokens of the map, 0 for padding, (num_windows, N); None without padding to be kept out."""


def window_tables(table: Tensor, grid: WindowGrid) -> WindowTables:
    """The bias of each pair of tokens, for the windows of a map.

    Args:
        table: Bias of each pair in a full window, (num_heads, w * w, w * w).
        grid: The windows.
    """
    (height, width), w = grid.window_size, grid.window
    if (height, width) != (w, w):
        rows, columns = torch.arange(height, device=table.device), torch.arange(width, device=table.device)
        tokens = (rows[:, None] * w + columns).reshape(-1)  # (height, width) -> (N,)
        table = table.index_select(1, tokens).index_select(2, tokens)
    if not (grid.is_padded and grid.mask_padding):
        return WindowTables(table, None)
    inside = grid.inside(table)
    outside = (inside == 0)[:, None, :]  # (num_windows, N) -> (num_windows, 1, N)
    return WindowTables(table[:, None].masked_fill(outside, float("-inf")), inside)


class Head(nn.Module):
    """One head: queries, keys and values of its tokens, each a product of its own so that nothing is cut apart.

    Keys have no bias: it would add the same number to all logits of a query, which softmax does not see.

    Args:
        query: Weight and bias of the queries, (key_dim, in) and (key_dim,).
        key: Weight of the keys, (key_dim, in).
        value: Weight and bias of the values, (value_dim, in) and (value_dim,).
        convolution: Weight and bias of the queries' depth-wise convolution, (key_dim, 1, k, k) and (key_dim,); None
            for none.
    """

    def __init__(
        self,
        query: tuple[Tensor, Tensor],
        key: Tensor,
        value: tuple[Tensor, Tensor],
        convolution: tuple[Tensor, Tensor] | None,
    ) -> None:
        super().__init__()
        self.query_weight, self.query_bias = _fixed(query[0].t().contiguous()), _fixed(query[1])  # -> (in, key_dim)
        self.key_weight = _fixed(key.t().contiguous())  # (key_dim, in) -> (in, key_dim)
        self.value_weight, self.value_bias = _fixed(value[0].t().contiguous()), _fixed(value[1])  # -> (in, value_dim)
        self.convolution_weight = None if convolution is None else _fixed(convolution[0])
        self.convolution_bias = None if convolution is None else _fixed(convolution[1])

    def forward(self, tokens: Tensor, grid: WindowGrid, inside: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens of all windows, (B * num_windows * N, in), to queries, keys, values, (B * num_windows, N, dim)."""
        N = grid.num_tokens
        q = linear(tokens, self.query_weight, self.query_bias)
        k = linear(tokens, self.key_weight, None).reshape(-1, N, self.key_weight.shape[1])
        v = linear(tokens, self.value_weight, self.value_bias).reshape(-1, N, self.value_weight.shape[1])
        dim = q.shape[1]
        if self.convolution_weight is None:
            return q.reshape(-1, N, dim), k, v  # (B * num_windows * N, dim) -> (B * num_windows, N, dim)
        if inside is not None:
            q = q.reshape(-1, inside.numel(), dim) * inside.reshape(-1, 1)  # -> (B, num_windows * N, dim)
        q = q.reshape(-1, *grid.window_size, dim)  # -> (B * num_windows, height, width, dim)
        q = q.permute(0, 3, 1, 2)  # -> (B * num_windows, dim, height, width)
        padding = self.convolution_weight.shape[-1] // 2
        q = F.conv2d(q, self.convolution_weight, self.convolution_bias, 1, padding, 1, dim)
        q = q.permute(0, 2, 3, 1)  # (B * num_windows, dim, height, width) -> (B * num_windows, height, width, dim)
        return q.reshape(-1, N, dim), k, v  # -> (B * num_windows, N, dim)


class DenseQueryHead(nn.Module):
    """The same with the queries' convolution as one matrix per channel over all tokens of a window.

    For windows of a known size: a convolution of a few channels on 16 to 49 tokens costs torch ten times as much
    in preparing it as in doing it, and a batched product next to nothing.

    Args:
        head: What to compute, with a convolution.
        size: Height and width of the windows, in tokens.
    """

    def __init__(self, head: Head, size: tuple[int, int]) -> None:
        super().__init__()
        assert head.convolution_weight is not None and head.convolution_bias is not None
        self.query_weight = _fixed(head.query_weight.t().contiguous())  # (in, key_dim) -> (key_dim, in)
        self.query_bias = _fixed(head.query_bias[:, None].clone())
        self.query_matrix = _fixed(convolution_matrix(head.convolution_weight, size))
        self.convolution_bias = _fixed(head.convolution_bias[:, None, None].clone())
        self.dims = [head.key_weight.shape[1], head.value_weight.shape[1]]
        self.weight = _fixed(torch.cat([head.key_weight, head.value_weight], 1))  # (in, key_dim + value_dim)
        self.bias = _fixed(torch.cat([torch.zeros_like(head.query_bias), head.value_bias]))

    def forward(self, tokens: Tensor, grid: WindowGrid, inside: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """See `Head.forward`."""
        N = grid.num_tokens
        q = torch.addmm(self.query_bias, self.query_weight, tokens.t())  # (key_dim, B * num_windows * N)
        if inside is not None:
            q = q.reshape(q.shape[0], -1, inside.numel()) * inside.reshape(-1)  # -> (key_dim, B, num_windows * N)
        q = q.reshape(q.shape[0], -1, N)  # -> (key_dim, B * num_windows, N)
        q = torch.baddbmm(self.convolution_bias, q, self.query_matrix)
        kv = linear(tokens, self.weight, self.bias).reshape(-1, N, sum(self.dims))  # -> (B * num_windows, N, dims)
        k, v = kv.split_with_sizes(self.dims, 2)  # `split` is the same behind 2 us of Python
        return q.permute(1, 2, 0), k, v  # (key_dim, B * num_windows, N) -> (B * num_windows, N, key_dim)


def convolution_matrix(weight: Tensor, size: tuple[int, int]) -> Tensor:
    """A depth-wise convolution with its zero padding as a matrix per channel.

    Args:
        weight: (C, 1, k, k).
        size: Height and width of the map.

    Returns:
        (C, N, N) with N = height * width, tokens in at the second axis and out at the third.
    """
    C, N = weight.shape[0], size[0] * size[1]
    single = torch.eye(N, dtype=weight.dtype, device=weight.device).reshape(N, 1, *size)  # each token alone
    out = F.conv2d(single.expand(N, C, *size), weight, None, 1, weight.shape[-1] // 2, 1, C)
    return out.reshape(N, C, N).transpose(0, 1).contiguous()  # (N, C, height, width) -> (C, N, N)


class Attention(nn.Module):
    """All heads one after the other, then the projection; what `WindowAttention` computes.

    Args:
        heads: The heads, in order.
        cascade: Whether a head sees what the one before it found.
        weight: Of the projection, (num_heads * value_dim, C).
        bias: Of the projection, (C,); None where it has moved.
        table: See `window_tables`.
        window: Side of a window, in tokens.
        mask_padding: Whether padding is kept out of the attention.
        activation: Before the projection.
    """

    table: Tensor
    bias_in_windows: Tensor
    inside: Tensor | None

    def __init__(
        self,
        heads: list[Head],
        *,
        cascade: bool,
        weight: Tensor,
        bias: Tensor | None,
        table: Tensor,
        window: int,
        mask_padding: bool,
        activation: Activation,
    ) -> None:
        super().__init__()
        self.heads = nn.ModuleList(heads)
        self.cascade = cascade
        self.weight, self.bias = _fixed(weight.contiguous()), None if bias is None else _fixed(bias)
        self.register_buffer("table", table)
        self.register_buffer("inside", None)
        self.window, self.mask_padding, self.activation = window, mask_padding, activation
        self.grid: WindowGrid | None = None

    def fix_size(self, height: int, width: int) -> WindowGrid:
        """Compute what depends on the size of the map, in tokens; no other size is taken from then on."""
        self.grid = WindowGrid(height, width, self.window, self.mask_padding)
        tables = window_tables(self.table, self.grid)
        self.register_buffer("table", tables.bias)
        self.register_buffer("inside", tables.inside)
        return self.grid

    def make_queries_dense(self, size: tuple[int, int]) -> None:
        """Turn the queries' convolutions into matrices, for windows of this height and width."""
        heads = (
            DenseQueryHead(h, size) if isinstance(h, Head) and h.convolution_weight is not None else h
            for h in self.heads
        )
        self.heads = nn.ModuleList(heads)

    def forward(self, x: Tensor) -> Tensor:
        """`x + attention(x)`, (B, H, W, C) -> (B, H, W, C); `x` is nobody else's and its memory may be used."""
        grid = self.grid_of(x)
        if grid.is_whole:
            tokens = grid.cut(x)
            return grid.join(add_linear(tokens, self.attend(tokens, grid), self.weight, self.bias))
        return x.add_(grid.join(linear(self.attend(grid.cut(x), grid), self.weight, self.bias)))

    def grid_of(self, x: Tensor) -> WindowGrid:
        """The windows of a map (B, H, W, C)."""
        return self.grid or WindowGrid(x.shape[1], x.shape[2], self.window, self.mask_padding)

    def attend(self, tokens: Tensor, grid: WindowGrid) -> Tensor:
        """All heads, activated: (B * num_windows * N, C) -> (B * num_windows * N, num_heads * value_dim)."""
        tables = window_tables(self.table, grid) if self.grid is None else WindowTables(self.table, self.inside)
        outputs: list[Tensor] = []
        for head, part, bias in zip(self.heads, tokens.chunk(len(self.heads), 1), tables.bias.unbind(), strict=True):
            if self.cascade and outputs:
                part = add_common_channels(part, outputs[-1])
            q, k, v = head(part, grid, tables.inside)
            output = torch.bmm(_logits(q, k, bias).softmax(-1), v)  # (B * num_windows, N, value_dim)
            outputs.append(output.reshape(-1, output.shape[-1]))  # -> (B * num_windows * N, value_dim)
        return activate(torch.cat(outputs, 1), self.activation)


def _logits(q: Tensor, k: Tensor, bias: Tensor) -> Tensor:
    """`q @ k^T + bias`, (B * num_windows, N, N), for a bias (N, N) or (num_windows, N, N)."""
    if bias.dim() == 2:
        return torch.baddbmm(bias, q, k.transpose(1, 2))
    logits = torch.bmm(q, k.transpose(1, 2))
    windows = logits.reshape(-1, *bias.shape) + bias  # (B * num_windows, N, N) -> (B, num_windows, N, N)
    return windows.reshape(logits.shape)


def add_common_channels(split: Tensor, output: Tensor) -> Tensor:
    """Add the previous head's output to a split, (T, split) and (T, value_dim), in the channels that both have."""
    common = min(split.shape[1], output.shape[1])
    if common == split.shape[1]:
        return split + output[:, :common]
    return torch.cat([split[:, :common] + output, split[:, common:]], 1)


def _fixed(value: Tensor) -> nn.Parameter:
    return nn.Parameter(value, requires_grad=False)
