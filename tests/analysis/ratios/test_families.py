"""Tests of the families: at the usual share and width they are timm's and our own networks, at others still whole."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import pairwise

import pytest
import timm
import torch
from helpers import randomise, relative_error
from timm.layers import set_fused_attn, use_fused_attn
from torch import nn

from effvit.analysis.ratios.families import FAMILIES, Subnetwork, find_family, subnetwork
from effvit.analysis.ratios.sandwich import with_attention
from effvit.analysis.ratios.spread import spread_evenly
from effvit.analysis.ratios.transformers import deit, patch_for, swin, swin_maps, window_for
from effvit.errors import ConfigError
from effvit.model.variants import VARIANTS, family_config

SHARES = (0, 0.4, 1)
TIMM = {
    "deit_tiny": "deit_tiny_patch16_224",
    "deit_small": "deit_small_patch16_224",
    "deit_base": "deit_base_patch16_224",
    "swin_tiny": "swin_tiny_patch4_window7_224",
    "swin_small": "swin_small_patch4_window7_224",
    "swin_base": "swin_base_patch4_window7_224",
}

AVERAGED = {"class_token": False, "global_pool": "avg", "fc_norm": False}
"""What timm calls a DeiT without class token."""


@pytest.mark.parametrize("name", FAMILIES)
def test_the_usual_share_and_width_are_the_network_itself(name: str) -> None:
    family = find_family(name)
    with torch.device("meta"):
        network = subnetwork(name, family.num_attention / family.num_layers, width=family.width, image_size=(224, 224))
        own = network.make()
        if name in TIMM:
            theirs = timm.create_model(TIMM[name], **(AVERAGED if name.startswith("deit") else {}))
            shapes = sorted(tuple(value.shape) for value in own.state_dict().values())
            assert shapes == sorted(tuple(value.shape) for value in theirs.state_dict().values())
            return
    config = with_attention(VARIANTS[name], family.num_attention, family.width)
    assert config.stages == VARIANTS[name].stages and config.stem_widths == VARIANTS[name].stem_widths


def timms_name(name: str) -> str:
    """`blocks.5.body.fc1.weight` -> `blocks.2.mlp.fc1.weight`: of every two layers, timm makes a block."""

    def block(match: re.Match[str]) -> str:
        layer, part = int(match[1]), match[2]
        if part == "norm" or part == "norm1":
            part = "norm2" if layer % 2 else "norm1"
        if part == "body":
            part = "mlp" if layer % 2 else "attn"
        return f"blocks.{layer // 2}.{part}."

    return re.sub(r"blocks\.(\d+)\.(\w+)\.", block, name)


@torch.no_grad()
@pytest.mark.parametrize("name", ["deit", "swin"])
def test_half_attention_computes_what_timms_network_does(name: str) -> None:
    """At a small size: the same weights give the same logits, windows shifted as in timm's."""
    size = (64, 64)
    if name == "deit":
        ours: nn.Module = deit(12, num_layers=6, num_attention=3, num_heads=3, image_size=size, num_classes=5)
        theirs: nn.Module = timm.create_model(
            "deit_tiny_patch16_224",
            img_size=64,
            patch_size=8,
            embed_dim=12,
            depth=3,
            num_heads=3,
            num_classes=5,
            **AVERAGED,
        )
    else:
        ours = swin(12, depths=(2, 2), num_attention=4, num_heads=(3, 6), image_size=size, num_classes=5)
        theirs = timm.create_model(
            "swin_tiny_patch4_window7_224",
            img_size=64,
            window_size=4,
            embed_dim=12,
            depths=(2, 2),
            num_heads=(3, 6),
            num_classes=5,
        )
    randomise(ours.double()).eval()
    theirs.double().eval()
    theirs.load_state_dict({timms_name(key): value for key, value in ours.state_dict().items()})
    images = torch.randn(2, 3, *size, dtype=torch.float64)
    assert relative_error(ours(images), theirs(images)) < 1e-12


@pytest.mark.parametrize("name", ["deit_tiny", "swin_tiny", "efficientvit_tiny"])
@pytest.mark.parametrize("share", SHARES)
def test_every_share_has_its_layers_and_trains(name: str, share: float) -> None:
    width = {"deit_tiny": 16, "swin_tiny": 12, "efficientvit_tiny": 24}[name]
    network = subnetwork(name, share, width=width, image_size=(64, 96), num_classes=3)
    model = randomise(network.make()).train()
    letters = {
        "Attention": "A",
        "SwinAttentionLayer": "A",
        "CascadedGroupAttention": "A",
        "Mlp": "F",
        "FeedForward": "F",
    }
    kinds = "".join(letters.get(type(module).__name__, "") for module in model.modules())
    if name == "efficientvit_tiny":  # each of its two subsamples has a feed-forward layer on each side
        assert kinds.count("F") == network.layers.count("F") + 4
        assert kinds.count("A") == network.layers.count("A")
    else:
        assert kinds == network.layers
    size = (160, 128) if name == "efficientvit_tiny" else (64, 96)  # in a window of one token queries are idle
    model(torch.randn(4, 3, *size)).square().sum().backward()
    unreached = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert not unreached, "a network without attention sees the picture too"


