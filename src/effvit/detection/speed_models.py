"""What may take part in a benchmark of detectors, each fed pictures of one size."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from effvit.detection.config import MIN_SIDE, DetectorConfig
from effvit.detection.detectors import create_detector
from effvit.detection.exported import ExportedDetector, open_exported
from effvit.detection.saving import load_detector
from effvit.errors import ConfigError, unknown_name
from effvit.model.variants import TORCHVISION_PREFIX

NUM_CLASSES = 80
"""Classes of a detector with random weights: as many as COCO has."""

_SETTLING = 10
"""Batches of noise from which the norms of a random network take their statistics."""


@dataclass(frozen=True, kw_only=True)
class SpeedModel:
    """A detector that takes part: one in torch, or a file."""

    label: str
    """What it is called in tables."""
    model: nn.Module | None = None
    """Torchvision's detector inside, in eval mode, set to the size; None for a file."""
    config: DetectorConfig | None = None
    """How its pictures are brought to size: not at all, at the size it is set to."""
    file: ExportedDetector | None = None
    """The exported file."""
    is_random: bool = False
    """Whether the weights are random."""


def find_speed_model(source: str, *, image_size: tuple[int, int], task: str) -> SpeedModel:
    """Find what a person names, and have its network see pictures of one size as they are.

    Args:
        source: A detector's run or folder, an exported `.onnx` file, a backbone by name (random weights, the paper's
            neck), or `torchvision:NAME` (random weights).
        image_size: Height and width in pixels.
        task: Of a detector made from a backbone: boxes or masks.

    Raises:
        ConfigError: If nothing has this name, or the size is too small.
        WeightsError: If a folder or file cannot be read.
    """
    if min(image_size) < MIN_SIDE:
        raise ConfigError(f"pictures must have sides from {MIN_SIDE} pixels up, got {image_size[0]} x {image_size[1]}")
    if source.startswith(TORCHVISION_PREFIX):
        return _of_torchvision(source, image_size)
    path = Path(source)
    if path.suffix == ".onnx":
        return SpeedModel(label=path.stem, file=open_exported(path))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if path.exists():
            detector, is_random = load_detector(path), False
        else:
            names = tuple(f"class {index}" for index in range(NUM_CLASSES))
            config = DetectorConfig(backbone=source, task=task, class_names=names, min_size=320, max_size=533)
            detector, is_random = create_detector(config).eval(), True
        if is_random:
            _settle_norms(detector.model, image_size)
    label = path.name if path.exists() else f"{source}, {'Mask R-CNN' if task == 'masks' else 'RetinaNet'}"
    config = _at_size(detector.config, image_size)
    return SpeedModel(label=label, model=_set_size(detector.model, image_size), config=config, is_random=is_random)


def _of_torchvision(source: str, image_size: tuple[int, int]) -> SpeedModel:
    from torchvision.models import detection, get_model, list_models

    name = source.removeprefix(TORCHVISION_PREFIX)
    known = list_models(detection)
    if name not in known:
        raise ConfigError(unknown_name("torchvision detector", name, known))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: Any = get_model(name, weights=None, weights_backbone=None, num_classes=NUM_CLASSES + 1).eval()
        _settle_norms(model, image_size)
    config = DetectorConfig(
        backbone=name,
        class_names=("any",),
        mean=tuple(model.transform.image_mean),
        std=tuple(model.transform.image_std),
    )
    return SpeedModel(
        label=source,
        model=_set_size(model, image_size),
        config=_at_size(config, image_size),
        is_random=True,
    )


def _at_size(config: DetectorConfig, image_size: tuple[int, int]) -> DetectorConfig:
    return replace(config, min_size=min(image_size), max_size=max(image_size))


def _set_size(model: nn.Module, image_size: tuple[int, int]) -> nn.Module:
    """Have a detector leave pictures of a height and width as they are; one of a fixed size gets this one."""
    transform: Any = model.transform
    transform.min_size, transform.max_size = (min(image_size),), max(image_size)
    if transform.fixed_size is not None:
        transform.fixed_size = (image_size[1], image_size[0])
    return model.requires_grad_(False)


def _settle_norms(model: nn.Module, image_size: tuple[int, int]) -> None:
    """Give the norms of a random network the statistics of noise: with those it was born with, many a network's
    signal dies on the way, and all boxes get one score."""
    backbone = model.get_submodule("backbone")
    norms = [module for module in backbone.modules() if isinstance(module, nn.BatchNorm2d) and module.training is False]
    for norm in norms:
        norm.train()
    with torch.no_grad():
        for _ in range(_SETTLING):
            backbone(torch.randn(2, 3, *image_size))
    for norm in norms:
        norm.eval()
