from __future__ import annotations

import json

import pytest

from effvit.data.augmentation import Augmentation
from effvit.errors import ConfigError
from effvit.preprocessing import Preprocessing
from effvit.train.config import TrainConfig
from effvit.train.run_config import replace_fields


def test_json_round_trip() -> None:
    config = TrainConfig(
        epochs=7,
        augmentation=Augmentation(crop_scale=(0.5, 0.9)),
        preprocessing=Preprocessing(image_size=(96, 160), interpolation="bilinear"),
    )
    assert TrainConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_all_faults_are_told_at_once() -> None:
    with pytest.raises(ConfigError, match=r"epochs .* got 0; batch_size .* got 1; learning_rate .* got -1"):
        TrainConfig(epochs=0, batch_size=1, learning_rate=-1)


def test_faults_of_sections_are_told_with_the_others() -> None:
    values = TrainConfig().to_dict()
    values["epochs"] = 0
    values["augmentation"]["color_jitter"] = 2
    values["preprocessing"]["crop_ratio"] = 0
    values["momentum"] = 0.9
    with pytest.raises(ConfigError, match=r"momentum.*color_jitter.*crop_ratio.*epochs") as caught:
        TrainConfig.from_dict(values)
    assert "\n" not in str(caught.value)


def test_nan_is_not_a_learning_rate() -> None:
    with pytest.raises(ConfigError, match="learning_rate must be above 0, got nan"):
        TrainConfig(learning_rate=float("nan"))


def test_floor_above_the_peak_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"min_learning_rate must not be above learning_rate, got 0\.1 and 0\.01"):
        TrainConfig(learning_rate=0.01, min_learning_rate=0.1)


def test_fields_are_set_with_their_types() -> None:
    config = replace_fields(
        TrainConfig(),
        ["epochs=3", "learning_rate = 1e-4", "model=efficientvit_m5", "augmentation.crop_scale=0.5, 1",
         "preprocessing.image_size=96,160", "preprocessing.interpolation=nearest"],
    )  # fmt: skip
    assert config == TrainConfig(
        epochs=3,
        learning_rate=1e-4,
        model="efficientvit_m5",
        augmentation=Augmentation(crop_scale=(0.5, 1.0)),
        preprocessing=Preprocessing(image_size=(96, 160), interpolation="nearest"),
    )


def test_every_field_can_be_set_to_what_it_is() -> None:
    config = TrainConfig()
    values = config.to_dict()
    for name in TrainConfig.field_types():
        section, _, leaf = name.rpartition(".")
        value = (values[section] if section else values)[leaf]
        text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
        assert replace_fields(config, [f"{name}={text}"]) == config


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("epochs", "--set wants field=value, got 'epochs'"),
        ("epoch=3", r"unknown field 'epoch' \(did you mean 'epochs'\?\); known: model, .*augmentation.crop_scale"),
        ("augmentation=3", "unknown field 'augmentation'"),
        ("augmentation.cropscale=1", "did you mean 'augmentation.crop_scale'"),
        ("epochs=2.5", "epochs must be a whole number, got '2.5'"),
        ("augmentation.crop_scale=0.5,x", "augmentation.crop_scale must be a number, got 'x'"),
        ("augmentation.crop_scale=0.5", "crop_scale must be two ascending values"),
        ("preprocessing.image_size=0,32", "image_size must be two whole numbers in 1"),
        ("epochs=0", "epochs must be in 1..1000000, got 0"),
    ],
)  # fmt: skip
def test_wrong_assignment_is_one_line(assignment: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace_fields(TrainConfig(), [assignment])
