"""How a feature map in token-major layout is cut into attention windows, with tensors of at most four dimensions.

With the channels last, a row of a window is one run of memory, so that cutting and joining are one permutation of
four axes each; some runtimes know no tensor of more.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class WindowGrid:
    """The windows of a map of `height` x `width` tokens: as `effvit.model.attention.WindowAttention` lays them.

    A map that fits into one window is one window, however small, unless padding takes part in the attention.

    While a graph for maps of any size is made, height and width are symbols. Then nothing is decided by them: the
    map is always cut, and padded by rows and columns that may turn out to be none. That is the same function: padding
    that is kept out cannot be told from its absence. Divisions are of positive numbers: ONNX rounds towards zero.
    """

    height: int
    """Rows of the map, in tokens."""
    width: int
    """Columns of the map, in tokens."""
    window: int
    """Side of a window, in tokens."""
    mask_padding: bool = True
    """Whether padding is kept out of the attention."""

    @cached_property
    def is_symbolic(self) -> bool:
        """Whether the size of the map is not known yet; torch.jit traces with tensors that have one."""
        return any(type(side) is not int and not isinstance(side, Tensor) for side in (self.height, self.width))

    @cached_property
    def is_whole(self) -> bool:
        """Whether the map is one window as it is: nothing to cut."""
        if self.is_symbolic:
            return False
        height, width, window = self.height, self.width, self.window
        return window >= height and window >= width and (self.mask_padding or height == width == window)

    @cached_property
    def num_rows(self) -> int:
        """Windows from top to bottom."""
        return 1 if self.is_whole else (self.height + self.window - 1) // self.window

    @cached_property
    def num_columns(self) -> int:
        """Windows from left to right."""
        return 1 if self.is_whole else (self.width + self.window - 1) // self.window

    @cached_property
    def num_windows(self) -> int:
        """Windows in a map."""
        return self.num_rows * self.num_columns

    @cached_property
    def window_size(self) -> tuple[int, int]:
        """Height and width of one window, in tokens."""
        return (self.height, self.width) if self.is_whole else (self.window, self.window)

    @cached_property
    def num_tokens(self) -> int:
        """Tokens in a window."""
        return self.window_size[0] * self.window_size[1]

    @cached_property
    def padding(self) -> tuple[int, int]:
        """Rows below and columns right of the map that the windows reach over it."""
        rows, columns = self.window_size
        return self.num_rows * rows - self.height, self.num_columns * columns - self.width

    @cached_property
    def is_padded(self) -> bool:
        """Whether the windows reach over the map, or may do so."""
        return self.is_symbolic or self.padding != (0, 0)

    def cut(self, x: Tensor) -> Tensor:
        """Map to windows, padding with zeros: (B, H, W, C) -> (B * num_windows * N, C), tokens window by window."""
        C = x.shape[-1]
        if self.is_whole:
            return x.reshape(-1, C)  # (B, H, W, C) -> (B * N, C)
        if self.is_padded:
            x = F.pad(x, (0, 0, 0, self.padding[1], 0, self.padding[0]))
        w = self.window
        x = x.reshape(-1, w, self.num_columns, w * C)  # (B, H, W, C) -> (B * rows, w, columns, w * C)
        x = x.transpose(1, 2)  # -> (B * rows, columns, w, w * C)
        return x.reshape(-1, C)

    def join(self, tokens: Tensor) -> Tensor:
        """Windows to map, dropping the padding: (B * num_windows * N, C) -> (B, H, W, C)."""
        C, w = tokens.shape[-1], self.window
        if self.is_whole:
            return tokens.reshape(-1, self.height, self.width, C)
        x = tokens.reshape(-1, self.num_columns, w, w * C)  # -> (B * rows, columns, w, w * C)
        x = x.transpose(1, 2)  # -> (B * rows, w, columns, w * C)
        x = x.reshape(-1, self.num_rows * w, self.num_columns * w, C)  # -> (B, padded height, padded width, C)
        return x[:, : self.height, : self.width] if self.is_padded else x

    def inside(self, like: Tensor) -> Tensor:
        """1 for a token of the map and 0 for padding, (num_windows, N), in the dtype and on the device of `like`."""
        ones = like.new_ones(1, self.height, self.width, 1)
        return self.cut(ones).reshape(self.num_windows, self.num_tokens)  # (num_windows * N, 1) -> (num_windows, N)
