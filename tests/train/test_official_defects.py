"""Defects 6 to 9 of the official code's training: each would fail here."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import effvit
from effvit.data.augmentation import Augmentation
from effvit.data.datasets import PictureData
from effvit.data.loaders import PictureLoader
from effvit.data.order import Order
from effvit.data.samples import Sample
from effvit.data.transforms import eval_transform, train_transform
from effvit.model.checkpoints import WeightsInfo, save
from effvit.preprocessing import Preprocessing
from effvit.train.classification import fit
from effvit.train.config import TrainConfig
from effvit.train.distillation_config import Distillation
from effvit.train.evaluate import evaluate, network_predictor
from effvit.train.records import StepReport, best_epoch
from effvit.train.runs import RunFolder

pytestmark = pytest.mark.usefixtures("undrawn")

SMALL = Preprocessing(image_size=(32, 32))


def network(data: PictureData, distilled: bool = False) -> effvit.EfficientViT:
    return effvit.create_model(
        "efficientvit_tiny", num_classes=len(data.class_names), image_size=32, distilled=distilled
    )


def top1(folder: Path, data: PictureData) -> float:
    model, info = effvit.load(folder)
    loader = PictureLoader(data.val, eval_transform(info.preprocessing), batch_size=4)
    predict = network_predictor(model)
    return evaluate(predict, loader, class_names=data.class_names, preprocessing=info.preprocessing).top1


def test_6_the_average_is_evaluated_and_the_best_is_what_was_measured(
    config: TrainConfig, data: PictureData, tmp_path: Path
) -> None:
    """There, the average is never looked at, every epoch is kept, and which was the best is not."""
    config = replace(config, epochs=4, ema_decay=0.7, learning_rate=0.02)
    run = RunFolder.create(tmp_path / "run", config, data)
    model = network(data)
    average = {name: value.clone() for name, value in model.state_dict().items()}

    def on_step(step: StepReport) -> None:
        if step.phase == "train":
            for name, value in model.state_dict().items():
                average[name] = 0.7 * average[name] + 0.3 * value if value.is_floating_point() else value.clone()

    history = fit(model, data, config, run, on_step=on_step)

    last, _ = effvit.load(run.last_weights)
    for name, value in last.state_dict().items():
        torch.testing.assert_close(value, average[name], rtol=1e-4, atol=1e-5, msg=name)
    assert [record.val_top1_ema is not None for record in history] == [True] * 4
    assert top1(run.last_weights, data) == pytest.approx(history[-1].val_top1_ema)
    assert top1(run.weights, data) == pytest.approx(best_epoch(history).best_top1)
    assert best_epoch(history).best_top1 == max(max(r.val_top1, r.val_top1_ema or 0) for r in history)
    assert len(list(run.path.rglob("*.safetensors"))) == 2


@pytest.mark.parametrize("num_pictures", [5, 255, 257])
@pytest.mark.parametrize("num_processes", [1, 2])
def test_7_repeated_augmentation_trains_on_any_number_of_pictures(
    num_pictures: int, num_processes: int, photos: Path
) -> None:
    """There, an epoch is 256 pictures or a multiple: fewer than 256 train nothing, in silence."""
    picture = next(photos.rglob("*.jpg"))
    samples = [Sample(picture, index % 3) for index in range(num_pictures)]
    transform = train_transform(SMALL, Augmentation(repeats=3))
    looks: Counter[int] = Counter()
    for rank in range(num_processes):
        loader = PictureLoader(
            samples, transform, batch_size=64, order=Order.SHUFFLE, repeats=3, rank=rank, num_processes=num_processes
        )
        for batch in loader.batches():
            looks.update(batch.indices.tolist())
    assert looks.total() == num_pictures
    assert max(looks.values()) <= 3
    assert len(looks) <= math.ceil(num_pictures / 3) + 1


@pytest.mark.parametrize("mixed_by", [{"cutmix": 1.0}, {"mixup": 1.0}, {"mixup": 0.8, "cutmix": 1.0}, {}])
@pytest.mark.parametrize("class_weights", ["none", "inverse"])
def test_8_every_way_of_mixing_meets_its_loss(
    mixed_by: dict[str, float], class_weights: str, config: TrainConfig, data: PictureData, tmp_path: Path
) -> None:
    """There, cutmix without mixup hands soft targets to a loss for class indices."""
    config = replace(config, epochs=1, augmentation=Augmentation(**mixed_by), class_weights=class_weights)  # type: ignore[arg-type]
    (record,) = fit(network(data), data, config, RunFolder.create(tmp_path / "run", config, data))
    assert 0 < record.train_loss < 3 * math.log(len(data.class_names))


def test_9_everything_trains_without_cuda(
    config: TrainConfig, data: PictureData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There, the loop calls CUDA by name. Here a GPU is not touched unless it is asked for, even if there is one."""

    def touched() -> None:
        raise AssertionError("CUDA was touched by a run on the CPU")

    monkeypatch.setattr(torch.cuda, "_lazy_init", touched)
    save(tmp_path / "teacher", network(data), WeightsInfo(class_names=data.class_names, preprocessing=SMALL))
    config = replace(
        config,
        epochs=2,
        accumulation=2,
        ema_decay=0.9,
        precision="bfloat16",
        freeze_backbone_epochs=1,
        augmentation=Augmentation(
            mixup=0.8, cutmix=1.0, random_erasing=0.5, rand_augment="rand-m9-mstd0.5-inc1", repeats=3
        ),
        distillation=Distillation(teacher=str(tmp_path / "teacher"), kind="hard"),
    )
    run = RunFolder.create(tmp_path / "run", config, data)
    history = fit(network(data, distilled=True), data, config, run)
    assert len(history) == 2
    assert all(math.isfinite(record.train_loss) for record in history)
