"""Plans meet their limit with the first step that does, and say what could not be met."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from pruning_networks import network_of
from torch import nn

from effvit.analysis.pruning.costs import Cost
from effvit.analysis.pruning.importance import Importance
from effvit.analysis.pruning.knobs import Knob, Ranking, Surroundings, check_kinds, full_sizes, make_knob
from effvit.analysis.pruning.limits import Limit, parse_limit
from effvit.analysis.pruning.plan import Plan, make_plan
from effvit.analysis.pruning.prunable import find_prunable
from effvit.errors import ConfigError
from effvit.model.network import EfficientViT
from effvit.model.variants import family_config, variant_config


class Rods(Ranking):
    """A network that is two numbers: `dear` and `cheap` units of 10 and 1 MACs, worth what they are told."""

    def __init__(self, worth: Mapping[str, list[float]], macs: Mapping[str, int]) -> None:
        self.worth, self.macs, self.left_alone = worth, macs, ()
        self.knobs = tuple(
            Knob(name=name, kind="ffn", place=name, size=len(values), step=1, minimum=1, width=4)
            for name, values in worth.items()
        )

    def cost(self, sizes: Mapping[str, int]) -> Cost:
        macs = sum(self.macs[name] * size for name, size in sizes.items())
        return Cost(macs, 2 * macs)

    def lost(self, sizes: Mapping[str, int]) -> float:
        return sum(sum(sorted(self.worth[name])[: len(self.worth[name]) - size]) for name, size in sizes.items())

    def settled(self, sizes: Mapping[str, int]) -> dict[str, int]:
        return dict(sizes)

    def pruned(self, network: nn.Module, sizes: Mapping[str, int]) -> nn.Module:
        return nn.Linear(self.cost(sizes).macs, 1)

    def masked(self, network: nn.Module, sizes: Mapping[str, int]) -> nn.Module:
        raise NotImplementedError

    def surroundings(self, sizes: Mapping[str, int]) -> dict[str, Surroundings]:
        return {knob.name: Surroundings(4, 1) for knob in self.knobs}

    def describe(self, sizes: Mapping[str, int]) -> dict[str, Any]:
        return dict(sizes)


RODS = Rods({"dear": [3.0, 4.0, 5.0], "cheap": [1.0, 2.0, 2.5]}, {"dear": 10, "cheap": 1})


def path(plan: Plan) -> list[str]:
    return [step.knob for step in plan.steps[1:]]


def test_per_cost_and_plain_choose_differently() -> None:
    """30 + 3 MACs down to 23: a dear unit loses 0.3 per MAC, a cheap one 1; but a cheap one loses less in itself."""
    limit = Limit(kind="macs", amount=23, is_share=False)
    assert path(make_plan(RODS, limit)) == ["dear"]
    assert path(make_plan(RODS, limit, order="plain")) == ["cheap", "cheap", "dear"]


def test_what_each_knob_saved_and_lost_adds_up() -> None:
    plan = make_plan(RODS, Limit(kind="params", amount=0.4))
    assert plan.cost.params <= 0.4 * plan.full_cost.params < plan.steps[-2].cost.params
    spent = plan.spent()
    assert sum(each.macs for each in spent.values()) == plan.full_cost.macs - plan.cost.macs
    assert sum(each.params for each in spent.values()) == plan.full_cost.params - plan.cost.params
    assert sum(each.lost for each in spent.values()) == pytest.approx(plan.steps[-1].lost)
    assert plan.total_importance == 17.5
    assert plan.to_dict()["knobs"][0]["size"] == {"full": 3, "pruned": plan.sizes["dear"]}


def scored(network: EfficientViT, **settings: Any) -> Ranking:
    found = find_prunable(network, (3, *network.config.image_size), **settings)
    generator = torch.Generator().manual_seed(0)
    scores = {g.name: torch.rand(g.shape, generator=generator, dtype=torch.float64) for g in found.groups}
    return found.rank(Importance(scores=scores, num_batches=1, num_pictures=1, loss=0.0))


@pytest.mark.parametrize("kind", ["macs", "params"])
@pytest.mark.parametrize("order", ["per_cost", "plain"])
def test_a_plan_for_a_network_ends_with_the_first_step_that_fits(kind: Any, order: Any) -> None:
    ranking = scored(EfficientViT(replace(variant_config("efficientvit_tiny"), image_size=(64, 64))))
    plan = make_plan(ranking, Limit(kind=kind, amount=0.7), order=order)
    costs = [getattr(step.cost, kind) for step in plan.steps]
    assert costs == sorted(costs, reverse=True) and costs[-1] <= 0.7 * costs[0] < costs[-2]
    losses = [step.lost for step in plan.steps]
    assert losses[0] == 0 and losses == sorted(losses) and losses[-1] < plan.total_importance
    for knob in ranking.knobs:
        size = plan.sizes[knob.name]
        assert size == knob.size or (size >= knob.minimum and size % knob.step == 0)


def test_without_steps_a_plan_loses_everything_it_could() -> None:
    """All that can be removed is in the total: heads are their channels and do not count again."""
    ranking = scored(network_of(variant_config("efficientvit_tiny")), multiple=1, min_share=0)
    gone = ranking.lost({k.name: k.size if k.kind == "heads" else 0 for k in ranking.knobs})
    scores = ranking.scores  # type: ignore[attr-defined]
    assert gone == pytest.approx(sum(float(s.sum()) for name, s in scores.items() if not name.endswith(".heads")))
    assert ranking.lost(full_sizes(ranking)) == 0


def test_heads_take_their_channels_along() -> None:
    """With a head its share of width, V and Q/K is gone: it is counted as the head's alone."""
    ranking = scored(network_of(variant_config("efficientvit_tiny")), multiple=1, min_share=0)
    scores = ranking.scores  # type: ignore[attr-defined]
    sizes = {**full_sizes(ranking), "stage1.heads": 1, "stage1.width": 7, "stage1.block0.qk": 9}
    left = ranking.kept(sizes).stages[1].blocks[0].heads[0]  # type: ignore[attr-defined]
    expected = (
        scores["stage1.heads"][0, 1 - left] + scores["stage1.block0.qk"][left].topk(7, largest=False).values.sum()
    )
    rest = ranking.lost(sizes) - float(expected)
    kept = [channel - left * 12 for channel in ranking.kept(sizes).stages[1].width]  # type: ignore[attr-defined]
    assert rest == pytest.approx(float(scores["stage1.width"][left].sum() - scores["stage1.width"][left, kept].sum()))
    assert len(kept) == 7


