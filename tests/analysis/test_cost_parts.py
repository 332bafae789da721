"""A network cut into rows: every call once, neighbours alike, not too many."""

from __future__ import annotations

import pytest
import torch
from counted import costs_of
from torch import nn

from effvit.analysis.cost import Costs, count_costs
from effvit.analysis.cost_parts import Part, parts

NETWORKS = ("efficientvit_m0", "swin_tiny_patch4_window7_224", "mobilenetv3_large_100", "resnet18")


@pytest.fixture(scope="module", params=NETWORKS)
def costs(request: pytest.FixtureRequest) -> Costs:
    return costs_of(request.param)


@pytest.mark.parametrize("max_rows", [1, 8, 24, 1000])
def test_every_byte_and_mac_is_in_one_part(costs: Costs, max_rows: int) -> None:
    rows = parts(costs, max_rows=max_rows)
    assert sum(row.cost.num_macs for row in rows) == costs.num_macs
    assert sum(row.cost.bytes_moved for row in rows) == costs.bytes_moved
    assert len({row.label for row in rows}) == len(rows)
    assert all(row.cost.bytes_moved for row in rows)


def test_number_of_rows(costs: Costs) -> None:
    """At most as many as asked for, but for modules that are half of the network; enough to say something."""
    assert 4 < len(parts(costs)) <= 24
    assert len(parts(costs, max_rows=8)) <= 14
    assert len(parts(costs, max_rows=1000)) > 24


def test_modules_of_a_kind_are_cut_alike(costs: Costs) -> None:
    """No module stands beside the inside of another of its class."""
    kinds = {facts.name: facts.kind for facts in costs.modules}
    rows = parts(costs)
    whole = {row.cost.kind for row in rows if not row.is_rest and _has_inside(costs, row)}
    names = [row.cost.name for row in rows]
    opened = {kinds[name.rpartition(".")[0]] for name in names if "." in name and name.rpartition(".")[0] not in names}
    generic = {"Sequential", "ModuleList"}  # of different contents
    assert not (whole & opened) - generic


def _has_inside(costs: Costs, row: Part) -> bool:
    return any(call.module.startswith(f"{row.cost.name}.") for call in costs.calls)


def test_blocks_of_swin_stand_side_by_side() -> None:
    costs = costs_of("swin_tiny_patch4_window7_224")
    labels = [row.label for row in parts(costs)]
    blocks = [f"layers.{stage}.blocks.{block}" for stage, depth in enumerate((2, 2, 6, 2)) for block in range(depth)]
    assert [label for label in labels if "blocks" in label] == blocks
    assert [row.label for row in parts(costs, max_rows=8)] == [
        "patch_embed", "layers.0", "layers.1", "layers.2", "layers.3", "norm", "head"
    ]  # fmt: skip


def test_what_a_module_calls_itself_is_the_rest() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 3, 1), nn.ReLU()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.second(self.first(x)) + x

    rows = parts(count_costs(Net(), (3, 8, 8)))
    assert [(row.label, row.is_rest, row.cost.num_calls) for row in rows] == [
        ("first", False, 1),
        ("second", False, 1),
        ("the network (itself)", True, 1),
    ]
    assert [row.cost.kind for row in rows] == ["Conv2d", "ReLU", "Net"]
    assert rows[0].cost.num_params == 12


def test_one_layer_is_one_part() -> None:
    rows = parts(count_costs(nn.Conv2d(3, 3, 1), (3, 8, 8)))
    assert [(row.cost.name, row.is_rest) for row in rows] == [("", False)]
    assert parts(count_costs(nn.Identity(), (3, 8, 8))) == []
