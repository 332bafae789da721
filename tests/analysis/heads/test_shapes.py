"""Every way to lay out heads is read back to the same maps."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from effvit.analysis.heads.shapes import by_head, stated_heads

WINDOWS, HEADS, N, M = 6, 3, 4, 5
MAPS = torch.arange(WINDOWS * HEADS * N * M).view(WINDOWS, HEADS, N, M)


@pytest.mark.parametrize(
    ("maps", "num_heads"),
    [
        ([MAPS], HEADS),
        ([MAPS], None),
        (list(MAPS.unbind(1)), None),  # a cascade: one head after another
        (list(MAPS.unbind(1)), HEADS),
        ([MAPS.flatten(0, 1)], HEADS),  # windows first, as torch's own
    ],
)
def test_read_back(maps: list[torch.Tensor], num_heads: int | None) -> None:
    read = by_head(maps, num_heads)
    assert isinstance(read, torch.Tensor) and torch.equal(read, MAPS)


def test_five_dimensions_are_told_apart_by_the_number_of_heads() -> None:
    by_picture = MAPS.view(3, 2, HEADS, N, M)  # (B, windows, heads, N, M)
    for maps in (by_picture, by_picture.transpose(1, 2)):
        read = by_head([maps], HEADS)
        assert isinstance(read, torch.Tensor) and torch.equal(read, MAPS)
    alone = by_head([MAPS[:, None, :1]], 1)
    assert isinstance(alone, torch.Tensor) and torch.equal(alone, MAPS[:, :1])


def test_heads_beside_pictures() -> None:
    beside = MAPS.view(3, 2, HEADS, N, M).transpose(1, 2).reshape(3 * HEADS, 2, N, M)  # (B * heads, windows, N, M)
    read = by_head([beside], HEADS, beside_pictures=True)
    assert isinstance(read, torch.Tensor) and torch.equal(read, MAPS)


@pytest.mark.parametrize(
    ("maps", "num_heads", "reason"),
    [
        ([MAPS], 2, "2 heads, but the softmax has shape (6, 3, 4, 5)"),
        ([MAPS[:5, 0]], 2, "2 heads, but the softmax has shape (5, 4, 5)"),
        (list(MAPS.unbind(1)), 2, "2 heads, but 3 softmaxes of shape (6, 4, 5)"),
        ([MAPS[:, 0], MAPS[:, 0, :2]], None, "different shapes, [(6, 4, 5), (6, 2, 5)]"),
        ([MAPS.view(3, 2, HEADS, N, M)], None, "does not say how many heads it has"),
        ([MAPS.view(3, 2, HEADS, N, M)], 7, "has 7 heads, and in a softmax of shape (3, 2, 3, 4, 5)"),
        ([MAPS[:, :, :3].reshape(2, 3, 3, 3, 5)], 3, "their dimension cannot be told"),
    ],
)
def test_what_cannot_be_told_is_said(maps: list[torch.Tensor], num_heads: int | None, reason: str) -> None:
    read = by_head(maps, num_heads)
    assert isinstance(read, str) and reason in read


def test_pictures_are_not_taken_for_heads() -> None:
    """A softmax without heads in a module that has some: as many pictures as heads must not change that."""
    for num_pictures in (1, 3, 6):
        expected = num_pictures == 1
        assert isinstance(by_head([MAPS[:, 0]], HEADS, num_pictures=num_pictures), torch.Tensor) is expected
    read = by_head([MAPS.flatten(0, 1)], HEADS, num_pictures=3)
    assert isinstance(read, torch.Tensor) and torch.equal(read, MAPS)


@pytest.mark.parametrize("number", [0, True, (2, 4), "3", None])
def test_only_a_number_of_heads_is_one(number: object) -> None:
    module = nn.Module()
    module.num_heads = number  # type: ignore[assignment]
    assert stated_heads(module) is None
    module.heads = 5  # type: ignore[assignment]
    assert stated_heads(module) == 5
