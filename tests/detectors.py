"""Small detectors and pictures for tests: a forward pass takes milliseconds."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from helpers import randomise
from torch import Tensor, nn

from effvit.detection.config import DetectorConfig
from effvit.detection.detectors import Detector, create_detector

CLASSES = ("cat", "dog", "bird")


def tiny_config(task: str = "boxes", **settings: object) -> DetectorConfig:
    """A detector for pictures of 96 pixels that keeps everything it finds."""
    small = {
        "backbone": "efficientvit_tiny",
        "min_size": 96,
        "max_size": 160,
        "neck_channels": 16,
        "score_threshold": 0.0,
        "max_detections": 8,
    }
    return DetectorConfig(task=task, class_names=CLASSES, **{**small, **settings})  # type: ignore[arg-type]


def tiny_detector(task: str = "boxes", **settings: object) -> Detector:
    """Randomised, in training mode; the heads' last layers are spread, so that scores and classes differ."""
    detector = create_detector(tiny_config(task, **settings))
    randomise(detector.trunk)
    few_boxes(detector)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in detector.model.named_parameters():
            if not name.startswith("backbone."):
                scale = 1 / max(parameter[0].numel(), 1) ** 0.5 if parameter.dim() > 1 else 0.1
                parameter.add_(torch.randn(parameter.shape, generator=generator) * scale)
    return detector


def few_boxes(detector: Detector) -> Detector:
    """Let Mask R-CNN look at few boxes, which is most of a small one's time. In place."""
    if detector.config.task == "masks":
        detector.model.rpn._post_nms_top_n = {"training": 32, "testing": 32}
        detector.model.roi_heads.fg_bg_sampler.batch_size_per_image = 16
    return detector


def pictures(*sizes: tuple[int, int], seed: int = 0) -> list[Tensor]:
    """Pictures of these heights and widths, float32 in 0..1."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(3, height, width, generator=generator) for height, width in sizes]


def target(picture: Tensor, *things: tuple[Sequence[float], int]) -> dict[str, Tensor]:
    """A target of boxes and labels, each mask the whole of its box."""
    masks = torch.zeros(len(things), *picture.shape[1:], dtype=torch.uint8)
    for mask, ((left, top, right, bottom), _) in zip(masks, things, strict=True):
        mask[int(top) : int(bottom), int(left) : int(right)] = 1
    return {
        "boxes": torch.tensor([list(box) for box, _ in things]).reshape(-1, 4).float(),
        "labels": torch.tensor([label for _, label in things], dtype=torch.int64),
        "masks": masks,
    }


def total(losses: dict[str, Tensor]) -> Tensor:
    """The sum of a detector's losses."""
    return torch.stack(list(losses.values())).sum()


class TwoMaps(nn.Module):
    """A person's own network with maps at strides 8 and 16."""

    def __init__(self, promise: object = ((4, 8), (6, 16))) -> None:
        super().__init__()
        self.promise = promise
        self.first = nn.Conv2d(3, 4, 8, stride=8)
        self.second = nn.Conv2d(4, 6, 2, stride=2)

    def output_shapes(self) -> object:
        return self.promise

    def forward(self, x: Tensor) -> list[Tensor]:
        fine = self.first(x)
        return [fine, self.second(fine)]
