"""What a report of costs says, and that its numbers are the counter's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from counted import costs_of
from torch import Tensor, nn

import effvit
from effvit.analysis.cost import Costs, count_costs
from effvit.analysis.cost_charts import bytes_by_class
from effvit.analysis.cost_report import costs_report, findings
from effvit.analysis.report import as_text, write_report
from effvit.errors import ConfigError
from effvit.model.variants import PUBLISHED
from effvit.operators import ELEMENTWISE, NORMS, PRODUCTS


@pytest.fixture(scope="module")
def models() -> dict[str, Costs]:
    tiny = count_costs(effvit.create_model("efficientvit_tiny"), (3, 64, 64), batch_size=2)
    return {"efficientvit_m0": costs_of("efficientvit_m0"), "efficientvit_tiny": tiny}


def test_it_holds_every_model(models: dict[str, Costs]) -> None:
    report = costs_report(models, command="effvit profile efficientvit_m0 efficientvit_tiny --cost-only")
    assert report.kind == "costs"
    assert report.conditions.startswith(
        "Batch 1, 2, 224 x 224, 64 x 64 pixels, float32, evaluation mode; counted, not measured."
    )
    titles = [table.title for table in report.tables]
    for name in models:
        assert {f"{name}, by stage", f"{name}, by operator"} <= set(titles)
    assert [row[0] for row in report.tables[0].rows] == list(models)
    m0 = report.tables[0].rows[0]
    assert m0[1:3] == ("2.35", "79.2")
    assert all(len(row) == len(table.columns) for table in report.tables for row in table.rows)


def test_shares_add_up(models: dict[str, Costs]) -> None:
    for table in costs_report(models).tables:
        if ", by " in table.title:
            for column in ("MACs %", "bytes %"):
                shares = [float(row[table.columns.index(column)]) for row in table.rows]
                assert sum(shares) == pytest.approx(100, abs=0.05 * len(shares))
        if table.title.startswith("Bytes by class"):
            assert all(sum(map(float, row[1:])) == pytest.approx(100, abs=0.5) for row in table.rows)


def test_the_record_is_exact_and_plain(models: dict[str, Costs]) -> None:
    record = json.loads(json.dumps(costs_report(models, command="c").record))
    assert (record["analysis"], record["command"]) == ("costs", "c")
    first = record["models"][0]
    assert first["label"] == "efficientvit_m0"
    assert first["num_macs"] == PUBLISHED["efficientvit_m0"].num_macs
    assert sum(first["bytes_by_class"].values()) == first["bytes_read"] + first["bytes_written"]


def test_it_is_written(models: dict[str, Costs], tmp_path: Path) -> None:
    tiny = {"efficientvit_tiny": models["efficientvit_tiny"]}
    names = write_report(costs_report(tiny), tmp_path)
    assert names == ["record.json", "report.md", "bytes.png", "parts-1.png", "page.html"]
    assert all((tmp_path / name).stat().st_size > 1000 for name in names)
    assert "efficientvit_tiny, by stage" in (tmp_path / "report.md").read_text()


def test_bytes_by_class_by_hand() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU())
    moved = bytes_by_class(count_costs(network, (3, 6, 6)))
    assert {kind: count for kind, count in moved.items() if count} == {
        PRODUCTS: 4 * (108 + 108 + 64),
        NORMS: 4 * (64 + 16 + 64),
        ELEMENTWISE: 4 * 128,
    }


def test_whatever_multiplies_is_a_product(models: dict[str, Costs]) -> None:
    costs = models["efficientvit_m0"]
    assert bytes_by_class(costs)[PRODUCTS] == sum(call.bytes_moved for call in costs.calls if call.num_macs)
    (table,) = (table for table in costs_report(models).tables if table.title == "efficientvit_m0, by operator")
    kinds = {row[0]: row[1] for row in table.rows}
    assert kinds["aten::baddbmm"] == kinds["aten::convolution"] == PRODUCTS
    assert kinds["aten::relu_"] == ELEMENTWISE


class Odd(nn.Module):
    """Reads a number, and multiplies in a way that nobody counts."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, groups=3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x if x.mean() > 1 else x + 1)
        return torch.linalg.inv(x + torch.eye(x.shape[-1]))


class Unread(nn.Module):
    """Holds a table of which it reads two rows."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(10_000, 8)

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.table(torch.arange(2).repeat(4)).detach()


def test_findings_say_what_was_not_counted_and_what_stands_out() -> None:
    said = findings("odd", count_costs(Odd(), (3, 8, 8)))
    assert any("NOT COUNTED" in sentence and "aten::linalg_inv_ex (1)" in sentence for sentence in said)
    assert any("ran on real tensors (cpu): Tensor.item() cannot be called on meta" in sentence for sentence in said)
    assert any("depth-wise convolutions do 100.0 % of the MACs" in sentence for sentence in said)
    plain = findings("linear", count_costs(nn.Sequential(nn.Flatten(), nn.Linear(192, 1000)), (3, 8, 8)))
    assert plain[0].startswith("linear: 0.2 M MACs and 0.8 MB moved, 0.2 MACs per byte; 0.0 % of the bytes")
    assert any("the weights take 0.8 MB, 99.4 % of what is moved; a larger batch" in sentence for sentence in plain)
    unread = findings("unread", count_costs(nn.Sequential(nn.Identity(), Unread()), (3, 8, 8)))
    assert not any("the weights" in sentence for sentence in unread)
    assert not any("NOT COUNTED" in sentence or "depth-wise" in sentence for sentence in plain)


def test_a_network_that_does_nothing_has_a_report() -> None:
    report = costs_report({"nothing": count_costs(nn.Identity(), (3, 8, 8))})
    assert "0.0 M MACs" in as_text(report)
    for chart in report.charts:
        chart.draw()


def test_no_model() -> None:
    with pytest.raises(ConfigError, match="at least one model"):
        costs_report({})
