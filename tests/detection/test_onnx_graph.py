"""What stands between the networks in an exported detector finds what torchvision's lists and loops find."""

from __future__ import annotations

import onnxruntime
import pytest
import torch
from detectors import tiny_config, tiny_detector
from torch import Tensor

from effvit.detection.detectors import Detector
from effvit.detection.onnx_file import DIVISOR
from effvit.detection.onnx_graph import as_graph
from effvit.detection.onnx_operators import best_boxes, network_size, preparation
from effvit.errors import ExportError

SIZES = ((75, 101), (200, 60), (96, 96), (31, 333))
TASKS = ("boxes", "masks")


def picture(size: tuple[int, int]) -> Tensor:
    return torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module", params=TASKS)
def detector(request: pytest.FixtureRequest) -> Detector:
    return tiny_detector(request.param).eval()


@pytest.mark.parametrize("size", SIZES)
@torch.inference_mode()
def test_the_graph_finds_what_the_detector_finds(detector: Detector, size: tuple[int, int]) -> None:
    graph = as_graph(detector.model)
    batch, _ = detector.model.transform([picture(size) / 255])
    inside, given = torch.tensor(batch.image_sizes[0]).float(), torch.tensor(size).float()
    boxes, scores, labels, *masks = graph(batch.tensors, inside, given, torch.tensor([0.0]))
    expected = detector.detect([picture(size)])[0]
    assert len(expected) >= 3
    assert len(boxes) == len(expected)
    assert torch.allclose(boxes, expected.boxes, atol=1e-2)
    assert torch.allclose(scores, expected.scores, atol=1e-5)
    assert torch.equal(labels, expected.labels)
    assert [tuple(mask.shape) for mask in masks] == ([(len(boxes), 28, 28)] if detector.config.task == "masks" else [])


@pytest.mark.parametrize("size", [*SIZES, (1000, 30), (799, 800)])
@pytest.mark.parametrize(("min_size", "max_size"), [(96, 160), (333, 555)])
def test_the_prepared_picture_is_torchvisions(size: tuple[int, int], min_size: int, max_size: int) -> None:
    config = tiny_config(min_size=min_size, max_size=max_size)
    model = preparation(config, picture_size=None, divisor=DIVISOR, threshold=0.25, opset=20, ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    pixels = picture(size)
    images, inside, given, threshold = session.run(None, {"pixels": pixels.permute(1, 2, 0)[None].numpy()})
    batch, _ = tiny_detector(min_size=min_size, max_size=max_size).eval().model.transform([pixels / 255])
    assert tuple(inside) == batch.image_sizes[0]
    assert tuple(images.shape) == tuple(batch.tensors.shape) == (1, 3, *network_size(config, size, DIVISOR))
    assert float((torch.from_numpy(images) - batch.tensors).abs().max()) < 1e-3  # of values in -2..3
    assert tuple(given) == size
    assert threshold == 0.25


def test_best_boxes_are_suppressed_within_a_label_only() -> None:
    boxes = torch.tensor([[0, 0, 10, 10], [0, 0, 10, 9.5], [0, 0, 10, 10], [50, 50, 60, 60]], dtype=torch.float32)
    scores, labels = torch.tensor([0.9, 0.95, 0.8, 0.1]), torch.tensor([0, 0, 1, 0])
    assert best_boxes(boxes, scores, labels, torch.tensor([0.2]), 2, 0.5, 10).tolist() == [1, 2]
    assert best_boxes(boxes, scores, labels, torch.tensor([0.0]), 2, 0.5, 2).tolist() == [1, 2]


def test_another_kind_of_detector_is_refused() -> None:
    with pytest.raises(ExportError, match="only RetinaNet, Faster R-CNN and Mask R-CNN can be exported, got Linear"):
        as_graph(torch.nn.Linear(1, 1))
