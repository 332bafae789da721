from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ablation_studies import a_match

from effvit import load
from effvit.analysis.ablations import find_ablations
from effvit.data.datasets import PictureData
from effvit.errors import ConfigError
from effvit.model.config import EfficientViTConfig
from effvit.model.resizing import with_windows
from effvit.model.variants import PUBLISHED, VARIANTS
from effvit.studies import ablation
from effvit.studies.ablation import AblationStudy, plan_versions, study_ablations
from effvit.studies.budget import Budget
from effvit.studies.listeners import Listeners
from effvit.train.config import TrainConfig

BASE = replace(with_windows(VARIANTS["efficientvit_tiny"], image_size=32), num_classes=3)


@pytest.fixture
def budget(data: PictureData, config: TrainConfig) -> Budget:
    return Budget(data=data, config=replace(config, epochs=1))


def found_widths(monkeypatch: pytest.MonkeyPatch, percents: Mapping[str, int | str]) -> None:
    """Say which widths the rows have, instead of measuring."""

    def find(ablations: Any, base: Any, folder: Path, settings: Any, on_row: Any) -> dict[str, Any]:
        found = {key: a_match(value) if isinstance(value, int) else value for key, value in percents.items()}
        for row in ablations[1:]:
            on_row(row, found[row.key])
        return found

    monkeypatch.setattr(ablation, "find_widths", find)


def test_cost_is_the_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    base, swin = plan_versions(VARIANTS["efficientvit_m4"], find_ablations(["2"]))
    facts = PUBLISHED["efficientvit_m4"]
    assert (base.num_params, base.num_macs) == (facts.num_params, facts.num_macs)
    assert swin.num_params < base.num_params and swin.num_macs < base.num_macs


def test_a_study_from_rows_to_a_record(
    monkeypatch: pytest.MonkeyPatch, budget: Budget, data: PictureData, tmp_path: Path
) -> None:
    found_widths(monkeypatch, {"5": 150, "11": 100})
    notes: list[str] = []
    told: list[str] = []

    def study() -> AblationStudy:
        return study_ablations(
            BASE,
            find_ablations(["5", "11"]),
            tmp_path / "study",
            budget=replace(budget, seeds=(3,)),
            speeds=False,
            command="effvit analyze ablations",
            listeners=Listeners(on_note=notes.append, on_run=lambda result: told.append(result.name)),
        )

    result = study()
    shown = [(version.ablation.key, version.rescaled, version.percent) for version in result.versions]
    assert shown == [
        ("1", False, 100),
        ("5", False, 100),
        ("5", True, 150),
        ("11", False, 100),
        ("11", True, 100),
    ]
    names = ["row1", "row5", "row5-at-150", "row11"]  # a row whose scaled widths are the base's: once
    assert [(r.name, r.seed) for r in result.trained] == [(name, 3) for name in names]
    assert told == names
    assert notes[1:] == [
        "row 5, multi-head self-attention: widths at 150 % have 1.010 times the base's speed",
        "row 11, HardSwish: widths at 100 % have 1.010 times the base's speed",
    ]
    wide = result.versions[2]
    assert wide.config.stages[2].width == 48
    assert load(tmp_path / "study" / "runs" / "row5-at-150-3")[0].config == wide.config
    assert result.top1(result.versions[3]) == result.top1(result.versions[4])
    assert set(result.top1(wide)) == {3}

    record = json.dumps(result.to_dict())
    assert str(tmp_path) not in record and str(data.root) not in record  # places are nobody else's
    networks = json.loads(record)["networks"]
    assert [entry["row"] for entry in networks] == ["1", "5", "5", "11", "11"]
    assert networks[2]["match"]["width"] == 150 and networks[1]["match"] is None
    assert json.loads(record)["training"]["num_val"] == len(data.val)

    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "study" / "runs").rglob("*.safetensors")}
    assert {**study().to_dict(), "environment": {}} == {**result.to_dict(), "environment": {}}
    assert times == {path: path.stat().st_mtime_ns for path in times}  # nothing was trained again


def test_without_a_budget_there_is_cost_alone(tmp_path: Path) -> None:
    result = study_ablations(BASE, find_ablations(["3"]), tmp_path, rescale=False, speeds=False)
    assert result.trained == () and result.to_dict()["training"] is None
    assert [version.ablation.key for version in result.versions] == ["1", "3"]


def test_speeds_are_asked_of_different_networks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found_widths(monkeypatch, {"11": 100, "6": 110, "9": "no such width"})
    asked: list[str] = []
    notes: list[str] = []

    def measure(configs: list[EfficientViTConfig], *_: Any, **__: Any) -> tuple[None, dict[str, Any]]:
        asked.extend(config.name for config in configs)
        return None, {}

    monkeypatch.setattr(ablation, "measure_speeds", measure)
    rows = find_ablations(["6", "9", "11"])
    result = study_ablations(BASE, rows, tmp_path, listeners=Listeners(on_note=notes.append))
    assert asked == [f"efficientvit_tiny-{key}" for key in ("1", "6", "6-110", "9", "11")]
    assert "row 9, no token interaction: not rescaled: no such width" in notes
    assert result.to_dict()["not_rescaled"] == {"9": "no such width"}


def test_what_does_not_go_together_is_refused_before_any_work(budget: Budget, tmp_path: Path) -> None:
    rows = find_ablations(["5"])
    folder = tmp_path / "new"
    with pytest.raises(ConfigError, match="the pictures have 3 classes, the network 4"):
        study_ablations(replace(BASE, num_classes=4), rows, folder, budget=budget)
    with pytest.raises(ConfigError, match=r"trained on at \(32, 32\), the network is for \(64, 64\)"):
        study_ablations(replace(BASE, image_size=(64, 64)), rows, folder, budget=budget)
    with pytest.raises(ConfigError, match=r"a study of ablations begins with row 1, got \['5'\]"):
        study_ablations(BASE, rows[1:], folder)
    with pytest.raises(ConfigError, match="ablations change a network as the paper designed it"):
        study_ablations(replace(BASE, activation="gelu"), rows, folder)
    assert not folder.exists()
