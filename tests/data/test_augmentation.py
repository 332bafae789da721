from __future__ import annotations

import json

import pytest

from effvit.data.augmentation import Augmentation
from effvit.errors import ConfigError


def test_json_round_trip() -> None:
    augmentation = Augmentation(crop_scale=(0.5, 0.9), horizontal_flip=0)
    assert Augmentation.from_dict(json.loads(json.dumps(augmentation.to_dict()))) == augmentation


def test_all_faults_are_told_at_once() -> None:
    with pytest.raises(
        ConfigError, match=r"crop_scale .*\(0, 2\).*crop_aspect.*horizontal_flip .*-1.*color_jitter .*3"
    ):
        Augmentation(crop_scale=(0, 2), crop_aspect=(2, 1), horizontal_flip=-1, color_jitter=3)


def test_unknown_key_is_named() -> None:
    with pytest.raises(ConfigError, match=r"unknown keys \['mixup'\]"):
        Augmentation.from_dict({"mixup": 0.8})