def test_latency_is_met_by_halving() -> None:
    asked: list[int] = []

    def stopwatch(candidate: nn.Module) -> tuple[float, float]:
        asked.append(candidate.in_features)  # type: ignore[arg-type]
        return float(candidate.in_features), 33.0  # type: ignore[arg-type]

    plan = make_plan(RODS, parse_limit("latency=50%"), network=nn.Identity(), latency=stopwatch)
    assert plan.latency_ms == (13.0, 33.0) and plan.cost.macs == 13
    assert plan.steps[-2].cost.macs > 16.5
    assert asked[0] == 11 and len(asked) <= 4
    exact = make_plan(RODS, parse_limit("latency=23ms"), network=nn.Identity(), latency=stopwatch)
    assert exact.cost.macs == 23


@pytest.mark.parametrize(
    ("limit", "message"),
    [
        (
            "macs=10%",
            r"the limit macs=10% cannot be met: that is 3.3 MACs, .* 11 MACs, 33.3% of 33 MACs",
        ),
        ("params=1k", "nothing to prune: the network takes 66 parameters already, and the limit is 0.001 M"),
        ("macs=1", "the limit macs=1 cannot be met: that is 1 MACs"),
        ("latency=10%", "the limit latency=10% cannot be met: that is 3.3 ms, .* to is 11 ms, 33.3% of 33 ms"),
        ("latency=40ms", "nothing to prune: the network takes 33 ms already, and the limit is 40 ms"),
    ],
)
def test_what_cannot_be_met_is_said(limit: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_plan(
            RODS,
            parse_limit(limit),
            network=nn.Identity(),
            latency=lambda candidate: (float(candidate.in_features), 33.0),  # type: ignore[arg-type]
        )


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("macs=70%", Limit(kind="macs", amount=0.7)),
        ("macs=140M", Limit(kind="macs", amount=140e6, is_share=False)),
        ("params = 1.5m", Limit(kind="params", amount=1.5e6, is_share=False)),
        ("LATENCY=6ms", Limit(kind="latency", amount=6, is_share=False)),
        ("macs=1234567", Limit(kind="macs", amount=1234567, is_share=False)),
        ("params=1k", Limit(kind="params", amount=1000, is_share=False)),
    ],
)
def test_limits_are_read(text: str, limit: Limit) -> None:
    assert parse_limit(text) == limit
    assert parse_limit(str(limit)) == limit


