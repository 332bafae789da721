"""Attention against the paper's equations written out slowly, and windows against cutting by hand."""

from __future__ import annotations

import itertools

import pytest
import torch
from helpers import randomise, relative_error
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from effvit.errors import ConfigError
from effvit.model.attention import WindowAttention, relative_bias_index, window_partition, window_reverse
from effvit.model.config import BlockConfig, Mixer

WIDTH = 12


def attention(mixer: Mixer = "cascaded", *, window: int = 4, mask_padding: bool = True, **dims: int) -> WindowAttention:
    block = BlockConfig(
        num_heads=3,
        value_dim=dims.get("value_dim", 4),
        key_dim=5,
        query_kernels=(5, 3, 1),
        mixer=mixer,
        ffn_dims_before=(),
        ffn_dims_after=(),
    )
    module = WindowAttention(WIDTH, block, window=window, mask_padding=mask_padding)
    return randomise(module).double().eval()


def slow_window(module: WindowAttention, x: Tensor) -> Tensor:
    """Eq. 2-4 for one window, (C, H, W) -> (C, H, W), token by token and without any of the module's own steps."""
    mixer, (C, H, W) = module.mixer, x.shape
    cells = list(itertools.product(range(H), range(W)))
    heads, split, key_dim = 3, C // 3, 5
    found: list[Tensor] = []
    for head in range(heads):
        if module.mixer.__class__.__name__ == "MultiHeadSelfAttention":
            qkv = mixer.qkv(x[None])[0]
            value_dim = mixer.dims[2] // heads
            q = qkv[head * key_dim : (head + 1) * key_dim]
            k = qkv[(heads + head) * key_dim : (heads + head + 1) * key_dim]
            start = 2 * heads * key_dim + head * value_dim
            v = qkv[start : start + value_dim]
        else:
            part = x[head * split : (head + 1) * split].clone()
            if mixer.cascade and head:
                common = min(split, len(found[-1]))
                part[:common] += found[-1][:common]
            qkv = mixer.qkv[head](part[None])[0]
            q, k, v = qkv[:key_dim], qkv[key_dim : 2 * key_dim], qkv[2 * key_dim :]
        q = mixer.query[head](q[None])[0]
        output = torch.empty_like(v)
        for y, column in cells:
            logits = []
            for y2, column2 in cells:
                offset = abs(y - y2) * module.window + abs(column - column2)
                bias = module.attention_biases[head, offset]
                logits.append(q[:, y, column] @ k[:, y2, column2] / key_dim**0.5 + bias)
            weights = torch.stack(logits).softmax(0)
            output[:, y, column] = sum(w * v[:, y2, c2] for w, (y2, c2) in zip(weights, cells, strict=True))
        found.append(output)
    return mixer.project(torch.cat(found).relu()[None])[0]


def slow(module: WindowAttention, x: Tensor) -> Tensor:
    """The same over a map: windows cut by hand, the last ones as small as what is left."""
    output = torch.empty_like(x)
    for y in range(0, x.shape[2], module.window):
        for column in range(0, x.shape[3], module.window):
            cut = (slice(None), slice(y, y + module.window), slice(column, column + module.window))
            for picture, result in zip(x, output, strict=True):
                result[cut] = slow_window(module, picture[cut])
    return output


@pytest.mark.parametrize("mixer", ["cascaded", "grouped", "mhsa"])
@pytest.mark.parametrize("value_dim", [4, 3, 6])
@torch.no_grad()
def test_is_the_papers_equations(mixer: Mixer, value_dim: int) -> None:
    module = attention(mixer, value_dim=value_dim)
    x = torch.randn(2, WIDTH, 6, 9).double()
    assert relative_error(module(x), slow(module, x)) < 1e-12


@settings(max_examples=20)
@given(height=st.integers(1, 10), width=st.integers(1, 10), batch=st.integers(1, 3), seed=st.integers(0, 99))
@torch.no_grad()
def test_padding_cannot_be_told_from_its_absence(height: int, width: int, batch: int, seed: int) -> None:
    module = attention()
    x = torch.randn(batch, WIDTH, height, width, generator=torch.Generator().manual_seed(seed)).double()
    assert relative_error(module(x), slow(module, x)) < 1e-12


@torch.no_grad()
def test_masking_the_logits_alone_would_be_wrong() -> None:
    """The queries' convolution reaches into the padding, which is no longer zero there: its norm has a bias."""
    module = attention()
    x = torch.randn(1, WIDTH, 6, 6).double()
    windows, padded = window_partition(x, 4)
    inside = window_partition(torch.ones(1, 1, 6, 6).double(), 4)[0]
    bias = module.bias(4, 4)[:, None].masked_fill((inside == 0).flatten(1)[:, None], float("-inf"))
    half_masked = window_reverse(module.mixer(windows, bias, None), padded, (6, 6))
    assert relative_error(half_masked, module(x)) > 1e-3


@torch.no_grad()
def test_official_padding_takes_part() -> None:
    """Defect 13, kept under `mask_padding=False`: zeros beside the map are attended to."""
    official, masked = attention(mask_padding=False), attention()
    x = torch.randn(2, WIDTH, 6, 3).double()
    padded = torch.zeros(2, WIDTH, 8, 4).double()
    padded[:, :, :6, :3] = x
    assert relative_error(official(x), official(padded)[:, :, :6, :3]) < 1e-12
    assert relative_error(official(x), masked(x)) > 1e-3


@torch.no_grad()
def test_a_map_smaller_than_a_window() -> None:
    """Defect 5: the official detection code fails here."""
    x = torch.randn(1, WIDTH, 3, 2).double()
    for mask_padding in (True, False):
        assert attention(mask_padding=mask_padding)(x).shape == x.shape


@given(height=st.integers(1, 12), width=st.integers(1, 12), window=st.integers(1, 8))
def test_windows_join_to_what_was_cut(height: int, width: int, window: int) -> None:
    x = torch.randn(2, 3, height, width)
    windows, padded = window_partition(x, window)
    assert windows.shape[1:] == (3, window, window)
    assert padded[0] % window == padded[1] % window == 0
    assert torch.equal(window_reverse(windows, padded, (height, width)), x)
    assert windows.abs().sum().item() == pytest.approx(x.abs().sum().item(), rel=1e-5)  # padded with zeros


def test_a_window_needs_a_side() -> None:
    with pytest.raises(ConfigError, match="window must be positive, got 0"):
        window_partition(torch.zeros(1, 1, 2, 2), 0)


@pytest.mark.parametrize("window", [1, 2, 7])
def test_bias_index(window: int) -> None:
    index = relative_bias_index(window)
    for i, j in itertools.product(range(window**2), repeat=2):
        (y, x), (y2, x2) = divmod(i, window), divmod(j, window)
        assert index[i, j] == abs(y - y2) * window + abs(x - x2)
