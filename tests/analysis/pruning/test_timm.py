"""timm's DeiT and Swin: the cut is exact whichever way attention is computed, and what is saved opens again."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from helpers import randomise, relative_error
from torch import nn

from effvit.analysis.cost import count_costs
from effvit.analysis.pruning.importance import Importance, taylor_scores
from effvit.analysis.pruning.knobs import Ranking, full_sizes
from effvit.analysis.pruning.limits import parse_limit
from effvit.analysis.pruning.plan import make_plan
from effvit.analysis.pruning.prunable import find_prunable
from effvit.errors import ConfigError
from effvit.model.narrow import NarrowAttention


def deit(**settings: Any) -> nn.Module:
    sizes: dict[str, Any] = {"img_size": 32, "depth": 2, "embed_dim": 24, "num_heads": 3, "num_classes": 4}
    return timm.create_model("deit_tiny_patch16_224", **{**sizes, **settings})


def swin() -> nn.Module:
    """Two stages of shifted and unshifted windows, and padded ones: 12 tokens a side, windows of 7."""
    sizes: dict[str, Any] = {"img_size": 48, "depths": (2, 2), "embed_dim": 12, "num_heads": (2, 3), "num_classes": 4}
    return timm.create_model("swin_tiny_patch4_window7_224", strict_img_size=False, **sizes)


NETWORKS = {"deit": (deit, 32), "swin": (swin, 48)}


def ranking_of(network: nn.Module, size: int, *, seed: int = 0, **settings: Any) -> Ranking:
    found = find_prunable(network, (3, size, size), multiple=1, min_share=0, **settings)
    generator = torch.Generator().manual_seed(seed)
    scores = {g.name: torch.rand(g.shape, generator=generator, dtype=torch.float64) for g in found.groups}
    return found.rank(Importance(scores=scores, num_batches=1, num_pictures=1, loss=0.0))


def network_of(name: str, *, fused: bool = True) -> tuple[nn.Module, int]:
    make, size = NETWORKS[name]
    network = randomise(make(), 3).double().eval()
    for module in network.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = fused
    return network, size


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("name", NETWORKS)
def test_pruned_is_masked_and_costs_what_the_plan_says(name: str, fused: bool) -> None:
    network, size = network_of(name, fused=fused)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    ranking = ranking_of(network, size)
    generator = torch.Generator().manual_seed(1)
    sizes = {
        knob.name: int(torch.randint(knob.minimum, knob.size + 1, (), generator=generator)) for knob in ranking.knobs
    }
    pruned, masked = ranking.pruned(network, sizes), ranking.masked(network, sizes)
    images = torch.randn(2, 3, size, size, dtype=torch.float64)
    with torch.no_grad():
        assert relative_error(pruned(images), masked(images)) < 1e-12
        assert relative_error(pruned(images), network(images)) > 1e-2
        whole = ranking.pruned(network, full_sizes(ranking))
        assert relative_error(whole(images), network(images)) < 1e-12
    counted = count_costs(pruned, (3, size, size))
    assert ranking.cost(sizes) == (counted.num_macs, counted.num_params)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    again = ranking_of(pruned, size, seed=2)
    smaller = {knob.name: max(knob.minimum, knob.size // 2) for knob in again.knobs}
    with torch.no_grad():
        assert relative_error(again.pruned(pruned, smaller)(images), again.masked(pruned, smaller)(images)) < 1e-12


def test_queries_and_keys_alone_leave_values_as_they_are() -> None:
    network, size = network_of("deit")
    ranking = ranking_of(network, size, kinds=("qk",))
    sizes = {knob.name: 3 for knob in ranking.knobs}
    pruned, images = ranking.pruned(network, sizes), torch.randn(1, 3, size, size, dtype=torch.float64)
    attention = pruned.get_submodule("blocks.0.attn")
    assert isinstance(attention, NarrowAttention) and (attention.key_dim, attention.value_dim) == (3, 8)
    with torch.no_grad():
        assert relative_error(pruned(images), ranking.masked(network, sizes)(images)) < 1e-12


def test_true_scores_and_a_plan() -> None:
    network, size = network_of("swin")
    found = find_prunable(network, (3, size, size), multiple=2, min_share=0.2)
    batch = torch.randn(3, 3, size, size, dtype=torch.float64), torch.tensor([0, 1, 3])
    ranking = found.rank(taylor_scores(network, found.groups, F.cross_entropy, [batch]))
    plan = make_plan(ranking, parse_limit("params=80%"))
    pruned = ranking.pruned(network, plan.sizes)
    assert sum(p.numel() for p in pruned.parameters()) == plan.cost.params <= 0.8 * plan.full_cost.params
    assert {knob.place for knob in plan.knobs} == {f"layers.{i}.blocks.{j}" for i in (0, 1) for j in (0, 1)}


@pytest.mark.parametrize(
    ("settings", "mixed"), [({"qk_norm": True}, "qk"), ({"scale_attn_norm": True}, "value"), ({"gated": True}, "value")]
)
def test_what_a_norm_or_gate_mixes_is_left_alone_and_kept(settings: dict[str, bool], mixed: str) -> None:
    network = deit(**{name: value for name, value in settings.items() if name != "gated"})
    if settings.get("gated"):
        for block in network.blocks:  # type: ignore[union-attr]
            block.attn = timm.layers.Attention(24, 3, qkv_bias=True, gated=True)
    network = randomise(network, 3).double().eval()
    ranking = ranking_of(network, 32)
    assert {knob.kind for knob in ranking.knobs} == {"qk", "value", "ffn"} - {mixed}
    assert ranking.left_alone == (f"2 x {mixed} of Attention: a norm or gate behind them mixes the channels",)
    sizes = {knob.name: knob.size // 2 for knob in ranking.knobs}
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        assert relative_error(ranking.pruned(network, sizes)(images), ranking.masked(network, sizes)(images)) < 1e-12


def test_where_nothing_can_be_pruned_the_reason_is_said() -> None:
    mixed = deit(qk_norm=True).train()
    mixed.blocks[0].eval()  # type: ignore[index,operator]
    modes = [module.training for module in mixed.modules()]
    with pytest.raises(ConfigError, match="nothing to prune among qk: 2 x qk of Attention: a norm or gate"):
        find_prunable(mixed, (3, 32, 32), kinds=("qk",))
    with pytest.raises(ConfigError, match="Sequential has nothing to prune among qk, .*: it has no Attention, Win"):
        find_prunable(nn.Sequential(nn.Conv2d(3, 4, 3)), (3, 32, 32))
    with pytest.raises(ConfigError, match="does not run on an input of 1x3x48x48: Input height"):
        find_prunable(mixed, (3, 48, 48))
    assert [module.training for module in mixed.modules()] == modes
