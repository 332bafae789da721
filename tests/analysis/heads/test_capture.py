"""Maps are what the networks compute: against timm's own, torch's own, and our formula written out."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from attention_networks import SMALL, Fixed, images_for, ours, timm_network
from helpers import randomise
from torch import Tensor, nn

import effvit
from effvit.analysis.heads.capture import AttentionCall, attention_maps, watch_attention
from effvit.model.attention import CascadedGroupAttention, MultiHeadSelfAttention, WindowAttention, window_partition
from effvit.model.names import foreign_names


@pytest.mark.parametrize("name", SMALL)
def test_fused_maps_are_those_of_timms_own_non_fused_attention(name: str) -> None:
    images = images_for(name)
    plain = timm_network(name, fused=False)
    expected: dict[str, Tensor] = {}

    def keep(path: str) -> Any:
        return lambda module, args: expected.update({path: args[0]})

    for path, module in plain.named_modules():
        if path.endswith("attn_drop"):  # what goes into the dropout is the map
            module.register_forward_pre_hook(keep(path.removesuffix(".attn_drop")))
    plain(images)
    fused = timm_network(name, fused=True)
    fused.load_state_dict(plain.state_dict())
    found = attention_maps(fused, images)
    assert list(found) == list(expected) and len(found) >= 2
    for path, maps in found.items():
        wanted = expected[path]
        if wanted.dim() == 5:  # (B, heads, T, N, N) -> (B * T, heads, N, N)
            wanted = wanted.transpose(1, 2).flatten(0, 1)
        torch.testing.assert_close(maps, wanted, rtol=1e-10, atol=1e-12)
        assert maps.std() > 1e-3


@pytest.mark.parametrize("mixer", ["cascaded", "grouped", "mhsa"])
@pytest.mark.parametrize("size", [(96, 96), (80, 112), (33, 64)])
def test_maps_of_ours_are_the_formula(mixer: Any, size: tuple[int, int]) -> None:
    network = ours(mixer)
    seen: dict[str, list[Tensor]] = {}

    def keep(path: str) -> Any:
        return lambda module, args, output: seen.update({path: [output], f"{path} in": [args[0]]})

    for path, module in network.named_modules():
        module.register_forward_hook(keep(path))
    images = torch.randn(2, 3, *size, dtype=torch.float64)
    found = attention_maps(network, images)
    blocks = [(path, module) for path, module in network.named_modules() if isinstance(module, WindowAttention)]
    assert list(found) == [f"{path}.mixer" for path, _ in blocks]
    for path, attention in blocks:
        maps, wanted = found[f"{path}.mixer"], _maps_by_formula(path, attention, seen)
        torch.testing.assert_close(maps, wanted, rtol=1e-10, atol=1e-12)
        assert maps.shape[-1] == 1 or maps.std() > 1e-3  # far from flat: a wrong map would be seen


def _maps_by_formula(path: str, attention: WindowAttention, seen: dict[str, list[Tensor]]) -> Tensor:
    """softmax(q^T k / sqrt(dim) + bias) token by token, padding left out of both sides."""
    (x,) = seen[f"{path} in"]
    height, width = x.shape[-2:]
    mixer, side = attention.mixer, attention.window
    whole = height <= side and width <= side
    rows, columns = (height, width) if whole else (side, side)
    inside = torch.ones(1, 1, height, width) if whole else window_partition(torch.ones(1, 1, height, width), side)[0]
    inside = inside.flatten(1).bool().repeat(len(x), 1)  # (B * windows, N)
    heads = []
    for head in range(2):
        if isinstance(mixer, CascadedGroupAttention):
            (projected,) = seen[f"{path}.mixer.qkv.{head}"]
            key_dim = mixer.dims[0]
            k = projected[:, key_dim : 2 * key_dim]
        else:
            assert isinstance(mixer, MultiHeadSelfAttention)
            (projected,) = seen[f"{path}.mixer.qkv"]
            key_dim = mixer.dims[0] // 2
            k = projected[:, (2 + head) * key_dim : (3 + head) * key_dim]
        if isinstance(mixer.query[head], nn.Identity):
            q = projected[:, head * key_dim : (head + 1) * key_dim] * inside.view(-1, 1, rows, columns)
        else:
            (q,) = seen[f"{path}.mixer.query.{head}"]
        logits = torch.einsum("bci,bcj->bij", q.flatten(2), k.flatten(2)) / key_dim**0.5
        for i in range(rows * columns):
            for j in range(rows * columns):
                down, right = abs(i // columns - j // columns), abs(i % columns - j % columns)
                logits[:, i, j] += attention.attention_biases[head, down * side + right]
        powers = logits.exp() * inside[:, None, :]
        heads.append(powers / powers.sum(-1, keepdim=True) * inside[:, :, None])
    return torch.stack(heads, 1)


def test_timms_efficientvit_with_the_same_weights_has_the_same_maps() -> None:
    theirs = timm.create_model("efficientvit_m2")
    randomise(theirs).double()
    network = effvit.create_model("efficientvit_m2").double()
    names = {foreign: name for name, foreign in foreign_names(network.state_dict(), "timm", network.config).items()}
    network.load_state_dict({names[name]: value for name, value in theirs.state_dict().items()})
    images = torch.randn(2, 3, 224, 224, dtype=torch.float64)
    found, expected = attention_maps(network, images), attention_maps(theirs, images)
    assert len(found) == 6
    for maps, other in zip(found.values(), expected.values(), strict=True):
        torch.testing.assert_close(maps, other, rtol=1e-9, atol=1e-12)


class Product(nn.Module):
    """A scaled dot product attention called with whatever arguments."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.options = options

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, value=v, **self.options)


