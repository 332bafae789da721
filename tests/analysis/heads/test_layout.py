"""Tokens lie where the network put them: found by sending their places through its own cutting."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from attention_networks import images_for, ours, timm_network
from timm.models.swin_transformer import SwinTransformerBlock
from torch import Tensor, nn

from effvit.analysis.heads.capture import AttentionCall, watch_attention
from effvit.analysis.heads.layout import Layout, find_layout
from effvit.model.attention import WindowAttention, window_partition


def calls_of(network: nn.Module, images: Tensor) -> list[AttentionCall]:
    seen: list[AttentionCall] = []
    with torch.no_grad(), watch_attention(network, seen.append):
        network(images)
    return seen


def places(height: int, width: int) -> Tensor:
    """Row and column of each token, from 1 so that padding, which is 0, is told apart; (1, height, width, 2)."""
    grid = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return 1 + torch.stack(grid, -1)[None].double()


@pytest.mark.parametrize("size", [(96, 96), (80, 112), (48, 32)])
def test_ours(size: tuple[int, int]) -> None:
    network = ours()
    for call in calls_of(network, torch.randn(2, 3, *size).double()):
        layout = find_layout(call, num_pictures=2, image_size=size)
        entered = next(each for each in call.modules if isinstance(each.module, WindowAttention))
        height, width = entered.input_shape[-2:]
        windows = places(height, width).permute(0, 3, 1, 2)
        window = entered.module.window
        if max(height, width) > window:
            windows, _ = window_partition(windows, window)
        assert layout is not None and layout.grid == (height, width)
        assert np.array_equal(layout.positions + 1, windows.flatten(2).transpose(1, 2).numpy())
        if call.inside is not None:
            assert np.array_equal(layout.positions[..., 0] >= 0, call.inside[: len(layout.positions)].numpy())


@pytest.mark.parametrize("side", [56, 64])
def test_swin_shifted_and_padded(side: int) -> None:
    network = timm_network("swin_tiny_patch4_window7_224")
    network.set_input_size((side, side))  # type: ignore[operator]
    blocks = [module for module in network.modules() if isinstance(module, SwinTransformerBlock)]
    calls = calls_of(network, torch.randn(2, 3, side, side).double())
    assert len(calls) == len(blocks) == 4 and any(any(block.shift_size) for block in blocks)
    for call, block in zip(calls, blocks, strict=True):
        layout = find_layout(call, num_pictures=2, image_size=(side, side))
        seen: list[Tensor] = []
        block.attn.register_forward_pre_hook(lambda module, args: seen.append(args[0]))  # noqa: B023
        marked = torch.zeros(1, *block.input_resolution, block.dim).double()
        marked[..., :2] = places(*block.input_resolution)
        block._attn(marked)
        assert layout is not None and layout.grid == tuple(block.input_resolution)
        assert np.array_equal(layout.positions + 1, seen[0][..., :2].numpy())


def test_the_whole_picture_with_and_without_other_tokens() -> None:
    network = timm_network("deit_tiny_distilled_patch16_224")
    call = calls_of(network, images_for("deit_tiny_distilled_patch16_224"))[0]
    layout = find_layout(call, num_pictures=2, image_size=(48, 48), num_prefix=2)
    assert layout is not None and (layout.grid, layout.num_prefix) == ((3, 3), 2)
    assert layout.positions[0, 5].tolist() == [1, 2]
    assert find_layout(call, num_pictures=2, image_size=(48, 48), num_prefix=1) is None
    wide = AttentionCall(name="", maps=torch.zeros(1, 2, 18, 18), inside=None, modules=())
    layout = find_layout(wide, num_pictures=1, image_size=(60, 120), num_prefix=1)  # the tokens are patches alone
    assert layout is not None and (layout.grid, layout.num_prefix) == ((3, 6), 0)


def test_what_is_not_known_is_none() -> None:
    for shape in ((4, 2, 9, 9), (1, 2, 9, 4), (1, 2, 10, 10), (3, 2, 9, 9)):
        call = AttentionCall(name="", maps=torch.zeros(shape), inside=None, modules=())
        assert find_layout(call, num_pictures=2 if shape[0] == 3 else 1, image_size=(48, 48)) is None


def test_the_window_over_a_place() -> None:
    call = calls_of(ours(), torch.randn(1, 3, 96, 96).double())[0]
    layout = find_layout(call, num_pictures=1, image_size=(96, 96))
    assert layout is not None
    assert [layout.window_over(place) for place in ((0, 0), (0, 1), (1, 0), (1, 1), (0.5, 0.5))] == [0, 1, 2, 3, 0]
    padded = Layout(grid=(2, 2), num_prefix=0, positions=np.array([[[-1, -1], [0, 0]], [[1, 1], [1, 0]]]))
    assert padded.window_over((0, 0)) == 0 and padded.window_over((1.0, 0.9)) == 1
