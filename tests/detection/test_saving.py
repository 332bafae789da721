from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from detectors import few_boxes, pictures, tiny_detector
from safetensors.torch import load_file, save_file

import effvit
from effvit.detection.saving import load_detector, read_description, save_detector
from effvit.errors import RunError, WeightsError


@pytest.mark.parametrize(
    ("task", "backbone"), [("boxes", "efficientvit_tiny"), ("masks", "efficientvit_tiny"), ("boxes", "mobilenetv2_035")]
)
def test_comes_back_as_it_was(task: str, backbone: str, tmp_path: Path) -> None:
    detector = tiny_detector(task, backbone=backbone, category_ids=(3, 5, 90))
    folder = save_detector(tmp_path / "run" / "weights", detector, {"epoch": 3})
    images = pictures((75, 101), (60, 50))
    expected = detector.detect(images)
    for place in (folder, tmp_path / "run"):
        again = load_detector(place)
        assert again.config == detector.config and not again.training
        for one, other in zip(few_boxes(again).detect(images), expected, strict=True):
            assert torch.equal(one.boxes, other.boxes) and torch.equal(one.scores, other.scores)
            assert torch.equal(one.labels, other.labels) and len(one) > 0
            assert one.masks is None or torch.equal(one.masks, other.masks)
    assert read_description(folder) == (detector.config, {"epoch": 3})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_detector(tmp_path / "detector", tiny_detector())


def test_what_is_missing(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no detector at .*nowhere: no such folder"):
        load_detector(tmp_path / "nowhere")
    with pytest.raises(WeightsError, match="no detector at .*config.json: it is a file"):
        load_detector(folder / "config.json")
    (folder / "model.safetensors").unlink()
    with pytest.raises(WeightsError, match="no detector in .*detector: it has no config.json with model.safetensors"):
        load_detector(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "config.json is not valid JSON"),
        ("[]", "config.json does not describe a detector: format None, wanted 'effvit-detector/1'"),
        ('{"format": "effvit-detector/9"}', "format 'effvit-detector/9', wanted 'effvit-detector/1'"),
        ('{"format": "effvit-detector/1"}', "config.json does not describe a detector: 'detector'"),
        (
            '{"format": "effvit-detector/1", "provenance": {}, "detector": {"class_names": ["a"], "min_size": 3}}',
            "config.json does not describe a detector: detector: min_size must be",
        ),
        (
            '{"format": "effvit-detector/1", "provenance": {}, "detector": {"class_names": ["a"], "min_size": "3"}}',
            "config.json does not describe a detector",
        ),
    ],
)
def test_damaged_descriptions(text: str, message: str, folder: Path) -> None:
    (folder / "config.json").write_text(text)
    with pytest.raises(WeightsError, match=message):
        load_detector(folder)


def test_damaged_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(WeightsError, match="cannot read weights from .*model.safetensors"):
        load_detector(folder)


def test_weights_of_another_detector(folder: Path) -> None:
    path = folder / "model.safetensors"
    state = load_file(path)
    name = "model.head.regression_head.bbox_reg.bias"
    save_file({**state, name: state[name][:8].clone()}, path)
    with pytest.raises(
        WeightsError, match=rf"do not belong together: {name} has shape \(8,\), the detector's is \(36,\)"
    ):
        load_detector(folder)
    save_file({"something.else": torch.zeros(1)}, path)
    with pytest.raises(WeightsError, match=r"missing model.*; missing model.*; missing model.* and \d+ more"):
        load_detector(folder)


def test_classifiers_and_detectors_are_told_apart(folder: Path, tmp_path: Path) -> None:
    classifier = effvit.save(tmp_path / "classifier", effvit.create_model("efficientvit_tiny"))
    with pytest.raises(WeightsError, match="classifier is a classifier, not a detector"):
        load_detector(classifier)
    with pytest.raises(WeightsError, match="detector holds a detector, not a classifier"):
        effvit.load(folder)


def test_what_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="provenance must be plain JSON values"):
        save_detector(tmp_path / "detector", tiny_detector(), {"path": Path("x")})
    assert not (tmp_path / "detector").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot use .*file as output folder"):
        save_detector(tmp_path / "file", tiny_detector())


def test_the_description_is_for_people_too(folder: Path) -> None:
    values = json.loads((folder / "config.json").read_text())
    assert values["detector"]["backbone"] == "efficientvit_tiny"
    assert values["detector"]["class_names"] == ["cat", "dog", "bird"]
