"""`effvit detect predict`: pictures and videos drawn, COCO's JSON, nobody's files written over."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import one_line, result
from made_detections import MadeDetector, detections
from PIL import Image
from pycocotools.coco import COCO

from effvit.cli.main import run
from effvit.detection import finders
from effvit.detection.config import DetectorConfig
from effvit.detection.extras import import_extra

CONFIG = DetectorConfig(class_names=("cat", "[b]собака[/b]"), category_ids=(3, 7))
MASKS = torch.zeros(3, 40, 60, dtype=torch.bool)
MASKS[:, 5:15, 5:15] = True
FOUND = detections([[2, 2, 20, 20], [30, 10, 50, 30], [4, 4, 9, 9]], [0.9, 0.4, 0.2], [1, 1, 0], MASKS)


@pytest.fixture(autouse=True)
def model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is asked for as a detector finds the same on pictures of 60 x 40 pixels, and nothing on others."""
    made = MadeDetector(CONFIG, {(60, 40): FOUND, (64, 48): detections([[5, 5, 30, 30]], [0.8], [0])})
    monkeypatch.setattr(finders, "open_finder", lambda source, device: made)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder with sub-folders, names that would clash, one picture that cannot be read."""
    folder = tmp_path / "in"
    for name in ("a.jpg", "a.png", "A.bmp", "sub/a.jpg", "sub/deep/b.PNG", "empty.jpg"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (60, 40) if "empty" not in name else (90, 40), "gray").save(folder / name)
    (folder / "bad.jpg").write_bytes(b"no picture")
    return folder


def files_below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def make_video(path: Path) -> Path:
    library = import_extra("supervision", "making a video")
    with library.VideoSink(str(path), library.VideoInfo(64, 48, 10, 5)) as sink:
        for _ in range(5):
            sink.write_frame(np.full((48, 64, 3), 128, dtype=np.uint8))
    return path


def test_pictures_keep_their_folders_and_nothing_clashes(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {name: (pictures / name).read_bytes() for name in files_below(pictures)}
    out = tmp_path / "out"
    rows = result(["detect", "predict", "model", str(pictures), "--out", str(out)], capsys)
    assert {name: (pictures / name).read_bytes() for name in files_below(pictures)} == before
    drawn = ["A.png", "a-2.png", "a.jpg", "empty.jpg", "sub/a.jpg", "sub/deep/b.png"]
    assert files_below(out) == ["detections.json", *(f"drawn/{name}" for name in drawn), "images.json"]
    by_path = {row["path"]: row for row in rows}
    assert len(by_path) == 7 and all(row["path"].startswith(str(pictures)) for row in rows)
    first = by_path[str(pictures / "a.jpg")]
    assert (
        first["counts"] == {"[b]собака[/b]": 2} and first["top_score"] == pytest.approx(0.9) and first["error"] is None
    )
    assert (
        by_path[str(pictures / "empty.jpg")]["counts"] == {}
        and by_path[str(pictures / "empty.jpg")]["top_score"] is None
    )
    assert "not a picture" in by_path[str(pictures / "bad.jpg")]["error"]
    for row in rows:
        if row["drawn"]:
            with Image.open(out / row["drawn"]) as picture:
                assert picture.format == ("JPEG" if row["drawn"].endswith("jpg") else "PNG")


def test_json_is_read_by_coco_tools(pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    rows = result(["detect", "predict", "model", str(pictures), "--out", str(out), "--score", "0.1"], capsys)
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(out / "images.json"))
        found = coco.loadRes(str(out / "detections.json"))
    assert {category["id"]: category["name"] for category in coco.cats.values()} == {3: "cat", 7: "[b]собака[/b]"}
    assert [image["file_name"] for image in coco.imgs.values()] == [row["path"] for row in rows if not row["error"]]
    for image_id, image in coco.imgs.items():
        annotations = found.loadAnns(found.getAnnIds(imgIds=[image_id]))
        expected = 0 if "empty" in image["file_name"] else 3
        assert len(annotations) == expected and (image["width"], image["height"]) in ((60, 40), (90, 40))
        assert all(entry["segmentation"]["size"] == [40, 60] for entry in annotations)


def test_table_names_what_is_on_each_picture(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["detect", "predict", "model", str(pictures), "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr()
    assert "2 [b]собака[/b]" in printed.out and "nothing" in printed.out and "unreadable" in printed.out
    assert "0.90" in printed.out and "bad.jpg: not a picture" in printed.err
    assert "6 drawn pictures and detections.json with images.json (COCO) are in" in printed.err


def test_several_sources_keep_their_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for place in ("one/x/a.jpg", "two/x/a.jpg", "three/a.jpg"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (60, 40)).save(tmp_path / place)
    sources = [str(tmp_path / name) for name in ("one/x", "two/x", "three/a.jpg", "one/x/a.jpg")]
    rows = result(["detect", "predict", "model", *sources, "--out", str(tmp_path / "out")], capsys)
    assert [row["drawn"] for row in rows] == ["drawn/x/a.jpg", "drawn/x/a-2.jpg", "drawn/a.jpg"]


def test_video_is_drawn_and_its_frames_are_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    video, out = make_video(tmp_path / "clip.mp4"), tmp_path / "out"
    Image.new("RGB", (60, 40)).save(tmp_path / "a.jpg")
    arguments = ["detect", "predict", "model", str(tmp_path / "a.jpg"), "--video", str(video), "--out", str(out)]
    _, row = result(arguments, capsys)
    assert row["drawn"] == "drawn/clip.mp4" and row["counts"] == {"cat": 5} and row["num_frames"] == 5
    assert import_extra("supervision", "x").VideoInfo.from_video_path(str(out / "drawn/clip.mp4")).fps == 10
    images = json.loads((out / "images.json").read_text())["images"]
    assert [image.get("frame") for image in images] == [None, 0, 1, 2, 3, 4]
    assert {(image["width"], image["height"]) for image in images[1:]} == {(64, 48)}
    assert [entry["image_id"] for entry in json.loads((out / "detections.json").read_text())] == [1, 1, 2, 3, 4, 5, 6]
    assert run(["detect", "predict", "model", "--video", str(video), "--out", str(out)]) == 0
    assert "5 frames: 5 cat" in capsys.readouterr().out
    assert files_below(out) == ["detections.json", "drawn/clip.mp4", "images.json"]  # a.jpg of before is gone


def test_earlier_prediction_is_replaced_and_strangers_files_stay(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    result(["detect", "predict", "model", str(pictures), "--out", str(out)], capsys)
    (out / "drawn" / "mine.txt").write_text("mine")
    result(["detect", "predict", "model", str(pictures / "a.jpg"), "--out", str(out)], capsys)
    assert files_below(out) == ["detections.json", "drawn/a.jpg", "drawn/mine.txt", "images.json"]


def test_places_that_may_not_be_written_are_one_line(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.txt").touch()
    out = tmp_path / "out"
    result(["detect", "predict", "model", str(pictures / "a.jpg"), "--out", str(out)], capsys)
    a = str(pictures / "a.jpg")
    mistakes: dict[str, list[str]] = {
        "other is not empty and has no images.json of an earlier prediction": [a, "--out", str(other)],
        "in lies among the pictures of": [str(pictures), "--out", str(pictures)],
        "found lies among the pictures of": [str(pictures), "--out", str(pictures / "found")],
        "in holds": [a, "--out", str(pictures)],
        "out holds": [str(out / "drawn"), "--out", str(out)],
        "nothing to find things on": ["--out", str(tmp_path / "new")],
        "--out is missing": [a],
        "score must be in 0..1, got 30": [a, "--out", str(tmp_path / "new"), "--score", "30"],
        "no such file or folder": [str(tmp_path / "none.jpg"), "--out", str(tmp_path / "new")],
        "no such video": ["--video", str(tmp_path / "none.mp4"), "--out", str(tmp_path / "new")],
        "it is no video, or damaged": ["--video", str(other / "thesis.txt"), "--out", str(tmp_path / "new")],
        "none of 1 pictures could be read; the first: cannot read picture": [
            str(pictures / "bad.jpg"), "--out", str(tmp_path / "new"),
        ],
    }  # fmt: skip
    before = files_below(tmp_path)
    for message, arguments in mistakes.items():
        capsys.readouterr()
        assert run(["detect", "predict", "model", *arguments]) == 2, message
        captured = capsys.readouterr()
        assert captured.out == "" and message in captured.err.splitlines()[-1], captured.err
        assert files_below(tmp_path) == before and not (tmp_path / "new").exists(), message


def test_interrupted_work_is_kept(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[Any] = []

    def stop_at_third(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return [FOUND]

    made = MadeDetector(CONFIG, {})
    monkeypatch.setattr(made, "detect", stop_at_third)
    monkeypatch.setattr(finders, "open_finder", lambda source, device: made)
    assert run(["detect", "predict", "model", str(pictures), "--out", str(tmp_path / "out")]) == 130
    assert len(json.loads((tmp_path / "out" / "images.json").read_text())["images"]) == 2
    assert len(files_below(tmp_path / "out" / "drawn")) == 2


def test_low_threshold_is_told(pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["detect", "predict", "model", str(pictures / "a.jpg"), "--out", str(tmp_path / "out")]
    assert run([*arguments, "--score", "0.01"]) == 0
    assert "note: the detector itself leaves out what is below 0.05" in capsys.readouterr().err


def test_real_detector_from_its_folder(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.undo()
    from effvit.detection.detectors import create_detector
    from effvit.detection.saving import save_detector

    config = DetectorConfig(backbone="efficientvit_tiny", task="masks", class_names=("a", "b"), min_size=64,
                            max_size=96, neck_channels=16, score_threshold=0.0)  # fmt: skip
    save_detector(tmp_path / "detector", create_detector(config))
    out = str(tmp_path / "out")
    (row,) = result(
        ["detect", "predict", str(tmp_path / "detector"), str(pictures / "a.jpg"), "--out", out, "--score", "0"], capsys
    )
    assert row["error"] is None and sum(row["counts"].values()) == len(
        json.loads(Path(out, "detections.json").read_text())
    )
    assert "no detector at nowhere" in one_line(
        ["detect", "predict", "nowhere", str(pictures), "--out", f"{out}2"], capsys
    )
