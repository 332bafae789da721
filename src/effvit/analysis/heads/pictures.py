"""The maps themselves, as a grid of pictures: the photo with its window, and what each head looks at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from effvit.analysis.heads.capture import AttentionCall, watch_attention
from effvit.analysis.heads.layout import Layout, find_layout
from effvit.analysis.heads.similarity import likeness
from effvit.data.transforms import normalize
from effvit.preprocessing import Preprocessing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_HEADS_DRAWN = 8
"""Heads of a block that are drawn; the others are left out, and it is said."""
_CENTRE = (0.5, 0.5)


@dataclass(frozen=True, kw_only=True, eq=False)
class WindowMaps:
    """What the heads of one attention look at in one window of one picture."""

    name: str
    """Dotted name of the attention's module."""
    maps: NDArray[np.float64]
    """(heads, N, M)."""
    cosine: NDArray[np.float64]
    """Cosine similarity of every two heads in this window, (heads, heads)."""
    window: int
    """Which of the picture's windows, from 0, row by row: the one over the middle of the picture, if that is known."""
    num_windows: int
    """Windows of the picture."""
    layout: Layout | None
    """Where its tokens are; None where that is not known."""


def window_maps(
    network: nn.Module, photo: Tensor, preprocessing: Preprocessing, names: Sequence[str]
) -> list[WindowMaps]:
    """Maps of some attentions for one picture, in the window over its middle.

    Args:
        network: See `attention_maps`.
        photo: The picture as it is fed, uint8, (3, H, W).
        preprocessing: How it is normalised.
        names: Of the attentions wanted, as `HeadSimilarity` has them.
    """
    device = next((parameter.device for parameter in network.parameters()), torch.device("cpu"))
    num_prefix = getattr(network, "num_prefix_tokens", 0)
    found: list[WindowMaps] = []

    def take(call: AttentionCall) -> None:
        if call.name not in names:
            return
        height, width = photo.shape[1:]
        layout = find_layout(call, num_pictures=1, image_size=(height, width), num_prefix=num_prefix)
        num_windows = len(call.maps)
        window = num_windows // 2 if layout is None else layout.window_over(_CENTRE)
        maps = call.maps[window : window + 1].cpu()
        inside = None if call.inside is None else call.inside[window : window + 1].cpu()
        found.append(
            WindowMaps(
                name=call.name,
                maps=maps[0].double().numpy(),
                cosine=likeness(maps, inside).cosine[0].numpy(),
                window=window,
                num_windows=num_windows,
                layout=layout,
            )
        )

    with torch.no_grad(), watch_attention(network, take):
        network(normalize(photo[None].to(device), preprocessing))
    return found


def draw_window_maps(photo: Tensor, blocks: Sequence[WindowMaps], labels: Mapping[str, str], title: str) -> Figure:
    """Two rows for each attention: what its heads look at from the window's middle, and their whole maps.

    Args:
        photo: The picture as it was fed, uint8, (3, H, W).
        blocks: At least one.
        labels: What to call each, by its name.
        title: What to write above.
    """
    from matplotlib.figure import Figure  # slow to import; the object, as pyplot would keep global state

    pixels = photo.permute(1, 2, 0).numpy()  # (3, H, W) -> (H, W, 3)
    num_columns = 1 + max(min(len(block.maps), MAX_HEADS_DRAWN) for block in blocks)
    side = 1.55
    figure = Figure(figsize=(side * num_columns, 2 * len(blocks) * (side + 0.12) + 0.4), layout="constrained")
    figure.suptitle(title, fontsize=10)
    grid: NDArray[Any] = figure.subplots(2 * len(blocks), num_columns, squeeze=False)
    for panel in grid.flat:
        panel.set_xticks([])
        panel.set_yticks([])
        panel.axis("off")
    for index, block in enumerate(blocks):
        above, below = grid[2 * index], grid[2 * index + 1]
        token = _middle_token(block)
        above[0].set_title(labels[block.name], fontsize=7, loc="left")
        _draw_photo(above[0], pixels, block, token)
        _describe(below[0], block)
        for head in range(min(len(block.maps), MAX_HEADS_DRAWN)):
            above[head + 1].set_title(_head_title(block, head), fontsize=7)
            if token is not None:
                _draw_looks(above[head + 1], pixels, block, head, token)
            below[head + 1].axis("on")
            N, M = block.maps[head].shape
            aspect: Any = "equal" if N == M else "auto"
            below[head + 1].imshow(
                block.maps[head] ** 0.5, cmap="magma", aspect=aspect, interpolation="nearest", vmin=0
            )
    return figure


