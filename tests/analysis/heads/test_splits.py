"""A head with a split sees it and nothing else, whichever network it is in."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from attention_networks import images_for, ours, timm_network
from torch import nn

from effvit.analysis.heads.capture import attention_maps
from effvit.analysis.heads.splits import SplitLinear, split_variants, with_head_splits, with_mixer, without_cascade
from effvit.errors import ConfigError

SPLITTABLE = [
    "vit_tiny_patch16_224",
    "swin_tiny_patch4_window7_224",
    "beit_base_patch16_224",
    "eva02_tiny_patch14_224",
]


@pytest.mark.parametrize("name", SPLITTABLE)
def test_each_head_sees_its_split(name: str) -> None:
    """Change one split of the input of an attention: one head's map changes."""
    network = timm_network(name)
    split = with_head_splits(network)
    inputs: list[tuple[nn.Module, torch.Tensor]] = []
    for path, _ in split.named_modules():
        if path.endswith("attn"):
            module = split.get_submodule(path)
            module.register_forward_pre_hook(lambda module, args: inputs.append((module, args[0])))
    split(images_for(name))
    assert len(inputs) >= 2
    for module, x in list(inputs):
        heads = module.num_heads
        (before,) = attention_maps(module, x).values()
        for head in range(heads):
            width = x.shape[-1] // heads
            changed = x.clone()
            changed[..., head * width : (head + 1) * width] += torch.randn(width).double()
            (after,) = attention_maps(module, changed).values()
            moved = (after - before).abs().amax((0, 2, 3)) > 1e-9
            assert moved.tolist() == [other == head for other in range(heads)]


@pytest.mark.parametrize("name", SPLITTABLE)
def test_the_state_dict_is_that_of_the_network(name: str) -> None:
    network = timm_network(name)
    split = with_head_splits(network)
    state, expected = split.state_dict(), network.state_dict()
    assert list(state) == list(expected)
    assert all(torch.equal(state[key], value) for key, value in expected.items())
    images = images_for(name)
    output = split(images)
    assert not torch.allclose(output, network(images))
    other = with_head_splits(timm_network(name))
    other.load_state_dict(
        {key: value + 1 for key, value in expected.items() if value.is_floating_point()}, strict=False
    )
    other.load_state_dict(state)
    assert torch.equal(other(images), output)
    assert torch.equal(copy.deepcopy(split).float()(images.float()), with_head_splits(network.float())(images.float()))


def test_weights_that_are_split_already_give_the_same_network() -> None:
    network = timm_network("vit_tiny_patch16_224")
    split = with_head_splits(network)
    with torch.no_grad():
        for block, other in zip(network.blocks, split.blocks, strict=True):  # type: ignore[arg-type]
            block.attn.qkv.weight.copy_(other.attn.qkv.weight)
    images = images_for("vit_tiny_patch16_224")
    assert torch.equal(network(images), split(images))


def test_masked_weights_are_not_trained() -> None:
    linear = nn.Linear(6, 18)
    split = SplitLinear(linear, num_heads=3, num_parts=3)
    assert split.mask.sum() == 18 * 2
    # Rows are q of heads 1, 2, 3, then k, then v, two of each.
    assert split.mask[[0, 2, 4, 6, 8, 10, 12]].argmax(1).tolist() == [0, 2, 4, 0, 2, 4, 0]
    split(torch.randn(5, 6)).square().sum().backward()
    assert linear.weight.grad is not None
    assert torch.equal(linear.weight.grad != 0, split.mask.bool())
    assert [name for name, _ in split.named_parameters()] == ["weight", "bias"]


def test_ours_without_splits_gets_them() -> None:
    """Multi-head attention whose weights are split already gives what the grouped network gives."""
    network = ours("mhsa", query_kernels=())
    with torch.no_grad():
        for stage in network.stages:
            for attention in (module for module in stage.modules() if hasattr(module, "num_heads")):
                q_or_k, _, v = attention.dims
                rows = torch.arange(2 * q_or_k + v)
                head = torch.where(rows < 2 * q_or_k, rows // (q_or_k // 2) % 2, (rows - 2 * q_or_k) // (v // 2))
                width = attention.qkv.conv.weight.shape[1]
                column = torch.arange(width) // (width // 2)
                attention.qkv.conv.weight[head[:, None] != column] = 0
    split = with_head_splits(network)
    assert split.config == with_mixer(network.config, "grouped")  # type: ignore[comparison-overlap]
    images = torch.randn(2, 3, 80, 112).double()
    torch.testing.assert_close(split(images), network(images), rtol=1e-10, atol=1e-12)
    assert not split.training and with_head_splits(network.train()).training


def test_without_the_cascade_the_first_head_is_as_before() -> None:
    network, images = ours(), torch.randn(2, 3, 96, 96).double()
    cut = without_cascade(network)
    assert cut.config == with_mixer(network.config, "grouped")
    before, after = (next(iter(attention_maps(each, images).values())) for each in (network, cut))
    assert torch.equal(before[:, 0], after[:, 0])
    assert (before[:, 1] - after[:, 1]).abs().max() > 1e-3


def test_variants() -> None:
    assert list(split_variants(timm_network("vit_tiny_patch16_224"))) == ["head splits"]
    assert list(split_variants(ours())) == ["head splits, no cascade"]
    assert list(split_variants(ours("mhsa"))) == ["head splits"]
    fresh = split_variants(ours(), fresh=True)
    assert list(fresh) == ["no head splits", "head splits, no cascade"]
    assert {block.mixer for block in fresh["no head splits"].config.stages[0].blocks} == {"mhsa"}


def test_what_cannot_be_split_is_refused() -> None:
    with pytest.raises(ConfigError, match="small: its heads have splits already"):
        with_head_splits(ours("grouped"))
    with pytest.raises(ConfigError, match="small: its heads have no cascade"):
        without_cascade(ours("grouped"))
    with pytest.raises(ConfigError, match="its norm runs over all heads at once"):
        with_head_splits(ours("mhsa", norm="layer"))
    with pytest.raises(ConfigError, match=r"ResNet has no attention whose heads .* timm .layers.attention.Attention, "):
        with_head_splits(timm.create_model("resnet10t"))
    odd = timm.layers.Attention(10, num_heads=3, attn_head_dim=4)
    with pytest.raises(ConfigError, match="0.qkv: 10 channels to 36 cannot be cut into 3 splits"):
        with_head_splits(nn.Sequential(odd))
    odd.qkv = nn.Identity()
    with pytest.raises(ConfigError, match="0.qkv is a Identity, and splits are for a torch.nn.Linear"):
        with_head_splits(nn.Sequential(odd))
