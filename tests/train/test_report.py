from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from effvit.data.datasets import PictureData
from effvit.data.samples import Sample
from effvit.errors import RunError
from effvit.train.contact_sheets import file_name, write_least_sure, write_worst
from effvit.train.evaluation import Evaluation
from effvit.train.figures import write_confusion, write_curves, write_most_confused, write_reliability
from effvit.train.records import EpochRecord
from effvit.train.report import write_evaluation


def guess(data: PictureData, num_classes: int, share_right: float, names: tuple[str, ...] | None = None) -> Evaluation:
    """An evaluation of the training photos with made-up predictions."""
    generator = np.random.default_rng(0)
    count = len(data.train)
    targets = generator.integers(num_classes, size=count)
    right = generator.random(count) < share_right
    predicted = np.where(right, targets, (targets + 1) % num_classes)
    sure = generator.uniform(0.5, 1, size=count)
    unsure = np.where(right, sure, 1 - sure)
    return Evaluation(
        class_names=names or tuple(f"class {index}" for index in range(num_classes)),
        samples=tuple(Sample(sample.path, int(target)) for sample, target in zip(data.train, targets, strict=True)),
        top_classes=predicted[:, None], top_probabilities=sure[:, None],
        losses=-np.log(unsure), unreadable=("cannot read picture x.jpg: y",),
    )  # fmt: skip


def ink(path: Path) -> float:
    """Share of a picture that is not white."""
    with Image.open(path) as picture:
        return float((np.asarray(picture.convert("L")) < 250).mean())


def test_files_say_what_the_evaluation_says(data: PictureData, tmp_path: Path) -> None:
    evaluation = guess(data, 7, 0.6)
    summary = write_evaluation(tmp_path / "eval", evaluation, about={"model": "m"})
    assert {path.name for path in (tmp_path / "eval").iterdir()} == {
        "summary.json", "predictions.csv", "predictions.json",
        "confusion.png", "most_confused.png", "reliability.png", "worst.png", "least_sure.png",
    }  # fmt: skip
    text = (tmp_path / "eval" / "summary.json").read_text()
    assert json.loads(text, parse_constant=pytest.fail) == summary  # no NaN, which is not JSON
    assert summary["top1"] == evaluation.top1 and summary["num_unreadable"] == 1 and summary["model"] == "m"
    assert summary["intervals_95"]["top1"]["low"] < summary["top1"] < summary["intervals_95"]["top1"]["high"]
    assert sum(entry["num_pictures"] for entry in summary["calibration"]["bins"]) == evaluation.num_pictures
    with (tmp_path / "eval" / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == list(evaluation.names)
    assert np.mean([row["true"] == row["predicted"] for row in rows]) == pytest.approx(evaluation.top1)
    predictions = json.loads((tmp_path / "eval" / "predictions.json").read_text())
    for row, entry in zip(rows, predictions, strict=True):
        assert (row["path"], row["true"], row["predicted"]) == (
            entry["path"], entry["true"], entry["classes"][0]["name"]
        )  # fmt: skip
        assert float(row["probability_true"]) == pytest.approx(entry["probability_true"], abs=1e-6)


def test_worst_sheet_shows_the_photos(data: PictureData, tmp_path: Path) -> None:
    write_worst(tmp_path / "worst.png", guess(data, 3, 0.5))
    write_worst(tmp_path / "none.png", guess(data, 3, 1.0))
    write_least_sure(tmp_path / "least.png", guess(data, 3, 1.0))
    assert ink(tmp_path / "worst.png") > 0.3 and ink(tmp_path / "least.png") > 0.3
    assert 0 < ink(tmp_path / "none.png") < 0.15  # a heading alone


def test_sheet_survives_a_picture_that_is_gone(data: PictureData, tmp_path: Path) -> None:
    evaluation = guess(data, 3, 0.0)
    gone = tuple(sample._replace(path=tmp_path / "gone.jpg") for sample in evaluation.samples)
    write_worst(tmp_path / "worst.png", replace(evaluation, samples=gone))
    assert 0 < ink(tmp_path / "worst.png") < 0.1


@pytest.mark.parametrize("share_right", [0.0, 0.5, 1.0])
def test_pairs_and_calibration_are_drawn(data: PictureData, tmp_path: Path, share_right: float) -> None:
    evaluation = guess(data, 5, share_right)
    write_most_confused(tmp_path / "pairs.png", evaluation.most_confused())
    write_reliability(tmp_path / "reliability.png", evaluation)
    assert ink(tmp_path / "pairs.png") > 0.001 and ink(tmp_path / "reliability.png") > 0.01


def test_end_of_a_name_is_shown() -> None:
    assert file_name("/data/val/lime/a.jpg") == "lime/a.jpg"
    assert file_name("/data/a-class-with-a-very-long-name-indeed/a.jpg") == "a.jpg"
    long = file_name("/data/" + "x" * 50 + "_007.jpg")
    assert long.endswith("_007.jpg") and len(long) == 34


@pytest.mark.parametrize("num_classes", [2, 10, 81, 400])
def test_confusion_matrix_is_drawn_at_every_size(data: PictureData, tmp_path: Path, num_classes: int) -> None:
    write_confusion(tmp_path / "confusion.png", guess(data, num_classes, 0.5))
    assert ink(tmp_path / "confusion.png") > 0.01
    with Image.open(tmp_path / "confusion.png") as picture:
        assert max(picture.size) < 3500


def test_names_in_any_script_and_with_dollars_are_drawn(data: PictureData, tmp_path: Path) -> None:
    names = ("りんご", "تفاح", "$5_{x$ and ^", "a very long name that would not fit under a picture")
    write_evaluation(tmp_path, guess(data, 4, 0.3, names))
    assert "りんご" in (tmp_path / "summary.json").read_text(encoding="utf-8")


@pytest.mark.parametrize("num_epochs", [1, 40])
@pytest.mark.parametrize("has_average", [False, True])
def test_curves_are_drawn(tmp_path: Path, num_epochs: int, has_average: bool) -> None:
    history = [
        EpochRecord(epoch=n, learning_rate=1 / n, train_loss=2 / n, val_loss=1 / n, val_top1=1 - 1 / n,
                    num_unreadable=0, pictures_per_second=1, seconds=1,
                    val_top1_ema=0.5 if has_average else None, val_loss_ema=1.0 if has_average else None)
        for n in range(1, num_epochs + 1)
    ]  # fmt: skip
    write_curves(tmp_path / "curves.png", history, num_epochs=60)
    assert ink(tmp_path / "curves.png") > 0.01


def test_unusable_place_is_one_line(data: PictureData, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match=r"file.*: it is a file"):
        write_evaluation(tmp_path / "file", guess(data, 3, 0.5))