def _middle_token(block: WindowMaps) -> int | None:
    """The token of the window nearest to the middle of its part of the picture; None where places are unknown."""
    if block.layout is None:
        return None
    positions = block.layout.positions[block.window].astype(float)
    positions[positions[:, 0] < 0] = np.nan
    distance = ((positions - np.nanmean(positions, axis=0)) ** 2).sum(1)
    return int(np.nanargmin(distance))


def _draw_photo(panel: Axes, pixels: NDArray[np.uint8], block: WindowMaps, token: int | None) -> None:
    panel.imshow(pixels)
    if block.layout is None or token is None:
        return
    height, width = pixels.shape[:2]
    inside = _on_grid(block.layout, block.window, np.ones(len(block.layout.positions[block.window])))
    # Contours of the tokens' squares; the image is the size of the photo, so that shifted windows may wrap around.
    shaded = np.where(np.isnan(inside), 0.45, 0.0)
    panel.imshow(np.dstack([np.ones((*shaded.shape, 3)), shaded]), extent=(-0.5, width - 0.5, height - 0.5, -0.5))
    row, column = block.layout.positions[block.window][token] + 0.5
    panel.plot(column * width / block.layout.grid[1] - 0.5, row * height / block.layout.grid[0] - 0.5, "o", **_DOT)


_DOT: dict[str, Any] = {
    "markersize": 4,
    "markerfacecolor": "#c23b22",
    "markeredgecolor": "white",
    "markeredgewidth": 0.7,
}


def _draw_looks(panel: Axes, pixels: NDArray[np.uint8], block: WindowMaps, head: int, token: int) -> None:
    """How much one token looks at each token of its window, over the grey photo."""
    layout = block.layout
    assert layout is not None
    height, width = pixels.shape[:2]
    row = block.maps[head, layout.num_prefix + token, layout.num_prefix :]
    values = _on_grid(layout, block.window, row)
    grey = pixels.mean(2)
    panel.imshow(grey, cmap="gray", vmin=0, vmax=255)
    extent = (-0.5, width - 0.5, height - 0.5, -0.5)
    panel.imshow(values, cmap="magma", alpha=0.75, interpolation="nearest", extent=extent, vmin=0)
    positions = layout.positions[block.window]
    known = positions[positions[:, 0] >= 0]
    scale = np.array([height, width]) / layout.grid
    top, left = known.min(0) * scale - 0.5
    bottom, right = (known.max(0) + 1) * scale - 0.5
    panel.set_xlim(left, right)
    panel.set_ylim(bottom, top)


def _on_grid(layout: Layout, window: int, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """One value for each token of a window, on the map of tokens; NaN elsewhere."""
    grid = np.full(layout.grid, np.nan)
    positions = layout.positions[window]
    known = positions[:, 0] >= 0
    grid[positions[known, 0], positions[known, 1]] = values[known]
    return grid


def _describe(panel: Axes, block: WindowMaps) -> None:
    heads, N, M = block.maps.shape
    lines = [f"{heads} heads", f"{N} queries (down)", f"x {M} keys"]
    if block.num_windows > 1:
        lines.append(f"window {block.window + 1} of {block.num_windows}")
    if block.layout is None:
        lines.append("places unknown")
    if heads > MAX_HEADS_DRAWN:
        lines.append(f"first {MAX_HEADS_DRAWN} shown")
    panel.text(0.0, 0.5, "\n".join(lines), fontsize=7, va="center", transform=panel.transAxes)


def _head_title(block: WindowMaps, head: int) -> str:
    if len(block.maps) == 1:
        return "the only head"
    others = block.cosine[head].copy()
    others[head] = -np.inf
    return f"head {head + 1}: {others.max():.2f} with {others.argmax() + 1}"
