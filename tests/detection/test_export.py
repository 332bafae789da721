"""An exported detector is the detector: a quick file for one picture size, slow ones for any size and with masks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from detectors import CLASSES, tiny_detector
from torch import Tensor

import effvit
from effvit.deploy.runtimes import open_file
from effvit.detection import export as module
from effvit.detection.agreement import compare_detections
from effvit.detection.detectors import Detector
from effvit.detection.export import Exported, export_detector
from effvit.detection.exported import open_exported
from effvit.detection.finders import open_finder
from effvit.errors import ConfigError, DataError, ExportError, WeightsError

SIZE = (80, 100)


def picture(size: tuple[int, int], seed: int = 0) -> Tensor:
    return torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="session")
def detector() -> Detector:
    return tiny_detector()


@pytest.fixture(scope="session")
def exported(detector: Detector, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    path = tmp_path_factory.mktemp("exported") / "tiny.onnx"
    pictures = [picture(SIZE, seed) for seed in range(2)]
    return export_detector(detector, path, picture_size=SIZE, pictures=pictures, provenance={"data": "a test"})


def test_the_file_finds_what_the_detector_finds(exported: Exported, detector: Detector) -> None:
    file = open_exported(exported.path, num_threads=1)
    check = compare_detections(detector.detect, file.detect, [picture(SIZE, seed) for seed in range(5, 8)])
    assert check.passed
    assert check.num_unmatched == 0
    assert check.max_box_error < 1e-2
    found = file.detect([picture(SIZE)])[0]
    assert found.scores.tolist() == sorted(found.scores.tolist(), reverse=True)
    assert found.boxes.dtype == found.scores.dtype == torch.float32
    assert found.labels.dtype == torch.int64
    assert found.masks is None


def test_it_was_proved_before_it_was_reported(exported: Exported, detector: Detector) -> None:
    assert exported.on_noise.passed
    assert exported.on_pictures is not None and exported.on_pictures.num_pictures == 2
    assert exported.num_bytes == exported.path.stat().st_size
    assert detector.training  # not changed


def test_the_file_says_what_it_is(exported: Exported, detector: Detector) -> None:
    file = open_exported(exported.path)
    assert file.config == detector.config
    assert file.picture_size == SIZE
    metadata = file.metadata
    assert metadata.class_names == CLASSES
    assert metadata.version == effvit.__version__
    assert metadata.provenance == {"data": "a test"}
    assert metadata.verification is not None and metadata.verification["noise"]["passed"]
    assert metadata.verification["pictures"]["num_pictures"] == 2
    assert open_finder(exported.path).config == detector.config
    model = onnx.load(exported.path)
    assert [value.name for value in model.graph.input] == ["pixels"]
    assert [value.name for value in model.graph.output] == ["boxes", "scores", "labels"]


def test_pictures_that_do_not_fit_are_refused(exported: Exported) -> None:
    file = open_exported(exported.path)
    with pytest.raises(ConfigError, match=r"for pictures of \(80, 100\) \(height, width\) only, got \(81, 100\)"):
        file.detect([picture((81, 100))])
    with pytest.raises(DataError, match=r"must be uint8 \(3, height, width\), got torch.float32"):
        file.detect([picture(SIZE).float()])
    with pytest.raises(ConfigError, match="number of threads must be at least 1, got 0"):
        open_exported(exported.path, num_threads=0)


def test_a_detector_is_no_classifier(exported: Exported) -> None:
    with pytest.raises(WeightsError, match="is a detector, not a classifier: use it with effvit detect"):
        open_file(exported.path)


def other_file(path: Path, **properties: str) -> Path:
    """A small ONNX file with metadata."""
    model = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 20]> f (float[1, 3, 8, 8] x) => (float[1, 3, 8, 8] y) { y = Relu (x) }'
    )
    onnx.helper.set_model_props(model, {f"effvit.{key}": value for key, value in properties.items()})
    onnx.save(model, path)
    return path


def test_other_files_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"no such file: .*gone.onnx"):
        open_exported(tmp_path / "gone.onnx")
    with pytest.raises(WeightsError, match="is a classifier: a detector's file is made by effvit detect export"):
        open_exported(other_file(tmp_path / "a.onnx", class_names='["a"]'))
    with pytest.raises(WeightsError, match="is no detector that effvit exported"):
        open_exported(other_file(tmp_path / "b.onnx"))
    with pytest.raises(WeightsError, match=r"damaged metadata, effvit.detector: .*class_names"):
        open_exported(other_file(tmp_path / "c.onnx", detector='{"backbone": "efficientvit_m0"}'))
    with pytest.raises(WeightsError, match="must take one uint8 picture and give boxes, scores, labels, got"):
        open_exported(other_file(tmp_path / "d.onnx", detector='{"class_names": ["a"]}'))
    (tmp_path / "e.onnx").write_bytes(b"no model")
    with pytest.raises(WeightsError, match="e.onnx is not an ONNX model that can be run"):
        open_exported(tmp_path / "e.onnx")


def test_a_wrong_name_is_refused_before_the_work(detector: Detector, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"must end in \.onnx, got 'tiny\.pt'"):
        export_detector(detector, tmp_path / "tiny.pt")


def test_a_file_that_fails_is_not_left_behind(
    exported: Exported, detector: Detector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model of the good file, compared with a detector whose weights have changed since."""

    class Kept:
        def __init__(self, *_: object) -> None:
            pass

        def at(self, _: float) -> onnx.ModelProto:
            return onnx.load(exported.path)

    monkeypatch.setattr(module, "DetectorModel", Kept)
    export_detector(detector, tmp_path / "good.onnx", picture_size=SIZE)
    changed = tiny_detector()
    with torch.no_grad():
        changed.model.head.classification_head.cls_logits.bias += 0.1
    (tmp_path / "old.onnx").write_text("what was there before")
    differing = r"does not find what the detector finds: 16 detections .*, of a score 0\.00[2-9]\d* \(allowed: 0\.001\)"
    with pytest.raises(ExportError, match=rf"old\.onnx {differing}"):
        export_detector(changed, tmp_path / "old.onnx", picture_size=SIZE)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["good.onnx", "old.onnx"]
    assert (tmp_path / "old.onnx").read_text() == "what was there before"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "backbone"),
    [("boxes", "efficientvit_tiny"), ("masks", "efficientvit_tiny"), ("boxes", "timm:mobilenetv2_035")],
)
def test_one_file_takes_pictures_of_any_size(task: str, backbone: str, tmp_path: Path, data_dir: Path) -> None:
    from torchvision.transforms.v2.functional import pil_to_tensor

    from effvit.data.pictures import list_pictures, read_picture

    detector = tiny_detector(task, backbone=backbone, min_size=160, max_size=267)
    real = [pil_to_tensor(read_picture(path)) for path in list_pictures([data_dir / "coco_mini"])[:4]]
    result = export_detector(detector, tmp_path / "any.onnx", pictures=real)
    file = open_exported(result.path)
    assert file.picture_size is None
    sizes = [(31, 200), (160, 160), (200, 31), (333, 500), (17, 17), (1200, 160)]
    check = compare_detections(detector.detect, file.detect, [picture(size) for size in sizes])
    assert check.passed
    assert (check.mask_iou is not None) == (task == "masks")


@pytest.mark.slow
def test_nothing_found_is_an_answer(tmp_path: Path) -> None:
    """Every box below the threshold: no operator may fail on nothing."""
    detector = tiny_detector("masks", score_threshold=0.999)
    result = export_detector(detector, tmp_path / "none.onnx", picture_size=SIZE, pictures=[picture(SIZE)])
    assert result.on_pictures is not None and result.on_pictures.num_detections == 0
    found = open_exported(result.path).detect([picture(SIZE)])[0]
    assert len(found) == 0
    assert found.boxes.shape == (0, 4)
    assert found.masks is not None and found.masks.shape == (0, *SIZE)


def test_a_lone_picture_is_what_the_file_takes(exported: Exported) -> None:
    """As other people's code calls it, without this package."""
    import onnxruntime

    session = onnxruntime.InferenceSession(exported.path, providers=["CPUExecutionProvider"])
    boxes, scores, labels = session.run(None, {"pixels": np.zeros((1, *SIZE, 3), np.uint8)})
    assert boxes.shape == (len(scores), 4)
    assert scores.dtype == np.float32
    assert labels.dtype == np.int64
