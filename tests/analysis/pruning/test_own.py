"""Cutting a network of ours is exact: the smaller network is the full one with the same channels at zero."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from helpers import relative_error
from hypothesis import given, settings
from hypothesis import strategies as st
from pruning_networks import KINDS, network_of, pictures_for, random_config, random_sizes, ranking_of
from torch import Tensor, nn

from effvit import load, save
from effvit.analysis.pruning.costs import config_cost
from effvit.analysis.pruning.knobs import full_sizes
from effvit.analysis.pruning.prunable import find_prunable
from effvit.deploy.rewrite import rewrite
from effvit.errors import ConfigError
from effvit.model.config import EfficientViTConfig, StageConfig
from effvit.model.network import EfficientViT
from effvit.model.variants import family_config, variant_config


def tiny(
    mixer: str = "cascaded", *, value_ratio: float = 1.0, kernels: tuple[int, ...] = (5, 3, 3)
) -> EfficientViTConfig:
    config = family_config(
        "tiny", widths=(24, 36), depths=(1, 2), num_heads=(3, 3), query_kernels=kernels, key_dim=6, mixer=mixer,
        value_ratio=value_ratio,
    )  # fmt: skip
    return replace(config, num_classes=7, image_size=(64, 48))


@settings(max_examples=20)
@given(seed=st.integers(0, 10**6))
def test_pruned_is_masked(seed: int) -> None:
    network = network_of(random_config(seed), seed)
    ranking = ranking_of(network, seed)
    sizes = random_sizes(ranking, seed)
    pruned, masked = ranking.pruned(network, sizes), ranking.masked(network, sizes)
    images = pictures_for(network.config)
    assert relative_error(pruned(images).detach(), masked(images).detach()) < 1e-12
    assert isinstance(pruned, EfficientViT)
    assert config_cost(pruned.config) == ranking.cost(sizes)
    assert sum(parameter.numel() for parameter in pruned.parameters()) == ranking.cost(sizes).params


ALONE = [
    *((kind, "cascaded", 1.0) for kind in KINDS),
    *((kind, mixer, 1.0) for kind in ("qk", "value", "width", "heads") for mixer in ("grouped", "mhsa")),
    *((kind, "cascaded", ratio) for kind in ("value", "width", "heads") for ratio in (0.5, 1.5)),
]


@cache
def built(mixer: str, value_ratio: float) -> tuple[EfficientViT, Tensor, Tensor]:
    """A network, pictures, and what it says of them; nothing below changes it."""
    network = network_of(tiny(mixer, value_ratio=value_ratio))
    images = pictures_for(network.config)
    return network, images, network(images).detach()


@pytest.mark.parametrize(("kind", "mixer", "value_ratio"), ALONE)
def test_each_kind_alone_is_exact_and_changes_something(kind: str, mixer: str, value_ratio: float) -> None:
    network, images, full = built(mixer, value_ratio)
    ranking = ranking_of(network, kinds=(kind,))
    sizes = {knob.name: max(knob.minimum, knob.size // 2) for knob in ranking.knobs}
    with torch.no_grad():
        pruned = ranking.pruned(network, ranking.settled(sizes))(images)
        assert relative_error(pruned, ranking.masked(network, sizes)(images)) < 1e-12
    assert relative_error(pruned, full) > 1e-3


@pytest.mark.parametrize("mixer", ["cascaded", "grouped", "mhsa"])
def test_with_nothing_removed_it_is_the_network(mixer: str) -> None:
    """Its channels stand in another order."""
    network, images, full = built(mixer, 1.0)
    ranking = ranking_of(network)
    with torch.no_grad():
        assert relative_error(ranking.pruned(network, full_sizes(ranking))(images), full) < 1e-12


def test_what_is_masked_is_what_was_asked_for() -> None:
    """The masks against hooks that put the activations themselves to zero."""
    network = network_of(replace(tiny(), stages=tiny().stages[:1], stem_widths=(3, 6, 12, 24)))
    ranking = ranking_of(network)
    sizes = {
        **full_sizes(ranking),
        "stage0.block0.qk": 4,
        "stage0.block0.value": 5,
        "stage0.block0.ffn_before0": 30,
        "stem.1": 4,
    }
    scores, kept = ranking.scores, ranking.kept(sizes)  # type: ignore[attr-defined]
    block = kept.stages[0].blocks[0]
    assert [sorted(scores["stage0.block0.qk"][head].topk(4).indices.tolist()) for head in range(3)] == [
        list(channels) for channels in block.qk
    ]
    assert sorted(scores["stage0.block0.ffn_before0"][0].topk(30).indices.tolist()) == list(block.ffn_before[0])
    assert sorted(scores["stem.1"][0].topk(4).indices.tolist()) == list(kept.stem[1])
    last = scores["stage0.block0.value"][2].topk(5).indices.tolist()
    assert sorted(block.value[2]) == sorted(last)

    def keep(channels: list[int]):  # type: ignore[no-untyped-def]
        def hook(_: nn.Module, __: object, output: Tensor) -> Tensor:
            mask = torch.zeros(output.shape[1], dtype=output.dtype)
            mask[channels] = 1
            return output * mask[:, None, None]

        return hook

    hooked = network_of(network.config)
    mixer = hooked.stages[0][0].attention.body.mixer
    for head in range(3):
        queries = list(block.qk[head])
        values = [12 + channel for channel in block.value[head]]
        mixer.qkv[head].register_forward_hook(keep([*queries, *(6 + c for c in queries), *values]))
        mixer.query[head].register_forward_hook(keep(queries))
    hooked.stages[0][0].before[0].ffn.body.expand.register_forward_hook(keep(list(block.ffn_before[0])))
    hooked.stem[2].register_forward_hook(keep(list(kept.stem[1])))
    images = pictures_for(network.config)
    assert relative_error(ranking.masked(network, sizes)(images).detach(), hooked(images).detach()) < 1e-12


def test_values_of_a_cascade_leave_by_their_worth_to_the_stage() -> None:
    """Blocks of a stage share one order, so a block's own favourite may go and the stage's favourite stays."""
    network = network_of(tiny())
    ranking = ranking_of(network)
    scores = ranking.scores  # type: ignore[attr-defined]
    for block in (0, 1):
        scores[f"stage1.block{block}.value"].fill_(0.1)
    scores["stage1.block0.value"][0, 7] = 1.0
    scores["stage1.block1.value"][0, 4] = 5.0
    kept = ranking.kept({**full_sizes(ranking), "stage1.block0.value": 1})  # type: ignore[attr-defined]
    assert kept.stages[1].blocks[0].value[0] == (4,)
    assert kept.stages[1].blocks[1].value[0][:2] == (4, 7)


def test_heads_leave_a_cascade_at_its_ends_only() -> None:
    network = network_of(tiny())
    ranking = ranking_of(network)
    ranking.scores["stage1.heads"][0] = torch.tensor([2.0, 0.1, 3.0])  # type: ignore[attr-defined]
    kept = ranking.kept({**full_sizes(ranking), "stage1.heads": 2})  # type: ignore[attr-defined]
    assert kept.stages[1].blocks[0].heads == (1, 2)
    free = ranking_of(network_of(tiny("grouped")))
    free.scores["stage1.heads"][0] = torch.tensor([2.0, 0.1, 3.0])  # type: ignore[attr-defined]
    kept = free.kept({**full_sizes(free), "stage1.heads": 2})  # type: ignore[attr-defined]
    assert kept.stages[1].blocks[0].heads == (0, 2)


def test_a_pruned_network_is_a_network_like_any_other(tmp_path: Path) -> None:
    """It is saved, loaded, rewritten for inference and pruned again; the network it came from is as it was."""
    network = network_of(tiny()).float()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    ranking = ranking_of(network)
    pruned = ranking.pruned(network, random_sizes(ranking, 1))
    assert isinstance(pruned, EfficientViT) and pruned.config.name == "tiny_pruned"
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    save(tmp_path / "weights", pruned)
    loaded, _ = load(tmp_path / "weights")
    images = pictures_for(network.config).float()
    assert torch.equal(loaded(images), pruned(images))
    assert relative_error(rewrite(pruned)(images), pruned(images).detach()) < 1e-4
    again = ranking_of(pruned.double())
    sizes = random_sizes(again, 2)
    smaller = again.pruned(pruned, sizes)
    assert isinstance(smaller, EfficientViT) and smaller.config.name == "tiny_pruned"
    images = images.double()
    assert relative_error(smaller(images).detach(), again.masked(pruned, sizes)(images).detach()) < 1e-12


def test_mode_and_random_numbers_are_kept() -> None:
    network = network_of(tiny()).train()
    ranking = ranking_of(network)
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    assert ranking.pruned(network, full_sizes(ranking)).training
    assert torch.equal(torch.rand(1), expected)


def test_what_cannot_be_exact_is_refused() -> None:
    layer = replace(variant_config("efficientvit_tiny"), norm="layer", image_size=(32, 32))
    with pytest.raises(ConfigError, match="efficientvit_tiny has norm 'layer': .* only networks with norm 'batch'"):
        find_prunable(EfficientViT(layer), (3, 32, 32))
    network = network_of(tiny())
    ranking = ranking_of(network)
    with pytest.raises(ConfigError, match="this plan is for tiny as it was scored, not for Linear"):
        ranking.pruned(nn.Linear(2, 2), full_sizes(ranking))


def test_without_a_head_the_output_keeps_its_channels() -> None:
    config = replace(tiny(), num_classes=0)
    names = {knob.name for knob in ranking_of(network_of(config)).knobs}
    assert "stage0.width" in names and not {"stage1.width", "stage1.heads"} & names


def test_a_stage_whose_blocks_split_it_unevenly_keeps_its_order() -> None:
    """Heads of 2 and 3 splits: the width leaves in six equal parts, and no channel may cross a line."""
    first, stage = tiny().stages
    blocks = tuple(
        replace(block, num_heads=heads, value_dim=36 // heads, query_kernels=(3,) * heads)
        for block, heads in zip(stage.blocks, (2, 3), strict=True)
    )
    uneven = StageConfig(width=36, window=7, subsample=stage.subsample, blocks=blocks)
    network = network_of(replace(tiny(), stages=(first, uneven)))
    ranking = ranking_of(network)
    sizes = {**full_sizes(ranking), "stage1.width": 4, "stage1.block0.value": 7, "stage1.block1.value": 9}
    assert "stage1.heads" not in sizes
    kept = ranking.kept(sizes)  # type: ignore[attr-defined]
    assert list(kept.stages[1].width) == sorted(kept.stages[1].width) and len(kept.stages[1].width) == 24
    images = pictures_for(network.config)
    pruned, masked = ranking.pruned(network, sizes), ranking.masked(network, sizes)
    assert relative_error(pruned(images).detach(), masked(images).detach()) < 1e-12


def test_blocks_with_fewer_values_than_their_split_reach_its_front_only() -> None:
    """No channel may cross the line up to which a block adds, wherever the scores would put it."""
    first, stage = tiny().stages
    narrow = tuple(replace(block, value_dim=dim) for block, dim in zip(stage.blocks, (12, 5), strict=True))
    network = network_of(replace(tiny(), stages=(first, replace(stage, blocks=narrow))))
    ranking = ranking_of(network)
    ranking.scores["stage1.block0.value"][:, 5:] += 1  # type: ignore[attr-defined]  # the front is worth least
    sizes = {**full_sizes(ranking), "stage1.block0.value": 8, "stage1.block1.value": 3}
    images = pictures_for(network.config)
    pruned, masked = ranking.pruned(network, sizes), ranking.masked(network, sizes)
    assert relative_error(pruned(images).detach(), masked(images).detach()) < 1e-12
