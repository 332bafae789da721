"""Where the tokens of an attention map lie in the picture, for the attentions of which that is known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray
from timm.models.swin_transformer import SwinTransformerBlock
from timm.models.swin_transformer_v2 import SwinTransformerV2Block

from effvit.analysis.heads.capture import AttentionCall
from effvit.model.attention import WindowAttention


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The tokens of one picture's windows."""

    grid: tuple[int, int]
    """Height and width of the map of tokens, without padding."""
    num_prefix: int
    """Tokens before those of the map that stand for no place: class, distillation and register tokens."""
    positions: NDArray[np.int64]
    """Row and column of each token in the map, (windows, N - num_prefix, 2); -1 where it is padding."""

    def window_over(self, place: tuple[float, float]) -> int:
        """The window with a token nearest to a place of the picture, (down, right) each in 0..1."""
        wanted = np.array(place) * self.grid - 0.5
        distance = ((self.positions - wanted) ** 2).sum(2).astype(float)
        distance[self.positions[..., 0] < 0] = np.inf
        return int(distance.min(1).argmin())


def find_layout(
    call: AttentionCall, *, num_pictures: int, image_size: tuple[int, int], num_prefix: int = 0
) -> Layout | None:
    """Find where the tokens lie: ours, timm's Swin and Swin V2, and attention over the whole picture; None for others.

    Args:
        call: The attention.
        num_pictures: Pictures of its batch.
        image_size: Height and width of the pictures, in pixels.
        num_prefix: Class, distillation and register tokens, as timm's networks say by `num_prefix_tokens`.
    """
    num_windows, _, N, M = call.maps.shape
    if N != M or num_windows % num_pictures:
        return None
    num_windows //= num_pictures
    for entered in reversed(call.modules):
        module, shape = entered.module, entered.input_shape
        if isinstance(module, WindowAttention):
            height, width = shape[-2:]
            is_whole = num_windows == 1 and height * width == N
            window = (height, width) if is_whole else (module.window, module.window)
            return _windows(num_windows, (height, width), window, (0, 0))
        if isinstance(module, SwinTransformerBlock | SwinTransformerV2Block):
            _, height, width, _ = shape
            window = cast("tuple[int, int]", tuple(module.window_size))
            shift = cast("tuple[int, int]", tuple(module.shift_size))
            return _windows(num_windows, (height, width), window, shift)
    if num_windows == 1:
        return _whole_picture(N, image_size, num_prefix) or _whole_picture(N, image_size, 0)
    return None


def _windows(num_windows: int, grid: tuple[int, int], window: tuple[int, int], shift: tuple[int, int]) -> Layout | None:
    """Windows row by row over a map that was rolled by the shift and then padded at bottom and right."""
    (height, width), (down, right) = grid, window
    rows, columns = -(-height // down), -(-width // right)
    if rows * columns != num_windows:
        return None
    row, column = np.meshgrid(np.arange(rows * down), np.arange(columns * right), indexing="ij")
    padding = (row >= height) | (column >= width)
    places = np.stack([(row + shift[0]) % height, (column + shift[1]) % width], axis=-1)
    places[padding] = -1
    places = places.reshape(rows, down, columns, right, 2).transpose(0, 2, 1, 3, 4)
    return Layout(grid=grid, num_prefix=0, positions=places.reshape(num_windows, down * right, 2))


def _whole_picture(num_tokens: int, image_size: tuple[int, int], num_prefix: int) -> Layout | None:
    """A map of square patches of the whole picture, if a number of tokens can be one."""
    count = num_tokens - num_prefix
    height = round((count * image_size[0] / image_size[1]) ** 0.5)
    if height < 1 or count % height or height * image_size[1] != count // height * image_size[0]:
        return None
    layout = _windows(1, (height, count // height), (height, count // height), (0, 0))
    assert layout is not None
    return Layout(grid=layout.grid, num_prefix=num_prefix, positions=layout.positions)