def test_our_layers_run_in_the_order_that_was_asked_for() -> None:
    config = family_config("any", widths=(16, 24), depths=(2, 3), num_heads=(2, 2), query_kernels=(3, 3))
    for num_attention in range(16):
        wanted = "".join("FA"[is_attention] for is_attention in spread_evenly(15, num_attention))
        changed = with_attention(config, num_attention, 24, inner=1.1)
        row = ""
        for stage in changed.stages:
            for block in stage.blocks:
                row += "F" * len(block.ffn_dims_before) + "A" * (block.num_heads > 0) + "F" * len(block.ffn_dims_after)
        assert row == wanted


def test_our_widths_are_scaled_alike_and_heads_stay_whole() -> None:
    for width in find_family("efficientvit_m3").widths(320):
        config = with_attention(VARIANTS["efficientvit_m3"], 6, width)
        assert config.stages[-1].width == width
        for stage, like in zip(config.stages, VARIANTS["efficientvit_m3"].stages, strict=True):
            assert stage.width == pytest.approx(like.width * width / 320, abs=12.01)
            assert stage.blocks[0].value_dim * stage.blocks[0].num_heads == stage.width
            assert {dim for block in stage.blocks for dim in block.ffn_dims_after} == {2 * stage.width}


@pytest.mark.parametrize(
    ("size", "window"), [(224, 7), (256, 8), (384, 12), (64, 4), (96, 6), (128, 4), (160, 5), (192, 6), (32, 4)]
)
def test_windows_fill_the_maps(size: int, window: int) -> None:
    maps = swin_maps((size, size), 4)
    assert window_for(maps) == window
    assert all(side % window == 0 or side < window for pair in maps for side in pair)


@pytest.mark.parametrize(("size", "patch"), [(224, 16), (128, 16), (96, 8), (64, 8), (32, 4)])
def test_patches_leave_enough_tokens(size: int, patch: int) -> None:
    assert patch_for((size, size), largest=16, least_tokens=8) == patch


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"family": "deit_tyni"}, r"unknown family 'deit_tyni' \(did you mean 'deit_tiny'\?\); known: deit_tiny"),
        ({"share": 1.5}, r"a share of attention must be in 0..1, got 1.5"),
        ({"width": 0}, r"deit_tiny: the width \(channels of a token\) must be a multiple of 8, got 0"),
        (
            {"family": "efficientvit_m0", "width": 90},
            r"the width \(channels of the last stage\) must be a multiple of 8, got 90",
        ),
        ({"image_size": (16, 64)}, r"pictures must have 32 pixels a side or more, got \(16, 64\)"),
        ({"image_size": (100, 100)}, r"height and width must be multiples of 8, the side of a patch, got \(100, 100\)"),
    ],
)
def test_what_cannot_be_made_is_one_line(arguments: dict[str, object], message: str) -> None:
    values: dict[str, object] = {"family": "deit_tiny", "share": 0.5, "width": 24, "image_size": (64, 64), **arguments}
    with pytest.raises(ConfigError, match=message):
        subnetwork(values.pop("family"), values.pop("share"), **values).make()  # type: ignore[arg-type]


def test_a_description_names_everything() -> None:
    values = subnetwork("swin_tiny", 0.2, width=32, image_size=(64, 64), num_classes=9).to_dict()
    assert values["layers"].count("A") == values["num_attention"] == 5
    assert values["share"] == pytest.approx(5 / 24)
    assert (values["patch"], values["window"], values["maps"][-1]) == (4, 4, [2, 2])


@pytest.mark.parametrize("name", ["deit_tiny", "swin_tiny", "efficientvit_m0"])
def test_inner_widths_are_a_finer_dial_than_widths(name: str) -> None:
    family = find_family(name)
    like = subnetwork(name, 0.4, width=family.width // 2, image_size=(64, 64), num_classes=3)

    def parameters(network: Subnetwork) -> int:
        with torch.device("meta"):
            return sum(parameter.numel() for parameter in network.make().parameters())

    counts = [parameters(replace(like, inner=percent)) for percent in range(88, 113, 6)]
    assert counts == sorted(counts) and len(set(counts)) == len(counts), "every few percent are another network"
    step = parameters(replace(like, width=like.width + family.step)) / parameters(like) - 1
    assert max(later / earlier for earlier, later in pairwise(counts)) - 1 < step


def test_no_attention_is_fused_so_that_its_parts_can_be_told_apart() -> None:
    before = use_fused_attn(experimental=True)
    set_fused_attn(True, experimental=True)  # whatever the reader's timm is set to
    try:
        with torch.device("meta"):
            models = [
                subnetwork(name, 1.0, width=24, image_size=(64, 64), num_classes=3).make()
                for name in ("deit_tiny", "swin_tiny")
            ]
    finally:
        set_fused_attn(True, experimental=before)
    for model in models:
        assert {module.fused_attn for module in model.modules() if hasattr(module, "fused_attn")} == {False}