_BOOLEAN = torch.rand(2, 1, 5, 7, generator=torch.Generator().manual_seed(3)) < 0.5
_BOOLEAN[0, 0, 2] = False  # a query that may look at nothing


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"scale": 0.3},
        {"is_causal": True},
        {"attn_mask": torch.randn(4, 5, 7, generator=torch.Generator().manual_seed(1)).double()},
        {"attn_mask": _BOOLEAN},
    ],
    ids=["plain", "scale", "causal", "added mask", "boolean mask"],
)
def test_maps_of_a_product_give_its_output(options: dict[str, Any]) -> None:
    q, k = torch.randn(2, 4, 5, 6).double(), torch.randn(2, 4, 7, 6).double()
    v = torch.randn(2, 4, 7, 3).double()
    network = Product(**options)
    calls: list[Tensor] = []
    with watch_attention(network, lambda call: calls.append(call.maps)):
        output = network(q, k, v)
    torch.testing.assert_close(calls[0] @ v, output, rtol=1e-10, atol=1e-12)


def test_shared_keys_are_repeated_for_their_queries() -> None:
    q, kv = torch.randn(2, 6, 5, 4).double(), torch.randn(2, 2, 5, 4).double()
    calls: list[Tensor] = []
    network = Product(enable_gqa=True)
    with watch_attention(network, lambda call: calls.append(call.maps)):
        output = network(q, kv, kv)
    torch.testing.assert_close(calls[0] @ kv.repeat_interleave(3, 1), output, rtol=1e-10, atol=1e-12)


def test_maps_of_half_precision_are_computed_in_float32() -> None:
    q, k, v = torch.randn(3, 2, 4, 5, 6).bfloat16()
    calls: list[Tensor] = []
    with watch_attention(network := Product(), lambda call: calls.append(call.maps)):
        network(q, k, v)
    expected = (q.float() @ k.float().transpose(-2, -1) * 6**-0.5).softmax(-1)
    torch.testing.assert_close(calls[0], expected)


def test_torchs_own_multi_head_attention() -> None:
    layer = nn.MultiheadAttention(12, 3, batch_first=True).double().eval()
    x = torch.randn(2, 5, 12).double()
    wanted = layer(x, x, x, need_weights=True, average_attn_weights=False)[1]

    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = layer

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x, x, x, need_weights=False)[0]

    found = attention_maps(Whole(), x)
    torch.testing.assert_close(found["layer"], wanted)
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(12, 3, batch_first=True), 2, enable_nested_tensor=False)
    assert list(attention_maps(encoder, torch.randn(2, 5, 12))) == ["layers.0.self_attn", "layers.1.self_attn"]


