from __future__ import annotations

import copy

import pytest
import torch
from helpers import relative_error
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import MultiScaleRoIAlign, roi_align

from effvit.detection.architectures import PROPOSAL_SCALES, RETINANET_SCALES
from effvit.detection.levels import StrideAnchors, StrideRoIAlign


def anchors_of(generator: StrideAnchors, height: int, width: int, maps: list[tuple[int, int]], dtype=torch.float64):
    images = ImageList(torch.zeros(2, 3, height, width), [(height, width)] * 2)
    return generator(images, [torch.zeros(2, 1, *size, dtype=dtype) for size in maps])


def test_retinanet_anchors_by_hand() -> None:
    """Stride 8: squares of 32, 32 * 2^(1/3), 32 * 2^(2/3), each also half as high and twice as high of equal area."""
    first, second = anchors_of(StrideAnchors((8, 16), RETINANET_SCALES), 16, 24, [(2, 3), (1, 2)])
    assert torch.equal(first, second)
    assert first.shape == (9 * (6 + 2), 4)
    # Ratios .5, 1, 2 by sizes; half of width and height of each, from a table of 32 * 2^(k/3) / 2 and its sqrt(2).
    halves = [
        *[(22.627417, 11.313708), (28.508759, 14.254379), (35.918786, 17.959393)],
        *[(16.0, 16.0), (20.158737, 20.158737), (25.398417, 25.398417)],
        *[(11.313708, 22.627417), (14.254379, 28.508759), (17.959393, 35.918786)],
    ]
    expected = torch.tensor([(-x, -y, x, y) for x, y in halves]).double()
    assert relative_error(first[:9], expected) < 1e-7
    # Then cell by cell along the row: the second cell of the first row is at (8, 0), that of the second row at (0, 8).
    assert relative_error(first[9:18], expected + torch.tensor([8, 0, 8, 0])) < 1e-7
    assert relative_error(first[27:36], expected + torch.tensor([0, 8, 0, 8])) < 1e-7
    # The next level's are twice as large; its second cell is at (16, 0).
    assert relative_error(first[63:], 2 * expected + torch.tensor([16, 0, 16, 0])) < 1e-7


def test_proposal_anchors_by_hand() -> None:
    found = anchors_of(StrideAnchors((4,), PROPOSAL_SCALES), 4, 4, [(1, 1)])[0]
    x, y = 22.627417, 11.313708
    assert relative_error(found, torch.tensor([(-x, -y, x, y), (-16, -16, 16, 16), (-y, -x, y, x)]).double()) < 1e-7


def test_anchors_keep_their_stride_where_torchvision_guesses_another() -> None:
    """96 pixels have two cells of stride 64, and 96 / 2 = 48."""
    found = anchors_of(StrideAnchors((64,), (8.0,)), 96, 96, [(2, 2)])[0]
    centres = (found[:, :2] + found[:, 2:]) / 2
    assert centres[::3].tolist() == [[0, 0], [64, 0], [0, 64], [64, 64]]


def test_anchors_are_precise_in_every_format_and_remember_none() -> None:
    generator = StrideAnchors((8,), RETINANET_SCALES)
    expected = anchors_of(generator, 1336, 1336, [(167, 167)], torch.float32)[0]
    half = anchors_of(generator, 1336, 1336, [(167, 167)], torch.bfloat16)[0]
    assert half.dtype == torch.float32 and torch.equal(half, expected)
    assert torch.equal(anchors_of(generator, 1336, 1336, [(167, 167)], torch.float32)[0], expected)
    assert anchors_of(copy.deepcopy(generator), 8, 8, [(1, 1)])[0].dtype == torch.float64


def levels(height: int, width: int, strides: tuple[int, ...], dtype=torch.float64) -> dict[str, torch.Tensor]:
    sizes = [(-(-height // stride), -(-width // stride)) for stride in strides]
    return {str(index): torch.randn(1, 3, *size, dtype=dtype) for index, size in enumerate(sizes)}


def test_a_boxs_size_decides_its_level() -> None:
    """Areas below 112^2 belong to stride 4, then each doubling of the side to the next."""
    strides = (4, 8, 16, 32)
    pool = StrideRoIAlign(strides, 7)
    x = levels(512, 512, (*strides, 64))
    for side, level in ((20, 0), (111, 0), (113, 1), (223, 1), (225, 2), (449, 3), (500, 3)):
        box = torch.tensor([[3.0, 5.0, 3.0 + side, 5.0 + side]]).double()
        expected = roi_align(x[str(level)], [box], 7, spatial_scale=1 / strides[level], sampling_ratio=0)
        assert torch.equal(pool(x, [box], [(512, 512)]), expected), side


def test_the_first_picture_decides_nothing() -> None:
    """Torchvision's own takes a wrong stride from a small picture, and keeps it."""
    strides = (4, 8, 16, 32)
    large, small = levels(512, 512, strides), levels(64, 64, strides)
    box = torch.tensor([[10.0, 20.0, 400.0, 500.0]]).double()
    ours, theirs = StrideRoIAlign(strides, 7), MultiScaleRoIAlign(["0", "1", "2", "3"], 7, sampling_ratio=0)
    fresh = copy.deepcopy(theirs)
    for pool in (ours, theirs):
        pool(small, [box.clamp(max=40)], [(40, 40)])
    expected = fresh(large, [box], [(512, 512)])
    assert torch.equal(ours(large, [box], [(512, 512)]), expected)
    assert theirs.scales != fresh.scales


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_pools_half_precision_at_the_boxes_precision(dtype: torch.dtype) -> None:
    pool = StrideRoIAlign((4, 8), 2)
    x = levels(1400, 64, (4, 8), dtype)
    box = torch.tensor([[3.3, 1301.3, 33.7, 1337.7]])
    found = pool(x, [box], [(1400, 64)])
    expected = pool({name: features.float() for name, features in x.items()}, [box], [(1400, 64)])
    assert found.dtype == dtype
    assert relative_error(found.float(), expected) < 0.01
