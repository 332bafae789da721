"""`effvit detect train` and `effvit detect eval` as people run them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from coco_files import coco, image, thing, write_coco
from command_line import one_line, result

import effvit
from effvit.cli.main import run
from effvit.detection.saving import load_detector
from effvit.model.checkpoints import WeightsInfo
from effvit.preprocessing import Preprocessing

FAST = ["--image-size", "32", "--batch-size", "4", "--set", "neck_channels=8", "--device", "cpu"]


def photos(folder: Path) -> Path:
    things = [thing(n, n, category_id=(1, 7)[n % 2]) for n in range(1, 7)]
    return write_coco(folder, coco([image(n) for n in range(1, 7)], things))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a detector of two epochs, and the COCO file beside it."""
    folder = tmp_path_factory.mktemp("detect")
    path = photos(folder / "photos")
    arguments = ["detect", "train", "--data", str(path), "--model", "efficientvit_tiny", "--epochs", "2", *FAST]
    assert run([*arguments, "--output", str(folder / "run"), "--json"]) == 0
    return folder / "run"


def test_a_run_leaves_all_that_the_next_verbs_take(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = json.loads((trained / "run.json").read_text())
    assert record["task"] == "detection" and record["status"] == "finished" and record["class_names"] == ["cat", "dog"]
    assert len((trained / "metrics.jsonl").read_text().splitlines()) == 2
    for name in ("weights/model.safetensors", "curves.png", "eval/page.html", "eval/summary.json", "split.json"):
        assert (trained / name).is_file(), name
    again: dict[str, Any] = result(["detect", "eval", str(trained)], capsys)
    assert again["boxes"] == json.loads((trained / "eval" / "summary.json").read_text())["boxes"]
    assert again["num_pictures"] == 1 and set(again["boxes"]) >= {"ap", "ap50", "ar_100", "per_class"}


def test_scores_are_the_same_from_a_file_of_detections(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ["--data", str(trained.parent / "photos" / "instances.json")]
    first = result(["detect", "eval", str(trained), *data, "--output", str(tmp_path / "a")], capsys)
    found = ["--detections", str(tmp_path / "a" / "detections.json")]
    second = result(["detect", "eval", str(trained), *data, *found, "--output", str(tmp_path / "b")], capsys)
    assert first["boxes"] == second["boxes"] and first["num_pictures"] == 6


def test_a_finished_run_is_continued_with_nothing_to_do(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["detect", "train", "--resume", str(trained)]) == 0
    captured = capsys.readouterr()
    assert "is finished: all 2 epochs are done" in captured.err and "box AP" in captured.out


def test_pictures_are_normalised_as_the_weights_want_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = Preprocessing(mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    model = effvit.create_model("efficientvit_tiny", image_size=32)
    weights = effvit.save(tmp_path / "weights", model, WeightsInfo(preprocessing=own))
    begin = ["detect", "train", "--data", str(photos(tmp_path / "photos")), "--model", "efficientvit_tiny", *FAST]
    begin += ["--epochs", "1", "--weights", str(weights)]
    for name, settings, mean in (("a", [], own.mean), ("b", ["--set", "mean=0.5,0.5,0.5"], (0.5, 0.5, 0.5))):
        result([*begin, *settings, "--output", str(tmp_path / name)], capsys)
        config = load_detector(tmp_path / name).config
        assert (config.mean, config.std) == (mean, own.std)
        assert json.loads((tmp_path / name / "run.json").read_text())["config"]["mean"] == list(mean)
    assert run(["detect", "train", "--resume", str(tmp_path / "a")]) == 0


def test_what_a_run_forgives_its_evaluation_forgives(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = photos(tmp_path / "photos")
    begin = ["detect", "train", "--data", str(path), "--val", str(path), "--model", "efficientvit_tiny", *FAST]
    for name in ("1.png", "2.png"):
        (path.parent / name).write_bytes(b"no picture")
    begin += ["--epochs", "1", "--set", "max_unreadable=0.5", "--set", "freeze_norm=true"]
    assert run([*begin, "--output", str(tmp_path / "run")]) == 0
    said = capsys.readouterr().err
    assert "unreadable: cannot read picture" in said and "note: freeze_norm keeps the statistics" in said
    assert result(["detect", "eval", str(tmp_path / "run")], capsys)["num_pictures"] == 4


def test_detections_with_other_ids_are_refused(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first picture that was predicted has id 1 whatever the COCO file calls it."""
    picture = str(trained.parent / "photos" / "3.png")
    assert run(["detect", "predict", str(trained), picture, "--out", str(tmp_path / "found")]) == 0
    capsys.readouterr()
    found = str(tmp_path / "found" / "detections.json")
    assert "numbers its pictures itself" in one_line(["detect", "eval", str(trained), "--detections", found], capsys)


def test_what_cannot_be_asked_for_is_one_line(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(photos(tmp_path / "photos"))
    for arguments, message in (
        (["train"], "needs --data FILE, a COCO file, or --resume RUN"),
        (
            ["train", "--data", path, "--val-images", "x"],
            "--val-images x is for the pictures of --val, which is missing",
        ),
        (["train", "--data", str(tmp_path / "none.json")], "none.json"),
        (["train", "--data", path, "--model", "efficientvit_m9"], "efficientvit_m9"),
        (["train", "--data", path, "--recipe", "coco"], "unknown recipe of detection 'coco'"),
        (["train", "--data", path, "--task", "faces"], "task must be one of boxes, masks, got 'faces'"),
        (["train", "--data", path, "--task", "masks"], "no masks to learn from"),
        (["train", "--data", path, "--image-size", "5"], "--image-size must be in 32..8192 pixels, got 5"),
        (["train", "--data", path, "--epochs", "2", "--set", "epochs=3"], "epochs is given by a flag and by --set"),
        (["train", "--data", path, "--model", "efficientvit_tiny", *FAST, "--output", str(trained)], "is not empty"),
        (["train", "--resume", str(trained), "--epochs", "9"], "leave out --epochs"),
        (["train", "--resume", str(tmp_path)], "is not a run folder"),
        (["eval", str(trained), "--images", "x"], "--images x is for the pictures of --data, which is missing"),
        (["eval", str(trained / "weights")], "is no run folder, so --data FILE must say what to evaluate on"),
        (["eval", str(trained), "--score", "7"], "7"),
        (["eval", str(tmp_path / "nothing")], "no detector at"),
    ):
        assert message in one_line(["detect", *arguments], capsys), arguments
    assert not (tmp_path / "runs").exists() and not Path("runs").exists()


def test_the_classifiers_verbs_say_whose_run_it_is(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "use effvit detect train, eval" in one_line(["train", "--resume", str(trained)], capsys)
    assert "detector" in one_line(["eval", str(trained)], capsys)