def test_the_network_is_left_as_it_was() -> None:
    network = timm_network("vit_tiny_patch16_224")
    network.train()
    network.blocks[1].eval()  # type: ignore[index,union-attr]
    before = {name: module.training for name, module in network.named_modules()}
    images = images_for("vit_tiny_patch16_224")

    def broken(call: AttentionCall) -> None:
        raise KeyError(call.name)

    with pytest.raises(KeyError, match="blocks.0.attn"), watch_attention(network, broken):
        network(images)
    found = attention_maps(network, images)
    assert {name: module.training for name, module in network.named_modules()} == before
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())
    network.eval()
    outputs = []
    with watch_attention(network, lambda call: None):
        outputs.append(network(images))
    assert torch.equal(outputs[0], network(images))
    assert list(found) == ["blocks.0.attn", "blocks.1.attn"]


def test_dropped_weights_are_no_map() -> None:
    network, images = timm_network("vit_tiny_patch16_224", fused=False), images_for("vit_tiny_patch16_224")
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.5
    expected = attention_maps(network, images)["blocks.1.attn"]
    assert torch.equal(attention_maps(network.train(), images)["blocks.1.attn"], expected)


@pytest.mark.parametrize("shape", [(2, 4, 5), (2, 3, 4, 5)])
def test_what_becomes_of_a_softmax_later_does_not_change_the_map(shape: tuple[int, ...]) -> None:
    class InPlace(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.softmax(-1).zero_()

    x = torch.randn(shape)
    (maps,) = attention_maps(InPlace(), x).values()
    assert torch.equal(maps.flatten(), x.softmax(-1).flatten())


def test_maps_are_not_kept() -> None:
    alive: list[weakref.ref[Tensor]] = []

    def look(call: AttentionCall) -> None:
        assert not any(reference() is not None for reference in alive)
        alive.append(weakref.ref(call.maps))

    for network, side in ((timm_network("vit_tiny_patch16_224"), 48), (ours(), 96)):
        alive.clear()
        with torch.no_grad(), watch_attention(network, look):
            network(torch.randn(2, 3, side, side, dtype=torch.float64))
        assert len(alive) > 1


def test_a_second_attention_of_a_module_gets_a_number_in_every_pass() -> None:
    class Twice(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.softmax(-1) + torch.softmax(2 * x, dim=3)

    names: list[str] = []
    network = nn.Sequential(Twice(), Twice())
    with watch_attention(network, lambda call: names.append(call.name)) as unread:
        for _ in range(2):
            network(torch.randn(2, 3, 4, 4))
    assert names == 2 * ["0", "0#2", "1", "1#2"] and not unread


def test_what_cannot_be_read_is_told_and_classes_are_no_maps() -> None:
    class Odd(nn.Module):
        num_heads = 3

        def forward(self, x: Tensor) -> Tensor:
            x.softmax(dim=1)
            x[:, None].expand(-1, 3, -1, -1, -1).contiguous().softmax(-1)  # (B, 3, 3, N, N): which are the heads?
            x[:, :2].softmax(-1)
            return x.flatten(1).softmax(-1)

    seen: list[AttentionCall] = []
    with watch_attention(network := Odd(), seen.append) as unread:
        network(torch.randn(2, 3, 4, 4))
    assert seen == []
    assert [line.split(":")[1].strip() for line in unread] == [
        "softmax over dimension 1 of 4, not over keys",
        "the module has 3 heads, and in a softmax of shape (2, 3, 3, 4, 4) their dimension cannot be told",
        "3 heads, but the softmax has shape (2, 2, 4, 4)",
    ]
    assert attention_maps(timm.create_model("resnet10t"), torch.randn(1, 3, 32, 32)) == {}


def test_given_maps_come_back() -> None:
    maps = torch.rand(3, 2, 4, 5).double()
    maps /= maps.sum(-1, keepdim=True)
    assert torch.allclose(attention_maps(Fixed(maps), torch.randn(2, 3, 8, 8))[""], maps.repeat(2, 1, 1, 1))
