"""Detectors side by side: the same picture for all, the same work for suppression, every form the same function."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from detectors import tiny_detector
from torch import Tensor, nn

from effvit.cli import detect_benchmark
from effvit.detection import benchmark as module
from effvit.detection.benchmark import DetectionRecord, benchmark_detectors
from effvit.detection.saving import save_detector
from effvit.detection.speed_forms import folded
from effvit.detection.speed_models import SpeedModel, find_speed_model
from effvit.detection.speed_report import speed_table, write_speed_report
from effvit.detection.speed_work import PARTS, observe, part_times, set_num_boxes
from effvit.errors import ConfigError, ExportError

SIZE = (64, 96)
OURS, SSD = "efficientvit_tiny", "torchvision:ssdlite320_mobilenet_v3_large"
RCNN = "torchvision:fasterrcnn_mobilenet_v3_large_320_fpn"
QUICK: dict[str, Any] = {"image_size": SIZE, "rounds": 2, "min_round_seconds": 0.0, "warmup_seconds": 0.0, "pin": False}


def picture() -> Tensor:
    return torch.rand(3, *SIZE, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def record() -> DetectionRecord:
    return benchmark_detectors([OURS, SSD], num_threads=1, num_boxes=30, command="effvit detect benchmark", **QUICK)


@pytest.fixture(scope="module", params=[OURS, SSD, RCNN])
def entrant(request: pytest.FixtureRequest) -> SpeedModel:
    return find_speed_model(request.param, image_size=SIZE, task="boxes")


def test_a_record_has_a_row_for_each_and_a_control(record: DetectionRecord) -> None:
    rows = record.record.rows
    assert [row.model for row in rows] == [f"{OURS}, RetinaNet", SSD, f"control: {OURS}, RetinaNet"]
    assert [work.network_size for work in record.work] == [SIZE, SIZE]
    assert all(work.num_boxes is not None and abs(work.num_boxes - 30) <= 3 for work in record.work)
    assert all(work.parts_ms is not None and list(work.parts_ms) == list(PARTS) for work in record.work)
    assert record.work_of(rows[2]) is None
    assert all(row.tried_ms is not None and len(row.tried_ms) == 3 for row in rows[:2])


def test_the_report_is_written(record: DetectionRecord, tmp_path: Path) -> None:
    assert write_speed_report(record, tmp_path) == ["record.json", "table.md", "plot.png"]
    values = json.loads((tmp_path / "record.json").read_text())
    assert values["num_boxes"] == 30
    assert len(values["rows"]) == 3 and len(values["work"]) == 2
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    table = speed_table(record)
    assert "one picture of 64x96 per call, from pixels to boxes; random detectors with 30 boxes" in table
    assert "| 64x96 |" in table


def test_every_network_sees_the_picture_as_it_is(entrant: SpeedModel) -> None:
    assert entrant.is_random and entrant.model is not None
    set_num_boxes(entrant.model, picture(), 20)
    size, num_boxes, _ = observe(entrant.model, picture())
    assert size == SIZE
    assert abs(num_boxes - 20) <= 2


def test_folding_the_norms_changes_nothing(entrant: SpeedModel) -> None:
    model = entrant.model
    assert model is not None
    result = folded(model, picture()[None])
    backbone = result.get_submodule("backbone")
    norms = [m for m in backbone.modules() if isinstance(m, nn.BatchNorm2d)]
    assert not norms
    assert any(isinstance(m, nn.BatchNorm2d) for m in model.get_submodule("backbone").modules())  # not changed
    # `folded` compares the maps itself, and sees a norm that is not folded right:
    with pytest.MonkeyPatch.context() as patch, pytest.raises(ExportError, match="map 0 is another: off by"):
        patch.setattr("effvit.detection.speed_forms.fuse_conv_bn_eval", lambda convolution, _: convolution)
        patch.setattr("effvit.deploy.rewrite.with_residual", lambda weight: weight)
        folded(model, picture()[None])


def test_parts_are_a_whole_pass(entrant: SpeedModel) -> None:
    assert entrant.model is not None
    parts = part_times(entrant.model, picture(), repeats=3)
    assert list(parts) == list(PARTS)
    assert all(value > 0 for value in parts.values())


def test_a_saved_detector_keeps_its_threshold(tmp_path: Path) -> None:
    save_detector(tmp_path / "mine", tiny_detector(score_threshold=0.125))
    found = find_speed_model(str(tmp_path / "mine"), image_size=SIZE, task="boxes")
    assert not found.is_random
    assert found.label == "mine"
    assert found.model is not None and found.model.score_thresh == 0.125


@pytest.mark.parametrize(
    ("models", "options", "message"),
    [
        (["torchvision:ssdlite"], {}, "unknown torchvision detector 'ssdlite'.*known: fasterrcnn"),
        (["efficientvit_m9"], {}, "unknown backbone 'efficientvit_m9'"),
        ([], {}, "there must be models and runtimes, got 0 and 1"),
        ([OURS, OURS], {}, "each model takes part once, got efficientvit_tiny, efficientvit_tiny"),
        ([OURS], {"runtimes": ["tensorrt"]}, "unknown runtime 'tensorrt'; known: torch, onnx"),
        ([OURS], {"task": "mask"}, "unknown task 'mask'.*did you mean 'masks'"),
        ([OURS], {"num_boxes": 0}, "the number of boxes must be at least 1, got 0"),
        ([OURS], {"image_size": (16, 96)}, "sides from 32 pixels up, got 16 x 96"),
        ([OURS], {"picture": torch.zeros(3, 8, 8)}, r"the picture must be \(3, 64, 96\), got \(3, 8, 8\)"),
    ],
)
def test_faults_are_one_line(models: list[str], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        benchmark_detectors(models, **{**QUICK, **options})


def test_what_cannot_be_exported_is_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    """SSD has no graph here; the others go on."""
    record = benchmark_detectors([SSD], runtimes=["torch", "onnx"], num_threads=1, num_boxes=30, **QUICK)
    assert [(missing.model, missing.runtime) for missing in record.record.missing] == [(SSD, "onnx")]
    assert "only RetinaNet, Faster R-CNN and Mask R-CNN can be exported, got SSD" in record.record.missing[0].reason


def test_the_verb_prints_the_record(
    record: DetectionRecord, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: dict[str, Any] = {}

    def measured(models: list[str], **options: Any) -> DetectionRecord:
        asked.update(options, models=models)
        return record

    monkeypatch.setattr(module, "benchmark_detectors", measured)
    out = tmp_path / "speed"
    detect_benchmark.benchmark([OURS, SSD], image_size="64x96", runtimes="torch onnx", output=out, as_json=True)
    assert json.loads(capsys.readouterr().out) == json.loads((out / "record.json").read_text())
    assert (asked["models"], asked["image_size"], asked["runtimes"]) == ([OURS, SSD], SIZE, ["torch", "onnx"])
    with pytest.raises(ConfigError, match="--boxes must be at least 1, got 0"):
        detect_benchmark.benchmark([OURS], boxes=0)
