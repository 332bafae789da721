"""The neck against the paper's description written down step by step, with loops and no library layers."""

from __future__ import annotations

import math

import pytest
import torch
from helpers import randomise, relative_error
from torch import Tensor, nn

from effvit.detection.neck import PYRAMIDS, PyramidNeck
from effvit.errors import ConfigError

OURS = [(5, 16), (6, 32), (7, 64)]


def slow_conv(x: Tensor, layer: nn.Module, *, stride: int = 1) -> Tensor:
    """A convolution as its definition says: each output is a sum over a neighbourhood, zeros outside the map."""
    weight, bias = layer.weight, layer.bias
    B, C, H, W = x.shape
    kernel = weight.shape[-1]
    around = kernel // 2
    padded = torch.zeros(B, C, H + 2 * around, W + 2 * around, dtype=x.dtype)
    padded[:, :, around : around + H, around : around + W] = x
    out = torch.zeros(B, len(weight), math.ceil(H / stride), math.ceil(W / stride), dtype=x.dtype)
    for row in range(out.shape[2]):
        for column in range(out.shape[3]):
            patch = padded[:, :, row * stride : row * stride + kernel, column * stride : column * stride + kernel]
            out[:, :, row, column] = torch.einsum("bcij,ocij->bo", patch, weight) + bias
    return out


def slow_doubling(x: Tensor, layer: nn.ConvTranspose2d) -> Tensor:
    """Each cell becomes 2 x 2 cells, each with a matrix of its own."""
    B, _, H, W = x.shape
    out = torch.zeros(B, layer.weight.shape[1], 2 * H, 2 * W, dtype=x.dtype)
    for row in range(2 * H):
        for column in range(2 * W):
            matrix = layer.weight[:, :, row % 2, column % 2]  # (C in, C out)
            out[:, :, row, column] = x[:, :, row // 2, column // 2] @ matrix + layer.bias
    return out


def slow_repeat(x: Tensor, height: int, width: int) -> Tensor:
    """The nearest coarse cell of each fine one."""
    rows = [row * x.shape[2] // height for row in range(height)]
    columns = [column * x.shape[3] // width for column in range(width)]
    return x[:, :, rows][:, :, :, columns]


def slow_neck(neck: PyramidNeck, maps: list[Tensor]) -> list[Tensor]:
    sums: list[Tensor] = []
    for layer, x in reversed(list(zip(neck.lateral, maps, strict=True))):
        lateral = slow_conv(x, layer)
        sums.append(lateral + slow_repeat(sums[-1], *lateral.shape[2:]) if sums else lateral)
    from_coarse = list(sums)
    for layer in neck.upsample:
        from_coarse.append(slow_doubling(from_coarse[-1], layer))
    levels = [slow_conv(x, layer) for layer, x in zip(neck.output, reversed(from_coarse), strict=True)]
    for index, layer in enumerate(neck.extra):
        before = maps[-1] if index == 0 else levels[-1].clamp(min=0)
        levels.append(slow_conv(before, layer, stride=2))
    return levels


def maps_of(shapes: list[tuple[int, int]], height: int, width: int) -> list[Tensor]:
    return [
        torch.randn(2, channels, math.ceil(height / stride), math.ceil(width / stride)).double()
        for channels, stride in shapes
    ]


@pytest.mark.parametrize("size", [(128, 192), (100, 171), (33, 64)])
@pytest.mark.parametrize(
    ("shapes", "task"),
    [
        (OURS, "boxes"),
        (OURS, "masks"),
        ([(5, 8), (6, 16), (7, 32)], "boxes"),
        ([(3, 4), (5, 8), (6, 16), (7, 32)], "masks"),
        ([(5, 32)], "boxes"),
    ],
)
def test_as_described(shapes: list[tuple[int, int]], task: str, size: tuple[int, int]) -> None:
    finest, coarsest = PYRAMIDS[task]
    neck = randomise(PyramidNeck(shapes, finest=finest, coarsest=coarsest, channels=4)).double()
    maps = maps_of(shapes, *size)
    with torch.no_grad():
        found, expected = neck(maps), slow_neck(neck, maps)
    assert len(found) == len(neck.strides)
    for level, slow in zip(found, expected, strict=True):
        assert level.shape == slow.shape
        assert relative_error(level, slow) < 1e-12


@pytest.mark.parametrize(
    ("shapes", "task", "strides", "num_upsample", "num_extra"),
    [
        (OURS, "boxes", (8, 16, 32, 64, 128), 1, 1),
        (OURS, "masks", (4, 8, 16, 32, 64), 2, 0),
        ([(5, 8), (6, 16), (7, 32)], "boxes", (8, 16, 32, 64, 128), 0, 2),
        ([(3, 4), (5, 8), (6, 16), (7, 32)], "masks", (4, 8, 16, 32, 64), 0, 1),
    ],
)
def test_levels(
    shapes: list[tuple[int, int]], task: str, strides: tuple[int, ...], num_upsample: int, num_extra: int
) -> None:
    """Defect 12: the official neck fails without a transposed convolution."""
    finest, coarsest = PYRAMIDS[task]
    neck = PyramidNeck(shapes, finest=finest, coarsest=coarsest, channels=8)
    assert neck.strides == strides
    assert (len(neck.upsample), len(neck.extra)) == (num_upsample, num_extra)
    levels = neck([x.float() for x in maps_of(shapes, 256, 384)])
    assert [tuple(x.shape) for x in levels] == [(2, 8, 256 // stride, 384 // stride) for stride in strides]


def test_begins_with_xavier_uniform_and_no_bias() -> None:
    neck = PyramidNeck([(30, 16), (40, 32), (50, 64)], finest=8, coarsest=128, channels=64)
    for layer in neck.modules():
        if isinstance(layer, nn.Conv2d):
            taps = layer.weight[0, 0].numel()
            bound = math.sqrt(6 / (taps * (layer.in_channels + layer.out_channels)))
            assert bound * 0.95 < layer.weight.abs().max() <= bound
            assert not layer.bias.any()


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ([(5, 16), (6, 16)], r"strides double from one to the next, got strides \[16, 16\]"),
        ([(5, 8), (6, 32)], r"strides double from one to the next, got strides \[8, 32\]"),
        ([], r"strides double from one to the next, got strides \[\]"),
        ([(5, 4), (6, 8)], r"a pyramid of strides \[8, 16, 32, 64, 128\] cannot be made from maps of strides \[4, 8\]"),
        ([(5, 14), (6, 28)], r"cannot be made from maps of strides \[14, 28\]"),
    ],
)
def test_what_makes_no_pyramid(shapes: list[tuple[int, int]], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        PyramidNeck(shapes, finest=8, coarsest=128)
