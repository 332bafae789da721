"""Similarity of maps made by hand is exact."""

from __future__ import annotations

import json
import math

import pytest
import torch
from attention_networks import Fixed, images_for, ours, timm_network
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from effvit.analysis.heads import similarity as similarity_module
from effvit.analysis.heads.capture import attention_maps
from effvit.analysis.heads.similarity import head_similarity, likeness
from effvit.errors import ConfigError, DataError

DIAGONAL = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
CROSSED = torch.tensor([[0.0, 1.0], [1.0, 0.0]], dtype=torch.float64)
FLAT = torch.full((2, 2), 0.5, dtype=torch.float64)
FIRST = torch.tensor([[1.0, 0.0], [1.0, 0.0]], dtype=torch.float64)
MIXED = torch.tensor([[0.6, 0.4], [0.4, 0.6]], dtype=torch.float64)


def pictures(count: int = 3) -> list[Tensor]:
    return [torch.randn(count, 3, 8, 8)]


def random_maps(seed: int, windows: int = 4, heads: int = 3, queries: int = 5, keys: int = 5) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (3 * torch.randn(windows, heads, queries, keys, generator=generator).double()).softmax(-1)


def test_by_hand() -> None:
    # Window 1: D.C = 0, D.F = 1 / sqrt(2 * 1), C.F the same. Window 2: D.1 = 1 / 2, D.M = 1.2 / sqrt(2 * 1.04), ...
    maps = torch.stack([torch.stack([DIAGONAL, CROSSED, FLAT]), torch.stack([DIAGONAL, FIRST, MIXED])])
    with_mixed = 1.2 / math.sqrt(2 * 1.04)
    first_mixed = 1.0 / math.sqrt(2 * 1.04)
    (block,) = head_similarity(Fixed(maps), pictures()).blocks
    per_head = (
        (1 / math.sqrt(2) + with_mixed) / 2,
        (1 / math.sqrt(2) + first_mixed) / 2,
        (1 / math.sqrt(2) + with_mixed) / 2,
    )
    assert block.per_head == pytest.approx(per_head, abs=1e-14)
    assert block.similarity == pytest.approx(sum(per_head) / 3, abs=1e-14)
    assert block.pairs[0][1] == pytest.approx((0 + 1 / 2) / 2, abs=1e-14)
    assert block.pairs[1][2] == pytest.approx((1 / math.sqrt(2) + first_mixed) / 2, abs=1e-14)
    # Flat with anything correlates by 0, diagonal with crossed by -1, diagonal with mixed by 1, with first by 0.
    assert block.correlation == pytest.approx(((0 + 0 + 0) / 3 + (1 + 0 + 1) / 3) / 2, abs=1e-12)
    flatness = [1 / math.sqrt(2), 1 / math.sqrt(2), 1.0, 1 / math.sqrt(2), 1 / math.sqrt(2), 1 / math.sqrt(1.04)]
    assert block.flatness == pytest.approx(sum(flatness) / 6, abs=1e-14)
    assert (block.num_heads, block.map_shape, block.windows_per_picture, block.num_windows) == (3, (2, 2), 2.0, 6)
    assert block.standard_error == pytest.approx(0.0, abs=1e-15) and block.num_left_out == 0


@pytest.mark.parametrize(
    ("heads", "cosine", "correlation"),
    [
        ((DIAGONAL, DIAGONAL), 1.0, 1.0),
        ((DIAGONAL, CROSSED), 0.0, -1.0),
        ((FLAT, FLAT), 1.0, 0.0),
        ((DIAGONAL, FIRST), 0.5, 0.0),
    ],
)
def test_two_heads(heads: tuple[Tensor, Tensor], cosine: float, correlation: float) -> None:
    (block,) = head_similarity(Fixed(torch.stack(heads)[None]), pictures()).blocks
    assert block.similarity == pytest.approx(cosine, abs=1e-15)
    assert block.correlation == pytest.approx(correlation, abs=1e-15)


@given(st.integers(0, 10_000), st.integers(2, 4), st.integers(1, 6), st.integers(2, 6))
def test_cosine_is_flatness_and_correlation(seed: int, heads: int, queries: int, keys: int) -> None:
    found = likeness(random_maps(seed, 2, heads, queries, keys))
    f = found.flatness[:, :, None]
    rest = ((1 - f**2) * (1 - f.transpose(1, 2) ** 2)).clamp(min=0).sqrt()
    torch.testing.assert_close(found.cosine, f * f.transpose(1, 2) + found.correlation * rest, rtol=1e-9, atol=1e-9)
    assert found.cosine.max() <= 1 + 1e-12 and found.correlation.abs().max() <= 1 + 1e-9


def test_nothing_depends_on_batches_windows_or_the_order_of_heads(monkeypatch: pytest.MonkeyPatch) -> None:
    network = timm_network("swin_tiny_patch4_window7_224")
    images = images_for("swin_tiny_patch4_window7_224", 4)
    whole = head_similarity(network, [images])
    monkeypatch.setattr(similarity_module, "_MAX_ELEMENTS", 1)  # a window at a time
    parts = head_similarity(network, [images[:1], images[1:]])
    assert parts.num_pictures == whole.num_pictures == 4
    for block, other in zip(whole.blocks, parts.blocks, strict=True):
        assert other.similarity == pytest.approx(block.similarity, abs=1e-12)
        assert other.standard_error == pytest.approx(block.standard_error, abs=1e-12)
        assert other.correlation == pytest.approx(block.correlation, abs=1e-12)
        torch.testing.assert_close(torch.tensor(other.pairs), torch.tensor(block.pairs))
    maps = random_maps(1)
    (block,) = head_similarity(Fixed(maps), pictures()).blocks
    (turned,) = head_similarity(Fixed(maps[:, [2, 0, 1]]), pictures()).blocks
    assert turned.similarity == pytest.approx(block.similarity, abs=1e-14)
    assert turned.per_head == pytest.approx([block.per_head[head] for head in (2, 0, 1)], abs=1e-14)


