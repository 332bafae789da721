"""`effvit recipes`, and `effvit train --dry-run`: all that would be done, and nothing done."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from PIL import Image

from effvit.cli.main import run
from effvit.train import pace
from effvit.train.config import TrainConfig
from effvit.train.recipes import RECIPES, all_recipes

TINY = ["--model", "efficientvit_tiny", "--image-size", "32", "--device", "cpu"]


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(pace, "_MAX_BATCHES", 2)
    monkeypatch.chdir(tmp_path)


def test_recipes(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["recipes"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in RECIPES)
    assert run(["recipes", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == list(RECIPES)


@pytest.mark.parametrize("name", RECIPES)
def test_one_recipe(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["recipes", name]) == 0
    shown = capsys.readouterr().out
    (facts,) = (facts for facts in all_recipes() if facts.name == name)
    assert all(part in shown for part in (facts.summary, facts.source, facts.cost, facts.expected, facts.command))
    assert run(["recipes", name, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["settings"]["recipe"] == name


def test_an_unknown_recipe_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["recipes", "finetun"], ["train", "--recipe", "finetun", "--dry-run"]):
        assert run(arguments) == 2
        assert re.fullmatch(
            r"error: unknown recipe 'finetun' \(did you mean 'finetune'\?\).*\n", capsys.readouterr().err
        )


def test_imagenet_without_pictures(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run(["train", "--recipe", "imagenet", *TINY, "--dry-run", "--output", "schedule.png"]) == 0
    shown = capsys.readouterr().out
    for name in TrainConfig.field_types():
        assert name in shown
    assert "rand-m9-mstd0.5-inc1" in shown
    assert "learning rate, highest 0.004, last 1.01e-05" in shown
    assert "1000 classes" in shown
    assert "not known without pictures" in shown
    assert [path.name for path in tmp_path.iterdir()] == ["schedule.png"]
    with Image.open("schedule.png") as drawing:
        assert drawing.format == "PNG"


def test_with_pictures(photos: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run(["train", str(photos), "--recipe", "scratch_small", *TINY, "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"24 pictures to train on, 6 held out; 1 steps an epoch", shown)
    assert re.search(r"an epoch would take [\d.e-]+ seconds \([\d.e-]+ to [\d.e-]+\), the run [\d.e-]+ \w+ ", shown)
    assert list(tmp_path.iterdir()) == []


def test_json(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["train", str(photos), *TINY, "--batch-size", "8", "--epochs", "7", "--dry-run", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["settings"].keys() == TrainConfig.field_types().keys()
    assert (result["steps_per_epoch"], result["num_steps"]) == (3, 21)
    assert result["pace"]["run_seconds"]["median"] == pytest.approx(7 * result["pace"]["epoch_seconds"]["median"])


def test_the_plot_rises_and_falls(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["train", *TINY, "--dry-run", "--set", "warmup_share=0.5"]) == 0
    rows = [line[3:] for line in capsys.readouterr().out.splitlines() if line.startswith("  |")]
    heights = [sum(" ▁▂▃▄▅▆▇█".index(row[column]) for row in rows) for column in range(60)]
    top = heights.index(max(heights))
    assert 25 <= top <= 35
    assert heights[: top + 1] == sorted(heights[: top + 1])
    assert heights[top:] == sorted(heights[top:], reverse=True)
    assert max(heights) == 8 * len(rows)


def test_output_must_be_a_picture(photos: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run(["train", str(photos), *TINY, "--dry-run", "--output", "runs/new"]) == 2
    assert re.fullmatch(r"error: the schedule's drawing must be a file ending in .*\n", capsys.readouterr().err)
    assert list(tmp_path.iterdir()) == []
