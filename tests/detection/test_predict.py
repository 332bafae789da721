"""Things found on pictures and on the frames of a video."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectors import tiny_detector
from made_detections import MadeDetector, detections
from PIL import Image

from effvit.detection import extras
from effvit.detection.config import DetectorConfig
from effvit.detection.finders import Finder, open_finder
from effvit.detection.kept import encode_masks
from effvit.detection.predict import count_things, predict_pictures
from effvit.detection.records import Detections
from effvit.detection.video import predict_video
from effvit.errors import ConfigError, DataError, RunError, WeightsError

supervision = extras.import_extra("supervision", "making a video")
CONFIG = DetectorConfig(class_names=("cat", "dog"), category_ids=(3, 7))
TWO = detections([[2, 2, 20, 20], [30, 10, 50, 30]], [0.9, 0.4], [0, 1])


def write_video(path: Path, *, size: tuple[int, int] = (64, 48), num_frames: int = 7, rate: float = 12.5) -> Path:
    """A video whose frames get lighter."""
    with supervision.VideoSink(str(path), supervision.VideoInfo(*size, rate, num_frames)) as sink:
        for number in range(num_frames):
            sink.write_frame(np.full((size[1], size[0], 3), 4 * number + 60, dtype=np.uint8))
    return path


def frames_of(path: Path) -> tuple[Any, list[np.ndarray]]:
    return supervision.VideoInfo.from_video_path(str(path)), list(supervision.get_video_frames_generator(str(path)))


def test_pictures_come_in_order_upright_with_the_unreadable_in_place(tmp_path: Path) -> None:
    turned = Image.Exif()
    turned[0x0112] = 6  # to be turned by a quarter
    Image.new("RGB", (60, 40)).save(tmp_path / "a.png")
    Image.new("RGB", (40, 60)).save(tmp_path / "b.jpg", exif=turned)
    Image.new("L", (90, 40)).save(tmp_path / "c.png")
    (tmp_path / "bad.jpg").write_bytes(b"no picture")
    detector: Finder = MadeDetector(CONFIG, {(60, 40): TWO})
    paths = [tmp_path / name for name in ("a.png", "bad.jpg", "b.jpg", "c.png")]
    steps: list[tuple[int, int]] = []
    found = list(
        predict_pictures(detector, paths, score=0.5, on_picture=lambda done, total: steps.append((done, total)))
    )
    assert [entry.path for entry in found] == paths and steps == [(1, 4), (2, 4), (3, 4), (4, 4)]
    first, bad, second, third = found
    assert bad.detections is None and bad.error is not None and "bad.jpg: not a picture" in bad.error
    assert second.picture is not None and second.picture.size == (60, 40)
    for entry in (first, second):
        assert entry.detections is not None and entry.detections.scores.tolist() == pytest.approx([0.9])
        assert count_things(entry.detections, CONFIG.class_names) == {"cat": 1}
    assert third.detections is not None and len(third.detections) == 0
    assert detector.seen == [(3, 40, 60), (3, 40, 60), (3, 40, 90)]  # type: ignore[attr-defined]


def test_faults_of_detectors_and_of_askers_are_one_line(tmp_path: Path) -> None:
    Image.new("RGB", (60, 40)).save(tmp_path / "a.png")
    broken = MadeDetector(CONFIG, {(60, 40): detections([[1, 1, 5, float("nan")]], [0.9], [0])})
    with pytest.raises(RunError, match=r"gives boxes or scores of .*a.png that are not finite"):
        list(predict_pictures(broken, [tmp_path / "a.png"], score=0.5))
    with pytest.raises(ConfigError, match="^score must be in 0..1, got 30"):
        list(predict_pictures(broken, [tmp_path / "a.png"], score=30))
    with pytest.raises(WeightsError, match=r"^no detector at .*nowhere: give a run folder, its weights folder or"):
        open_finder(tmp_path / "nowhere")
    (tmp_path / "x.onnx").touch()
    with pytest.raises(
        ConfigError, match=r"x.onnx is an exported file and runs on the CPU here; leave out --device cu"
    ):
        open_finder(tmp_path / "x.onnx", "cuda")


def test_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(extras.importlib, "import_module", missing)
    with pytest.raises(
        ConfigError, match=r"package faster-coco-eval, which .* \(No module .*\): pip install 'effvit\[d"
    ):
        encode_masks(np.zeros((1, 2, 2), dtype=np.bool_))


@pytest.mark.parametrize("size", [(64, 48), (63, 49)])
def test_video_keeps_rate_size_and_frames(tmp_path: Path, size: tuple[int, int]) -> None:
    source = write_video(tmp_path / "in.mp4", size=size)
    steps: list[tuple[int, int]] = []
    kept: dict[int, Detections] = {}
    summary = predict_video(
        MadeDetector(CONFIG, {size: TWO}),
        source,
        tmp_path / "out.mp4",
        score=0.5,
        on_frame=lambda done, total: steps.append((done, total)),
        keep=kept.__setitem__,
    )
    assert (summary.num_frames, summary.frames_per_second) == (7, 12.5) and (summary.width, summary.height) == size
    assert summary.counts == {"cat": 7} and summary.top_score == pytest.approx(0.9)
    assert steps[-1] == (7, 7) and list(kept) == list(range(7)) and len(kept[0]) == 1
    info, frames = frames_of(tmp_path / "out.mp4")
    assert (info.fps, info.width, info.height, len(frames)) == (12.5, *size, 7)
    for before, after in zip(frames_of(source)[1], frames, strict=True):
        assert np.abs(before[40:, 55:].astype(int) - after[40:, 55:]).max() < 12  # nothing there
        blue, _, red = after[2, 12].astype(int)  # the red line of class 0
        assert red > blue + 60
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.mp4", "out.mp4"]


def test_video_that_ends_early_is_written_as_far_as_it_goes(tmp_path: Path) -> None:
    whole, generator = tmp_path / "in.avi", np.random.default_rng(0)
    with supervision.VideoSink(str(whole), supervision.VideoInfo(64, 48, 12.5, 40)) as sink:
        for _ in range(40):
            sink.write_frame(generator.integers(0, 255, (48, 64, 3), dtype=np.uint8))
    whole.write_bytes(whole.read_bytes()[:35_000])  # of about 50,000
    summary = predict_video(MadeDetector(CONFIG, {}), whole, tmp_path / "out.mp4", score=0.3)
    assert 5 < summary.num_frames < 40 and summary.num_frames + summary.num_unread == 40
    assert len(frames_of(tmp_path / "out.mp4")[1]) == summary.num_frames


def test_masks_are_drawn_into_a_video(tmp_path: Path) -> None:
    mask = torch.zeros(1, 48, 64, dtype=torch.bool)
    mask[0, 24:44, 34:60] = True
    found = detections([[30, 20, 62, 46]], [0.9], [0], mask)
    predict_video(
        MadeDetector(CONFIG, {(64, 48): found}), write_video(tmp_path / "in.mp4"), tmp_path / "o.mp4", score=0
    )
    blue, _, red = frames_of(tmp_path / "o.mp4")[1][3][40, 50].astype(int)
    assert red > blue + 30


def test_what_is_no_video_is_one_line_and_leaves_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    detector = MadeDetector(CONFIG, {})
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "cut.mp4").write_bytes(write_video(tmp_path / "whole.mp4").read_bytes()[:300])
    (tmp_path / "whole.mp4").unlink()
    for name, message in (
        ("none.mp4", r"^no such video: .*none.mp4$"),
        ("text.mp4", r"^cannot read video .*text.mp4: it is no video, or damaged$"),
        ("cut.mp4", r"^cannot read video .*cut.mp4: it is no video, or damaged$"),
    ):
        with pytest.raises(DataError, match=message):
            predict_video(detector, tmp_path / name, tmp_path / "out.mp4", score=0.3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cut.mp4", "text.mp4"]
    assert capfd.readouterr() == ("", "")


def test_interrupted_video_leaves_nothing(tmp_path: Path) -> None:
    source = write_video(tmp_path / "in.mp4")

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match="^$"):
        predict_video(MadeDetector(CONFIG, {}), source, tmp_path / "out.mp4", score=0.3, on_frame=stop)
    with pytest.raises(RunError, match=r"^cannot write .*no folder/out.mp4: No such file or directory$"):
        predict_video(MadeDetector(CONFIG, {}), source, tmp_path / "no folder" / "out.mp4", score=0.3)
    assert [path.name for path in tmp_path.iterdir()] == ["in.mp4"]


def test_a_picture_that_is_too_narrow_is_named_and_the_rest_goes_on(tmp_path: Path) -> None:
    Image.new("RGB", (3000, 4)).save(tmp_path / "a.png")
    Image.new("RGB", (40, 30)).save(tmp_path / "b.png")
    found = list(predict_pictures(tiny_detector(), [tmp_path / "a.png", tmp_path / "b.png"], score=0.5))
    assert found[0].error is not None and found[1].error is None
    assert "a.png: a picture of 3000 x 4 pixels is too narrow: one side may be 160 times" in found[0].error