def test_it_is_what_the_maps_say() -> None:
    """Against torch's own cosine similarity, head by head, on a whole network."""
    network, images = ours(), torch.randn(3, 3, 96, 96).double()
    found = head_similarity(network, [images])
    for block, (name, maps) in zip(found.blocks, attention_maps(network, images).items(), strict=True):
        cosine = nn.functional.cosine_similarity(maps[:, 0].flatten(1), maps[:, 1].flatten(1))
        by_picture = cosine.view(3, -1).mean(1)
        assert block.name == name
        assert block.similarity == pytest.approx(float(cosine.mean()), abs=1e-12)
        assert block.standard_error == pytest.approx(float(by_picture.std()) / math.sqrt(3), abs=1e-12)


def test_masked_padding_does_not_count() -> None:
    """A map of 6 x 6 tokens in windows of 4: each window is compared on its tokens in the picture alone."""
    network, images = ours(), torch.randn(2, 3, 96, 96).double()
    (name, maps), *_ = attention_maps(network, images).items()
    block = head_similarity(network, [images]).blocks[0]
    sizes = [(4, 4), (4, 2), (2, 4), (2, 2)]  # what of each window lies in the picture
    values = []
    for index, (height, width) in enumerate(2 * sizes):
        tokens = [row * 4 + column for row in range(height) for column in range(width)]
        cut = maps[index][:, tokens][:, :, tokens]
        assert torch.allclose(cut.sum(-1), torch.ones(()).double())
        found = likeness(cut[None])
        values.append((float(found.cosine[0, 0, 1]), float(found.correlation[0, 0, 1]), float(found.flatness.mean())))
    cosine, correlation, flatness = (sum(column) / len(values) for column in zip(*values, strict=True))
    assert (block.name, block.similarity, block.correlation, block.flatness) == (
        name,
        pytest.approx(cosine, abs=1e-12),
        pytest.approx(correlation, abs=1e-12),
        pytest.approx(flatness, abs=1e-12),
    )


def test_windows_of_one_token_are_left_out() -> None:
    network = ours()
    found = head_similarity(network, [torch.randn(2, 3, 80, 80).double()])  # 5 x 5 tokens: 16, 4, 4 and 1
    assert (found.blocks[0].num_windows, found.blocks[0].num_left_out) == (6, 2)
    assert found.blocks[0].similarity is not None and found.blocks[0].similarity < 1
    found = head_similarity(network, [torch.randn(2, 3, 48, 48).double()])  # 3 x 3, 2 x 2, then a single token
    last = found.blocks[-1]
    assert (last.similarity, last.standard_error, last.flatness, last.pairs) == (None, None, None, ())
    assert (last.num_windows, last.num_left_out, last.windows_per_picture) == (0, 2, 1)


def test_a_single_head_has_no_similarity_but_a_flatness() -> None:
    (block,) = head_similarity(Fixed(DIAGONAL[None, None]), pictures()).blocks
    assert (block.similarity, block.correlation, block.standard_error, block.per_head) == (None, None, None, ())
    assert block.flatness == pytest.approx(1 / math.sqrt(2)) and block.pairs == ((pytest.approx(1.0),),)


def test_one_picture_has_no_spread() -> None:
    (block,) = head_similarity(Fixed(random_maps(0)), pictures(1)).blocks
    assert block.similarity is not None and block.standard_error is None


def test_pictures_differ() -> None:
    def maps(x: Tensor) -> Tensor:  # alike in picture 1, unlike in picture 2
        return torch.stack([torch.stack([DIAGONAL, DIAGONAL]), torch.stack([DIAGONAL, CROSSED])])[: len(x)]

    (block,) = head_similarity(Fixed(maps), pictures(2)).blocks
    assert block.similarity == pytest.approx(0.5) and block.standard_error == pytest.approx(0.5)


def test_plain_values() -> None:
    found = head_similarity(Fixed(random_maps(0)), pictures())
    values = json.loads(json.dumps(found.to_dict()))
    assert values["blocks"][0]["similarity"] == found.blocks[0].similarity
    assert values["num_pictures"] == 3 and values["unread"] == {}


def test_what_cannot_be_measured_is_refused() -> None:
    with pytest.raises(DataError, match="no pictures to look at"):
        head_similarity(Fixed(random_maps(0)), [])
    with pytest.raises(ConfigError, match="Linear has no attention: no softmax over keys"):
        head_similarity(nn.Linear(8, 8), pictures())

    class Linear(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.softmax(dim=2)

    with pytest.raises(ConfigError, match="seen, and not read: network: softmax over dimension 2 of 4"):
        head_similarity(Linear(), pictures())

    def growing(x: Tensor) -> Tensor:
        return random_maps(0, len(x), 2 if len(x) == 1 else 3)

    with pytest.raises(ConfigError, match="3 heads for one batch and 2 for another"):
        head_similarity(Fixed(growing), [*pictures(1), *pictures(2)])