@pytest.mark.parametrize(
    "text", ["", "70%", "macs", "macs=", "macs=-3", "macs=6ms", "latency=6", "latency=6M", "flops=1M"]
)
def test_other_limits_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"limit must be like macs=70%, macs=140M, params=3M, latency=80% or"):
        parse_limit(text)


@pytest.mark.parametrize("text", ["macs=100%", "macs=0%", "macs=100.001%", "latency=250%", "params=0"])
def test_limits_without_sense_are_refused(text: str) -> None:
    message = "a limit must be above 0" if text == "params=0" else "a limit in percent must be above 0% and below 100%"
    with pytest.raises(ConfigError, match=rf"^{message}, got {text}$"):
        parse_limit(text)


def test_knobs_have_friendly_sizes() -> None:
    common: dict[str, Any] = {"place": "", "width": 64, "min_share": 0.1}
    hidden = make_knob("a", "ffn", size=130, multiple=8, **common)
    assert (hidden.below(130), hidden.below(128), hidden.below(16), hidden.minimum) == (128, 120, None, 13)
    assert make_knob("a", "qk", size=16, multiple=8, heads=4, **common).step == 2
    assert make_knob("a", "value", size=16, multiple=8, heads=4, **common).step == 4
    assert [make_knob("a", "width", size=16, multiple=8, heads=h, **common).step for h in (1, 2, 3, 4)] == [8, 4, 8, 2]
    assert make_knob("a", "ffn", size=3, multiple=8, **common).below(3) is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kinds": ("ffm",)}, "unknown part to prune 'ffm' .did you mean 'ffn'"),
        ({"kinds": ()}, "no part to prune is named; there are qk, value, ffn"),
        ({"multiple": 0}, "multiple must be at least 1, got 0"),
        ({"min_share": 1.0}, "min_share must be at least 0 and below 1, got 1.0"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    network = EfficientViT(replace(variant_config("efficientvit_tiny"), image_size=(32, 32)))
    with pytest.raises(ConfigError, match=message):
        find_prunable(network, (3, 32, 32), **settings)


def test_a_kind_that_is_not_there_and_an_order_that_is_none() -> None:
    config = family_config("one", widths=(16,), depths=(1,), num_heads=(1,), query_kernels=(3,))
    with pytest.raises(ConfigError, match="one has nothing to prune among merge, squeeze"):
        find_prunable(EfficientViT(config), (3, 224, 224), kinds=("merge", "squeeze"))
    with pytest.raises(ConfigError, match="unknown order 'best'.*known: per_cost, plain"):
        make_plan(RODS, parse_limit("macs=50%"), order="best")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="a limit of latency needs the network and a stopwatch"):
        make_plan(RODS, parse_limit("latency=50%"))
    assert check_kinds(("qk", "ffn")) == ("qk", "ffn")
