from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from effvit.data.datasets import PictureData
from effvit.data.samples import Sample
from effvit.errors import RunError
from effvit.train.evaluation import Evaluation
from effvit.train.figures import write_confusion, write_curves, write_worst
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
    evaluation = guess(data, 3, 0.6)
    files = write_evaluation(tmp_path / "eval", evaluation)
    assert [file.name for file in files] == ["summary.json", "predictions.csv", "confusion.png", "worst.png"]
    assert sorted(path.name for path in (tmp_path / "eval").iterdir()) == sorted(file.name for file in files)
    summary = json.loads(files[0].read_text(), parse_constant=pytest.fail)  # no NaN, which is not JSON
    assert summary["top1"] == evaluation.top1 and summary["num_unreadable"] == 1
    with files[1].open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == list(evaluation.names)
    assert np.mean([row["true"] == row["predicted"] for row in rows]) == pytest.approx(evaluation.top1)


def test_worst_sheet_shows_the_photos(data: PictureData, tmp_path: Path) -> None:
    write_worst(tmp_path / "worst.png", guess(data, 3, 0.5))
    write_worst(tmp_path / "none.png", guess(data, 3, 1.0))
    assert ink(tmp_path / "worst.png") > 0.3
    assert 0 < ink(tmp_path / "none.png") < 0.05


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
def test_curves_are_drawn(tmp_path: Path, num_epochs: int) -> None:
    history = [
        EpochRecord(epoch=n, learning_rate=1 / n, train_loss=2 / n, val_loss=1 / n, val_top1=1 - 1 / n,
                    num_unreadable=0, pictures_per_second=1, seconds=1)
        for n in range(1, num_epochs + 1)
    ]  # fmt: skip
    write_curves(tmp_path / "curves.png", history)
    assert ink(tmp_path / "curves.png") > 0.01


def test_unusable_place_is_one_line(data: PictureData, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match=r"file.*: it is a file"):
        write_evaluation(tmp_path / "file", guess(data, 3, 0.5))
