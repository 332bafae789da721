"""Evaluating a run on another machine than it was trained on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from helpers import randomise

import effvit
from effvit.cli import evaluation_jobs
from effvit.cli.evaluation_jobs import evaluate_run
from effvit.data.datasets import find_data
from effvit.data.loaders import PictureLoader
from effvit.errors import ConfigError
from effvit.model.checkpoints import WeightsInfo, save
from effvit.preprocessing import Preprocessing
from effvit.train.config import TrainConfig
from effvit.train.runs import RunFolder

NOT_HERE = "cuda:99"


@pytest.fixture
def trained_elsewhere(photos: Path, tmp_path: Path) -> RunFolder:
    """A run of a machine with a hundred GPUs."""
    preprocessing = Preprocessing(image_size=(32, 32))
    data = find_data(photos)
    config = TrainConfig(model="efficientvit_tiny", preprocessing=preprocessing, device=NOT_HERE, num_workers=3)
    run = RunFolder.create(tmp_path / "run", config, data)
    network = randomise(effvit.create_model("efficientvit_tiny", num_classes=3, image_size=32))
    save(run.weights, network, WeightsInfo(class_names=data.class_names, preprocessing=preprocessing))  # type: ignore[arg-type]
    return run


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many processes each loader was asked to have; it has none."""
    asked: list[int] = []

    def loader(*arguments: Any, num_workers: int, **values: Any) -> PictureLoader:
        asked.append(num_workers)
        return PictureLoader(*arguments, num_workers=0, **values)

    monkeypatch.setattr(evaluation_jobs, "PictureLoader", loader)
    return asked


def test_a_device_that_is_not_here_is_replaced_and_said(
    trained_elsewhere: RunFolder, workers: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    summary = evaluate_run(trained_elsewhere)
    assert f"device '{NOT_HERE}' cannot be used here" in capsys.readouterr().err
    assert json.loads((trained_elsewhere.path / "eval" / "summary.json").read_text())["top1"] == summary["top1"]
    assert (trained_elsewhere.path / "report.html").is_file()
    assert workers == [3]


def test_what_is_asked_for_goes_before_what_the_run_was_begun_with(
    trained_elsewhere: RunFolder, workers: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate_run(trained_elsewhere, device="cpu", workers=0)
    assert "cannot be used" not in capsys.readouterr().err and workers == [0]
    trained_elsewhere.update_record(config={**trained_elsewhere.read_record()["config"], "device": "cpu"})
    with pytest.raises(ConfigError, match=f"device '{NOT_HERE}' cannot be used here"):
        evaluate_run(trained_elsewhere, device=NOT_HERE)
