from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import effvit
from effvit.data.augmentation import Augmentation
from effvit.data.datasets import PictureData
from effvit.errors import ConfigError, DataError
from effvit.model.checkpoints import WeightsInfo, save
from effvit.model.network import EfficientViT
from effvit.model.variants import PUBLISHED
from effvit.train import pace
from effvit.train.config import TrainConfig
from effvit.train.distillation_config import Distillation
from effvit.train.dry_run import count_macs, dry_run
from effvit.train.pace import Pace, measure_pace
from effvit.train.recipes import recipe
from effvit.train.run_config import flat_settings, replace_fields


@pytest.fixture
def network() -> EfficientViT:
    return effvit.create_model("efficientvit_tiny", num_classes=3, image_size=32)


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "_MAX_BATCHES", 2)


def test_settings_are_complete_and_can_be_given_back(config: TrainConfig) -> None:
    settings = flat_settings(config)
    assert settings.keys() == TrainConfig.field_types().keys()
    assignments = [
        f"{name}={','.join(map(str, value)) if isinstance(value, tuple | list) else value}"
        for name, value in settings.items()
        if name != "recipe"  # a whole set of settings, with a flag of its own
    ]
    assert replace_fields(TrainConfig(), assignments) == config


def test_everything_but_time_without_pictures(network: EfficientViT) -> None:
    config = replace(recipe("imagenet"), device="cpu")
    result = dry_run(config, None, network)
    assert result.num_params == sum(parameter.numel() for parameter in network.parameters())
    assert result.peak_learning_rate == pytest.approx(4e-3)
    assert result.last_learning_rate == pytest.approx(1e-5, rel=0.02)
    assert (result.num_train, result.num_val, result.steps_per_epoch, result.num_steps) == (None,) * 4
    assert result.pace is None
    json.dumps(result.to_dict())


def test_macs_are_the_published_ones() -> None:
    network = effvit.create_model("efficientvit_m0")
    assert count_macs(network, TrainConfig()) == PUBLISHED["efficientvit_m0"].num_macs


def test_steps_of_the_run(config: TrainConfig, data: PictureData, network: EfficientViT) -> None:
    result = dry_run(replace(config, batch_size=5), data, network)
    assert (result.num_train, result.num_val) == (len(data.train), len(data.val)) == (24, 6)
    assert result.steps_per_epoch == 5
    assert result.num_steps == 5 * config.epochs
    json.dumps(result.to_dict())


def test_nothing_is_trained_and_nothing_is_drawn_from_the_generator_of_the_run(
    config: TrainConfig, data: PictureData, network: EfficientViT
) -> None:
    network.train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    everything = Augmentation(random_erasing=0.5, mixup=0.5, cutmix=0.5, rand_augment="rand-m5")
    dry_run(replace(config, augmentation=everything, ema_decay=0.9), data, network)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert network.training
    assert all(parameter.grad is None and parameter.requires_grad for parameter in network.parameters())


@pytest.mark.parametrize(("ema_decay", "num_networks"), [(0.0, 1), (0.9, 2)])
def test_the_estimate_adds_up(
    ema_decay: float, num_networks: int, config: TrainConfig, data: PictureData, network: EfficientViT
) -> None:
    config = replace(config, ema_decay=ema_decay)
    found = measure_pace(config, data, network)
    assert found.num_batches == 2
    assert found.num_pictures == config.batch_size
    train = len(data.train) * (found.train_ms.median + found.load_ms.median)
    val = len(data.val) * (num_networks * found.val_ms.median + found.val_load_ms.median)
    assert found.epoch_seconds.median == pytest.approx((train + val) / 1000)
    for seconds, epoch in zip(found.run_seconds, found.epoch_seconds, strict=True):
        assert seconds == pytest.approx(config.epochs * epoch)
    for name, value in vars(found).items():
        if isinstance(value, tuple):
            median, low, high = value
            assert 0 < low <= median <= high, name
    assert found.step_ms.median == pytest.approx(config.batch_size * found.train_ms.median)
    assert found.memory_bytes is None
    assert isinstance(found, Pace)


def test_workers_decode_beside_the_training(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace.os, "sched_getaffinity", lambda _: set(range(4)), raising=False)
    monkeypatch.setattr(pace.torch, "get_num_threads", lambda: 4)
    together = pace._together
    assert together(10.0, 6.0, replace(config, num_workers=0)) == 16
    on_gpu = replace(config, device="cuda", num_workers=2)
    assert together(10.0, 6.0, on_gpu) == 10
    assert together(1.0, 6.0, on_gpu) == 3
    assert together(1.0, 6.0, replace(on_gpu, num_workers=100)) == 1.5  # no more decode at once than there are cores
    assert together(10.0, 6.0, replace(config, num_workers=2)) == 11.5  # on a CPU they share the cores


def test_a_batch_too_large_for_a_test_is_measured_in_part(
    config: TrainConfig, data: PictureData, network: EfficientViT, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pace, "_MAX_CPU_BATCH", 4)
    assert measure_pace(replace(config, batch_size=2048), data, network).num_pictures == 4
    assert measure_pace(replace(config, batch_size=12, accumulation=4), data, network).num_pictures == 3


def test_memory_that_does_not_suffice_is_one_line(
    config: TrainConfig, data: PictureData, network: EfficientViT, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_large(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(pace.Learner, "step", too_large)
    with pytest.raises(ConfigError, match="a micro-batch of 8 pictures does not fit the memory of cpu; raise accumul"):
        measure_pace(config, data, network)


def test_pictures_that_cannot_be_read(
    config: TrainConfig, data: PictureData, network: EfficientViT, tmp_path: Path
) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    broken = tuple(sample._replace(path=tmp_path / "broken.jpg") for sample in data.train)
    with pytest.raises(DataError, match="no batch of 2 readable pictures was found"):
        measure_pace(config, replace(data, train=broken), network)


def test_a_teacher_that_does_not_fit_is_found(
    config: TrainConfig, data: PictureData, network: EfficientViT, tmp_path: Path
) -> None:
    other = effvit.create_model("efficientvit_tiny", num_classes=4, image_size=32)
    save(tmp_path / "teacher", other, WeightsInfo(class_names=("a", "b", "c", "d"), preprocessing=config.preprocessing))
    taught = replace(config, distillation=Distillation(teacher=str(tmp_path / "teacher")))
    with pytest.raises(ConfigError, match="knows 4 classes, the pictures have 3"):
        measure_pace(taught, data, network)
