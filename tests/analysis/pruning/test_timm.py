"""timm's DeiT and Swin: the cut is exact whichever way attention is computed, and what is saved opens again."""

from __future__ import annotations

from pathlib import Path
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
from effvit.analysis.pruning.saved import load_pruned, save_pruned
from effvit.analysis.pruning.timm_layers import NarrowAttention, narrow
from effvit.errors import ConfigError, WeightsError
from effvit.model.sources import find_model
from effvit.preprocessing import Preprocessing


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


def test_masks_of_tokens_still_count() -> None:
    network, _ = network_of("deit", fused=False)
    original: Any = network.get_submodule("blocks.0.attn")
    same = NarrowAttention(original, key_dim=8, value_dim=8)
    same.load_state_dict(original.state_dict())
    tokens = torch.randn(2, 5, 24, dtype=torch.float64)
    allowed = torch.rand(2, 1, 5, 5) < 0.7
    allowed |= torch.eye(5, dtype=torch.bool)
    for fused in (True, False):
        same.fused_attn = fused
        for mask in (allowed, torch.randn(2, 1, 5, 5, dtype=torch.float64)):
            with torch.no_grad():
                assert relative_error(same(tokens, attn_mask=mask), original(tokens, attn_mask=mask)) < 1e-12


def test_true_scores_and_a_plan() -> None:
    network, size = network_of("swin")
    found = find_prunable(network, (3, size, size), multiple=2, min_share=0.2)
    batch = torch.randn(3, 3, size, size, dtype=torch.float64), torch.tensor([0, 1, 3])
    ranking = found.rank(taylor_scores(network, found.groups, F.cross_entropy, [batch]))
    plan = make_plan(ranking, parse_limit("params=80%"))
    pruned = ranking.pruned(network, plan.sizes)
    assert sum(p.numel() for p in pruned.parameters()) == plan.cost.params <= 0.8 * plan.full_cost.params
    assert {knob.place for knob in plan.knobs} == {f"layers.{i}.blocks.{j}" for i in (0, 1) for j in (0, 1)}


def test_what_a_norm_mixes_is_left_alone_and_said() -> None:
    mixed = deit(qk_norm=True).eval()
    ranking = ranking_of(mixed, 32)
    assert {knob.kind for knob in ranking.knobs} == {"value", "ffn"}
    assert ranking.left_alone == ("2 x qk of Attention: a norm or gate behind them mixes the channels",)
    with pytest.raises(ConfigError, match="nothing to prune among qk: 2 x qk of Attention: a norm or gate"):
        find_prunable(mixed, (3, 32, 32), kinds=("qk",))
    with pytest.raises(ConfigError, match="Sequential has nothing to prune among qk, .*: it has no Attention, Win"):
        find_prunable(nn.Sequential(nn.Conv2d(3, 4, 3)), (3, 32, 32))


def test_saved_and_opened_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_networks.py").write_text(
        "import timm\ndef make():\n    return timm.create_model('deit_tiny_patch16_224', img_size=32, depth=2,"
        " embed_dim=24, num_heads=3, num_classes=4)\n"
    )
    monkeypatch.chdir(tmp_path)
    source = "own_networks:make"
    network = randomise(find_model(source).network, 3).eval()
    ranking = ranking_of(network, 32)
    pruned = ranking.pruned(network, {knob.name: knob.size // 2 for knob in ranking.knobs})
    preprocessing = Preprocessing(image_size=(32, 32))
    folder = save_pruned(
        "pruned", pruned, source=source, image_size=(32, 32), preprocessing=preprocessing, class_names=list("abcd")
    )
    found = load_pruned(folder)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(found.network(images), pruned(images))
    assert (found.class_names, found.preprocessing, found.weights) == (tuple("abcd"), preprocessing, "pruned")
    assert found.label == "own_networks:make pruned" and found.input_size == (3, 32, 32)
    (tmp_path / "own_networks.py").write_text("import torch\ndef make():\n    return torch.nn.Linear(2, 2)\n")
    monkeypatch.delitem(__import__("sys").modules, "own_networks")
    with pytest.raises(WeightsError, match="pruned does not hold a pruned network: these shapes are for another"):
        load_pruned(folder)


def test_folders_of_something_else_are_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="is no pruned network: it has no pruned.json"):
        load_pruned(tmp_path)
    (tmp_path / "pruned.json").write_text("[]")
    with pytest.raises(WeightsError, match="pruned.json does not describe a pruned network"):
        load_pruned(tmp_path)
    (tmp_path / "pruned.json").write_text('{"format": "effvit-pruned/1"}')
    with pytest.raises(WeightsError, match="does not hold a pruned network: 'image_size'"):
        load_pruned(tmp_path)
    with pytest.raises(ConfigError, match=r"shapes are for another network: head is a Linear"):
        narrow(deit(), {"head": {"hidden_dim": 3}})
