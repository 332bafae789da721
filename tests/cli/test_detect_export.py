"""`effvit detect export`, and the file in the place of the run, as people run them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from coco_files import write_coco
from command_line import one_line, result
from detectors import tiny_detector

from effvit.detection.saving import save_detector


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small detector whose scores differ."""
    folder = tmp_path_factory.mktemp("export") / "weights"
    save_detector(folder, tiny_detector(score_threshold=0.3))
    return folder


def test_a_file_takes_the_place_of_the_run(weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_coco(tmp_path / "photos")
    file = tmp_path / "cells.onnx"
    export = ["detect", "export", str(weights), "--output", str(file), "--images", str(tmp_path / "photos")]
    found = result(export, capsys)
    assert file.stat().st_size == found["num_bytes"] and found["on_pictures"]["num_pictures"] == 2
    out = [
        [str(source), str(tmp_path / "photos"), "--out", str(tmp_path / name)]
        for source, name in ((weights, "a"), (file, "b"))
    ]
    for arguments in out:
        result(["detect", "predict", *arguments], capsys)
    first, second = (json.loads((tmp_path / name / "detections.json").read_text()) for name in "ab")
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        assert one["bbox"] == pytest.approx(other["bbox"], abs=0.1) and one["category_id"] == other["category_id"]


def test_what_cannot_be_exported_is_one_line(weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, message in (
        ([str(weights), "--format", "onxx"], "unknown format 'onxx'"),
        ([str(tmp_path)], "no detector in"),
        ([str(weights), "--output", str(tmp_path / "no" / "x.onnx")], "there is no folder"),
        ([str(weights), "--images", str(tmp_path / "none")], "no such file or folder"),
        ([str(weights), "--image-size", "0"], "--image-size must be a side"),
    ):
        assert message in one_line(["detect", "export", *arguments], capsys), arguments
    assert not list(tmp_path.rglob("*.onnx*"))
