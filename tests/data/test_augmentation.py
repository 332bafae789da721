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
    with pytest.raises(ConfigError, match=r"augmentation: unknown keys \['mix_up'\]"):
        Augmentation.from_dict({"mix_up": 0.8})


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("rand_augment", "auto", "must begin with rand-"),
        ("rand_augment", "random-m9", "must begin with rand-"),
        ("random_erasing", 1.5, r"in 0\.\.1"),
        ("erasing_mode", "noise", "one of pixel, rand, const"),
        ("repeats", 0, r"in 1\.\.100"),
        ("mixup", -0.1, r"in 0\.\.100"),
        ("cutmix", float("nan"), r"in 0\.\.100"),
        ("mix_probability", 2, r"in 0\.\.1"),
        ("mix_switch", -1, r"in 0\.\.1"),
    ],
)
def test_each_value_has_its_limits(field: str, value: object, allowed: str) -> None:
    with pytest.raises(ConfigError, match=f"^augmentation: {field} .*{allowed}.*, got "):
        Augmentation(**{field: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "mixes"),
    [
        ({}, False),
        ({"mixup": 0.8}, True),
        ({"cutmix": 1.0}, True),
        ({"mixup": 0.8, "cutmix": 1.0, "mix_probability": 0.0}, False),
    ],
)
def test_mixing_is_on_where_something_is_mixed(options: dict[str, float], mixes: bool) -> None:
    assert Augmentation(**options).mixes is mixes  # type: ignore[arg-type]
