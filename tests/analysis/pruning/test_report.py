"""What a plan says of itself is what it does."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch

from effvit.analysis.pruning.importance import Importance
from effvit.analysis.pruning.limits import parse_limit
from effvit.analysis.pruning.plan import Plan, make_plan
from effvit.analysis.pruning.prunable import find_prunable
from effvit.analysis.pruning.report import Trial, pruning_report
from effvit.analysis.report import Report, as_text, write_report
from effvit.model.config import EfficientViTConfig
from effvit.model.network import EfficientViT
from effvit.model.variants import variant_config


@cache
def made(limit: str = "macs=60%", *, random: bool = False, heads_worth: float | None = None) -> tuple[Plan, Report]:
    """A plan and its report; heads may be told what they are worth."""
    config = replace(variant_config("efficientvit_tiny"), image_size=(64, 64))
    found = find_prunable(EfficientViT(config), (3, 64, 64), min_share=0.2)
    generator = torch.Generator().manual_seed(0)
    scores = {g.name: torch.rand(g.shape, generator=generator, dtype=torch.float64) for g in found.groups}
    for name, values in scores.items():
        if heads_worth is not None and name.endswith(".heads"):
            values.fill_(heads_worth)
    importance = Importance(scores=scores, num_batches=2, num_pictures=9, loss=1.5)
    network = EfficientViT(config)
    plan = make_plan(
        found.rank(importance),
        parse_limit(limit),
        network=network,
        latency=lambda small: (_size(small), _size(network)),
    )
    report = pruning_report(
        plan,
        importance,
        label="tiny",
        weights="random" if random else "run",
        conditions="how",
        record={"command": "effvit analyze prune"},
        trial=Trial(full=(1.5, 0.75, 8), pruned=(1.75, 0.5, 8)),
    )
    return plan, report


def _size(network: torch.nn.Module) -> float:
    return sum(parameter.numel() for parameter in network.parameters()) / 1e4


def test_tables_tell_every_knob_and_add_up() -> None:
    plan, report = made()
    totals, places, kinds = report.tables
    assert totals.rows[0][:3] == ("MACs, M", f"{plan.full_cost.macs / 1e6:.4g}", f"{plan.cost.macs / 1e6:.4g}")
    assert len(places.rows) == len(plan.knobs)
    saved = (plan.full_cost.macs - plan.cost.macs) / 1e6
    assert sum(float(row[7]) for row in places.rows) == pytest.approx(saved, rel=0.02)
    assert sum(float(row[2]) for row in kinds.rows) == pytest.approx(saved, rel=0.02)
    for knob, row in zip(plan.knobs, places.rows, strict=True):
        if knob.kind == "ffn":
            config = plan.network["stages"]
            assert float(row[5]) == pytest.approx(knob.size / knob.width, abs=0.005)
            assert plan.surroundings[knob.name].width in {stage["width"] for stage in config}


def test_channels_that_stay_are_those_of_heads_that_stay() -> None:
    plan, report = made(heads_worth=0.0)
    kept = {knob.name: plan.sizes[knob.name] for knob in plan.knobs if knob.kind == "heads"}
    assert min(kept.values()) == 1  # of two: one left
    before, after = (
        sum(block.num_heads * block.key_dim for stage in config.stages for block in stage.blocks)
        for config in (variant_config("efficientvit_tiny"), EfficientViTConfig.from_dict(plan.network))
    )
    assert {row[0]: row[1] for row in report.tables[2].rows}["Q/K channels"] == f"{after / before:.0%}"


def test_findings_are_sentences_with_the_numbers() -> None:
    plan, report = made()
    text = as_text(report)
    assert f"({plan.cost.macs / plan.full_cost.macs:.1%})" in report.findings[0]
    assert "on 8 held-out pictures: top-1 75.0% -> 50.0%, loss 1.500 -> 1.750" in text
    assert "Most is saved in " in text and "Importance is the change of the loss" in text
    assert "random" not in text
    assert "The weights are random: the scores say nothing about a trained network." in as_text(made(random=True)[1])


def test_latency_is_told_where_it_was_measured() -> None:
    plan, report = made("latency=80%")
    assert plan.latency_ms is not None and plan.latency_ms[0] <= 0.8 * plan.latency_ms[1]
    assert report.tables[0].rows[2][0] == "latency, ms"
    assert any(finding.startswith("Measured in turns: ") for finding in report.findings)


def test_files(tmp_path: Path) -> None:
    plan, report = made()
    names = write_report(report, tmp_path)
    assert names == ["record.json", "report.md", "ratios.png", "importance.png", "page.html"]
    record = json.loads((tmp_path / "record.json").read_text())
    assert record["analysis"] == "prune" and record["plan"] == json.loads(json.dumps(plan.to_dict()))
    assert record["before_fine_tuning"]["pruned"] == {"loss": 1.75, "top1": 0.5, "num_pictures": 8}
    assert (tmp_path / "ratios.png").stat().st_size > 10_000


def test_charts_show_what_stays() -> None:
    plan, report = made()
    ratios, importance = (chart.draw() for chart in report.charts)
    titles = [panel.get_title() for panel in ratios.axes]
    assert titles == ["Q/K", "V", "FFN", "width"]
    panel = ratios.axes[0]
    knobs = [knob for knob in plan.knobs if knob.kind == "qk"]
    widths = [bar.get_width() for bar in panel.patches]
    assert widths[::2] == pytest.approx([knob.size * knob.heads / knob.width for knob in knobs])
    around = [plan.surroundings[knob.name] for knob in knobs]
    expected = [plan.sizes[k.name] * a.heads / a.width for k, a in zip(knobs, around, strict=True)]
    assert widths[1::2] == pytest.approx(expected)
    (line,) = importance.axes[0].lines
    assert len(line.get_xdata()) == len(plan.steps)
    assert line.get_xdata()[-1] == pytest.approx(plan.cost.macs / 1e6)
