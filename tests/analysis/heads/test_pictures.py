"""Picture grids show the maps that were measured, in the window over the middle."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from attention_networks import Fixed, ours, timm_network
from torch import nn

from effvit.analysis.heads.capture import attention_maps
from effvit.analysis.heads.pictures import MAX_HEADS_DRAWN, draw_window_maps, window_maps
from effvit.data.transforms import normalize
from effvit.preprocessing import Preprocessing


def photo(side: int) -> torch.Tensor:
    return torch.randint(0, 256, (3, side, side), dtype=torch.uint8)


@pytest.mark.parametrize(("name", "side"), [("ours", 96), ("swin_tiny_patch4_window7_224", 56)])
def test_they_are_the_maps_of_the_network(name: str, side: int) -> None:
    network = (ours() if name == "ours" else timm_network(name)).float()
    pixels, preprocessing = photo(side), Preprocessing(image_size=(side, side))
    expected = attention_maps(network, normalize(pixels[None], preprocessing))
    names = list(expected)[:2]
    found = window_maps(network, pixels, preprocessing, names)
    assert [block.name for block in found] == names
    for block in found:
        maps = expected[block.name]
        assert block.num_windows == len(maps) and block.layout is not None
        assert np.allclose(block.maps, maps[block.window].numpy())
        flat = torch.nn.functional.normalize(maps[block.window].flatten(1), dim=1)
        assert np.allclose(block.cosine, (flat @ flat.T).numpy(), atol=1e-6)
        middle = np.array(block.layout.grid) / 2 - 0.5
        nearest = [np.abs(positions - middle).sum(1).min() for positions in block.layout.positions]
        assert nearest[block.window] == min(nearest)


def test_what_is_drawn_is_where_it_is_looked_at() -> None:
    """The enlarged window shows the photo's own part, and the brightest square is the token looked at most."""
    network = ours().float()
    (block, *_) = window_maps(
        network, photo(96), Preprocessing(image_size=(96, 96)), ["stages.0.0.attention.body.mixer"]
    )
    figure = draw_window_maps(photo(96), [block], {block.name: "block 1"}, "title")
    panels = figure.axes
    assert len(panels) == 2 * (1 + 2)
    looks = panels[1]
    grid = looks.images[1].get_array()
    assert grid.shape == (6, 6) and np.isfinite(grid).sum() == 16  # one window of 4 x 4 tokens
    row = block.maps[0, _middle(block)]
    brightest = np.unravel_index(np.nanargmax(np.ma.filled(grid, np.nan)), grid.shape)
    assert block.layout is not None
    assert tuple(block.layout.positions[block.window][row.argmax()]) == brightest
    assert looks.get_xlim() == (-0.5, 63.5) and looks.get_ylim() == (63.5, -0.5)
    assert np.allclose(panels[4].images[0].get_array(), block.maps[0] ** 0.5)
    assert panels[1].get_title().startswith("head 1: ") and panels[1].get_title().endswith(" with 2")


def test_class_and_distillation_tokens_have_no_place() -> None:
    network = timm_network("deit_tiny_distilled_patch16_224").float()
    (block,) = window_maps(network, photo(48), Preprocessing(image_size=(48, 48)), ["blocks.1.attn"])
    assert block.layout is not None and block.layout.num_prefix == 2 and block.maps.shape == (3, 11, 11)
    figure = draw_window_maps(photo(48), [block], {block.name: "block 2"}, "title")
    # From the middle of 3 x 3 patches, which is token 2 + 4, to the patches.
    assert np.allclose(figure.axes[2].images[1].get_array(), block.maps[1, 6, 2:].reshape(3, 3))


def test_padding_is_not_drawn() -> None:
    """6 x 6 tokens in windows of 4: of the last window 2 x 2 tokens lie in the picture."""
    name = "stages.0.0.attention.body.mixer"
    (block,) = window_maps(ours().float(), photo(96), Preprocessing(image_size=(96, 96)), [name])
    maps = np.arange(2 * 16 * 16).reshape(2, 16, 16) + 1.0
    figure = draw_window_maps(photo(96), [replace(block, window=3, maps=maps)], {name: ""}, "title")
    grid = np.ma.filled(figure.axes[1].images[1].get_array(), np.nan)
    assert np.isfinite(grid).sum() == 4
    assert (np.diff(grid[4:, 4:].ravel()) == [1, 3, 1]).all()  # tokens 0, 1, 4, 5 of the window
    assert figure.axes[1].get_xlim() == (63.5, 95.5)


def _middle(block) -> int:  # type: ignore[no-untyped-def]
    positions = block.layout.positions[block.window]
    return int(((positions - positions.mean(0)) ** 2).sum(1).argmin())


def test_many_heads_unknown_places_and_a_single_head() -> None:
    maps = torch.rand(4, 12, 6, 5).softmax(-1)

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.many, self.one = Fixed(maps), Fixed(maps[:, :1])

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.many(x) + self.one(x)

    many, one = window_maps(Two(), photo(32), Preprocessing(image_size=(32, 32)), ["many", "one"])
    assert many.layout is None and (many.window, many.num_windows) == (2, 4)
    figure = draw_window_maps(photo(32), [many, one], {"many": "a", "one": "b"}, "title")
    assert len(figure.axes) == 4 * (1 + MAX_HEADS_DRAWN)
    texts = " ".join(text.get_text() for panel in figure.axes for text in panel.texts)
    assert "places unknown" in texts and "first 8 shown" in texts and "window 3 of 4" in texts
    assert "the only head" in [panel.get_title() for panel in figure.axes]
