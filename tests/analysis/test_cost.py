"""Sums of costs: the paper's six, exact, and how rows of tables add up."""

from __future__ import annotations

import json
from functools import partial

import pytest
import timm
import torch
from counted import costs_of
from torch import nn

import effvit
from effvit.analysis.cost import Cost, Costs, count_costs
from effvit.model.variants import PUBLISHED

PINNED = {
    # name: activations, bytes read, bytes written; one picture of 224 x 224 in float32
    "efficientvit_m0": (911_808, 21_889_464, 10_618_000),
    "efficientvit_m1": (1_329_110, 30_109_672, 15_840_560),
    "efficientvit_m2": (1_469_150, 36_741_368, 17_407_864),
    "efficientvit_m3": (1_619_294, 49_704_248, 19_188_344),
    "efficientvit_m4": (1_696_256, 58_386_840, 20_093_584),
    "efficientvit_m5": (2_405_357, 82_740_200, 28_686_840),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_papers_six(name: str) -> None:
    costs = costs_of(name)
    assert costs.traced_on == "meta"
    assert costs.uncounted == {}
    assert (costs.num_params, costs.num_macs) == (PUBLISHED[name].num_params, PUBLISHED[name].num_macs)
    assert (costs.num_activations, costs.bytes_read, costs.bytes_written) == PINNED[name]


@pytest.fixture(scope="module")
def costs() -> Costs:
    return count_costs(effvit.create_model("efficientvit_tiny"), (3, 64, 64))


SUMMED = ("num_calls", "num_views", "num_macs", "num_activations", "bytes_read", "bytes_written", "num_uncounted")


def sums(rows: list[Cost]) -> list[int]:
    return [sum(getattr(row, name) for row in rows) for name in SUMMED]


def test_every_split_holds_every_call_once(costs: Costs) -> None:
    total = sums([costs.total()])
    assert total[2] == costs.num_macs > 0
    assert costs.total().bytes_moved == costs.bytes_moved > 0
    for depth in range(6):
        rows = costs.split(depth)
        assert sums(rows) == total
        assert len({row.name for row in rows}) == len(rows)
    assert [row.name for row in costs.split(0)] == [""]
    assert sums(costs.by_operator()) == total


def test_modules_hold_what_lies_below_them(costs: Costs) -> None:
    rows = {row.name: row for row in costs.by_module()}
    assert rows[""] == costs.total()
    below = [rows["stem"], rows["stages"], rows["head"]]
    own = [row for row in costs.split(1) if row.name == ""]
    assert [row.num_calls for row in own] == [1]  # the mean over positions
    assert sums(below + own) == sums([rows[""]])
    parts = [rows[f"stages.1.{index}"] for index in range(2)]
    assert sums(parts) == sums([rows["stages.1"]])
    assert list(rows) == [name for name, _ in effvit.create_model("efficientvit_tiny").named_modules() if name in rows]


def test_bytes_of_layers_seen_from_outside() -> None:
    """What goes in, what comes out and the tensors a layer holds, measured on real tensors by hooks."""
    network = effvit.create_model("efficientvit_tiny").eval()
    moved: dict[str, int] = {}

    def measure(name: str, module: nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
        held = [*module.parameters(), *(b for b in module.buffers() if b.is_floating_point())]
        moved[name] = sum(4 * tensor.numel() for tensor in (*inputs, output, *held))

    for name, module in network.named_modules():
        if isinstance(module, (nn.Conv2d, nn.BatchNorm2d, nn.BatchNorm1d, nn.Linear, nn.ReLU)):
            module.register_forward_hook(partial(measure, name))
    with torch.no_grad():
        network(torch.zeros(1, 3, 64, 64))
    rows = {row.name: row.bytes_moved for row in count_costs(network, (3, 64, 64)).by_module()}
    once = [name for name in moved if not name.endswith("act")]  # those run several times under one name
    assert len(once) > 50
    assert {name: rows[name] for name in once} == {name: moved[name] for name in once}


def test_depth_of_a_table(costs: Costs) -> None:
    assert [row.name for row in costs.by_module(0)] == [""]
    assert [row.name for row in costs.by_module(1)] == ["", "stem", "stages", "head"]
    assert costs.by_module(99) == costs.by_module()


def test_parameters_of_modules() -> None:
    network = timm.create_model("mobilenetv3_small_050")
    rows = count_costs(network, (3, 64, 64)).by_module()
    modules = dict(network.named_modules())
    assert len(rows) > 20
    for row in rows:
        assert row.num_params == sum(p.numel() for p in modules[row.name].parameters())
        assert row.kind == type(modules[row.name]).__name__


def test_everything_but_the_weights_grows_with_the_batch(costs: Costs) -> None:
    eight = count_costs(effvit.create_model("efficientvit_tiny"), (3, 64, 64), batch_size=8)
    assert eight.num_params == costs.num_params
    assert eight.num_macs == 8 * costs.num_macs
    assert eight.num_activations == 8 * costs.num_activations
    assert costs.bytes_read < eight.bytes_read < 8 * costs.bytes_read  # weights are read once a batch
    two = count_costs(effvit.create_model("efficientvit_tiny"), (3, 64, 64), batch_size=2)
    assert (eight.bytes_read - two.bytes_read) == 6 * (two.bytes_read - costs.bytes_read)


def test_rows_of_operators_are_sorted_by_work(costs: Costs) -> None:
    rows = costs.by_operator()
    assert rows[0].name == "aten::convolution"
    keys = [(row.num_macs, row.bytes_moved) for row in rows]
    assert keys == sorted(keys, reverse=True)
    assert rows[0].intensity == rows[0].num_macs / (rows[0].bytes_read + rows[0].bytes_written)
    assert rows[-1].intensity == 0


def test_plain_values(costs: Costs) -> None:
    values = json.loads(json.dumps(costs.to_dict()))
    assert "calls" not in values
    assert values["num_macs"] == costs.num_macs
    assert sum(row["bytes_read"] for row in values["operators"]) == costs.bytes_read
    assert len(json.loads(json.dumps(costs.to_dict(calls=True)))["calls"]) == len(costs.calls)
