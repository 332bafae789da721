from __future__ import annotations

import json

import pytest

from effvit.detection.config import DetectorConfig
from effvit.errors import ConfigError
from effvit.model.variants import variant_config


def test_round_trip_through_json() -> None:
    values = json.loads(variant_config("efficientvit_tiny").to_json())
    config = DetectorConfig(
        backbone=values, task="masks", class_names=("a", "b"), category_ids=(3, 17), min_size=320, mean=(0.5, 0.5, 0.5)
    )
    assert DetectorConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_the_papers_settings_are_the_defaults() -> None:
    config = DetectorConfig(class_names=("a",))
    assert (config.backbone, config.task, config.min_size, config.max_size) == ("efficientvit_m4", "boxes", 800, 1333)
    assert (config.neck_channels, config.score_threshold, config.nms_threshold, config.max_detections) == (
        256,
        0.05,
        0.5,
        100,
    )


def test_ids_count_from_one_unless_given() -> None:
    assert DetectorConfig(class_names=("a", "b")).ids == (1, 2)
    assert DetectorConfig(class_names=("a", "b"), category_ids=(7, 3)).ids == (7, 3)
    assert DetectorConfig(class_names=("a", "b")).num_classes == 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"class_names": ()}, r"class_names must be at least one, all different, got \(\)"),
        ({"class_names": ("a", "a")}, "class_names must be at least one, all different"),
        ({"category_ids": (1, 2)}, "category_ids must be one for each of 1 classes"),
        ({"class_names": ("a", "b"), "category_ids": (4, 4)}, "category_ids must be one for each of 2 classes"),
        ({"class_names": ("a", "b"), "category_ids": (4, 4, 5)}, "category_ids must be one for each of 2 classes"),
        ({"task": "points"}, "task must be one of boxes, masks, got 'points'"),
        ({"min_size": 16}, r"min_size must be in 32\.\.8192, got 16"),
        ({"min_size": 900, "max_size": 800}, "min_size must not be above max_size, got 900 and 800"),
        ({"neck_channels": 0}, r"neck_channels must be in 1\.\.4096, got 0"),
        ({"score_threshold": 1.5}, r"score_threshold must be in 0\.\.1, got 1.5"),
        ({"nms_threshold": -1}, r"nms_threshold must be in 0\.\.1, got -1"),
        ({"max_detections": 0}, r"max_detections must be in 1\.\.10000, got 0"),
        ({"std": (1.0, 0.0, 1.0)}, "mean and std must be three values each, std above 0"),
        ({"mean": (0.5,)}, "mean and std must be three values each, std above 0"),
    ],
)
def test_faults_are_named(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        DetectorConfig(**{"class_names": ("a",), **settings})  # type: ignore[arg-type]


def test_all_faults_come_together_and_unknown_keys_are_one() -> None:
    with pytest.raises(ConfigError, match="min_size must be .*; max_detections must be .*"):
        DetectorConfig(class_names=("a",), min_size=1, max_detections=0)
    with pytest.raises(ConfigError, match=r"detector: unknown keys \['anchors'\]"):
        DetectorConfig.from_dict({"class_names": ["a"], "anchors": 3})
