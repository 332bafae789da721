"""The deploy form's windows are the network's, cut with tensors of four dimensions."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from effvit.deploy.windows import WindowGrid
from effvit.model.attention import window_partition

sides = st.integers(1, 17)


@settings(max_examples=60, deadline=None)
@given(height=sides, width=sides, window=st.integers(1, 9), batch=st.integers(1, 3), mask=st.booleans())
def test_cut_is_the_networks_partition_and_join_undoes_it(
    height: int, width: int, window: int, batch: int, mask: bool
) -> None:
    grid = WindowGrid(height, width, window, mask)
    x = torch.randn(batch, height, width, 3)
    tokens = grid.cut(x)
    assert torch.equal(grid.join(tokens), x)
    assert tokens.shape == (batch * grid.num_windows * grid.num_tokens, 3)
    if not grid.is_whole:
        windows, padded = window_partition(x.permute(0, 3, 1, 2), window)  # (B, H, W, C) -> (B, C, H, W)
        expected = windows.permute(0, 2, 3, 1).reshape(-1, 3)  # (n, C, w, w) -> (n * w * w, C)
        assert torch.equal(tokens, expected)
        assert padded == (height + grid.padding[0], width + grid.padding[1])


@pytest.mark.parametrize(
    ("size", "mask", "whole"),
    [((7, 7), False, True), ((7, 5), False, False), ((7, 5), True, True), ((8, 5), True, False), ((1, 1), True, True)],
)
def test_a_map_that_fits_is_one_window_unless_padding_takes_part(
    size: tuple[int, int], mask: bool, whole: bool
) -> None:
    assert WindowGrid(*size, 7, mask).is_whole == whole


def test_inside_marks_the_tokens_of_the_map() -> None:
    inside = WindowGrid(3, 4, 2).inside(torch.zeros(1, dtype=torch.float64))
    assert inside.tolist() == [[1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 0, 0]]
