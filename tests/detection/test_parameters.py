from __future__ import annotations

import pytest
from detectors import tiny_config, tiny_detector

from effvit.detection.detectors import create_detector
from effvit.errors import ConfigError


def test_everything_decays_but_the_attention_biases() -> None:
    detector = tiny_detector()
    biases = {name for name, _ in detector.named_parameters() if name.endswith("attention_biases")}
    assert len(biases) == 4 and detector.no_weight_decay() == biases
    groups = detector.parameter_groups(learning_rate=1e-4, weight_decay=0.05)
    assert {group["weight_decay"]: set(group["names"]) for group in groups} == {
        0.0: biases,
        0.05: {name for name, _ in detector.named_parameters()} - biases,
    }
    assert all(group["lr"] == 1e-4 and group["lr_scale"] == 1 for group in groups)


def test_blocks_learn_slower_than_the_ones_after_them() -> None:
    detector = tiny_detector()
    groups = detector.parameter_groups(learning_rate=1.0, weight_decay=0.05, layer_decay=0.5)
    rate = {name: group["lr"] for group in groups for name in group["names"]}
    assert len(rate) == len(list(detector.parameters()))
    # Stages of 1, 1 and 2 blocks, then neck and heads.
    body = "model.backbone.body.network."
    for start, expected in (
        (f"{body}stem.", 0.5**5),
        (f"{body}stages.0.0.", 0.5**4),
        (f"{body}stages.1.", 0.5**3),
        (f"{body}stages.2.0.", 0.5**2),
        (f"{body}stages.2.1.", 0.5**2),
        (f"{body}stages.2.2.", 0.5),
        ("model.backbone.neck.", 1.0),
        ("model.head.", 1.0),
    ):
        assert {value for name, value in rate.items() if name.startswith(start)} == {expected}, start


def test_frozen_parameters_are_in_no_group() -> None:
    detector = tiny_detector()
    detector.trunk.body.requires_grad_(False)
    groups = detector.parameter_groups(learning_rate=1.0, weight_decay=0.05)
    assert not any("body" in name for group in groups for name in group["names"])


def test_layer_decay_needs_known_layers() -> None:
    detector = create_detector(tiny_config())
    with pytest.raises(ConfigError, match=r"layer_decay must be in \(0, 1\], got 0"):
        detector.parameter_groups(learning_rate=1.0, weight_decay=0.0, layer_decay=0)
    other = create_detector(tiny_config(backbone="timm:mobilenetv2_035"))
    with pytest.raises(ConfigError, match="layer_decay 0.5 needs to know the layers of the backbone, and timm:"):
        other.parameter_groups(learning_rate=1.0, weight_decay=0.0, layer_decay=0.5)
    assert len(other.parameter_groups(learning_rate=1.0, weight_decay=0.05)) == 1
