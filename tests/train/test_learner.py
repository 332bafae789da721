from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor, nn

import effvit
from effvit.data.datasets import PictureData
from effvit.errors import ConfigError
from effvit.train.classification import fit
from effvit.train.config import TrainConfig
from effvit.train.freezing import head_modules, set_training
from effvit.train.learner import Learner, MicroBatch
from effvit.train.losses import classifier_loss, make_criterion
from effvit.train.outcome import efficientvit_saver, keep_epoch
from effvit.train.records import EpochRecord, best_epoch, stops_early
from effvit.train.runs import RunFolder

pytestmark = pytest.mark.usefixtures("undrawn")

CPU = torch.device("cpu")


def network(distilled: bool = False) -> effvit.EfficientViT:
    torch.manual_seed(0)
    return effvit.create_model("efficientvit_tiny", num_classes=3, image_size=32, distilled=distilled)


def batch(count: int = 8) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, 3, 32, 32, generator=generator), torch.arange(count) % 3


def stepped(config: TrainConfig, *, parts: int = 1, steps: int = 2, dtype: torch.dtype = torch.float32) -> nn.Module:
    learner = Learner(network().to(dtype), config, classifier_loss(make_criterion(config, [1, 1, 1])), CPU)
    learner.begin_epoch(0)
    images, targets = batch()
    images = images.to(dtype)
    micro_batches = [MicroBatch(*pair) for pair in zip(images.chunk(parts), targets.chunk(parts), strict=True)]
    for number in range(steps):
        learner.step(micro_batches, num_pictures=len(targets), learning_rate=1e-2, number=number)
    return learner.model


def largest_difference(first: nn.Module, second: nn.Module) -> float:
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return max(float((a.double() - b.double()).abs().max()) for a, b in pairs)


@pytest.fixture
def plain() -> TrainConfig:
    return TrainConfig(model="efficientvit_tiny", learning_rate=1e-2, freeze_norm=True, clip_grad=0.02)


def test_micro_batches_add_up_to_one_batch(plain: TrainConfig) -> None:
    whole = stepped(plain, dtype=torch.float64)
    assert largest_difference(whole, stepped(plain, parts=4, dtype=torch.float64)) < 1e-6
    assert largest_difference(whole, network()) > 1e-3


@pytest.mark.parametrize(
    ("change", "tolerance"),
    [({"channels_last": True}, 1e-5), ({"precision": "bfloat16"}, 0.05), ({"precision": "float16"}, 0.05)],
)
def test_faster_ways_take_about_the_same_steps(plain: TrainConfig, change: dict[str, object], tolerance: float) -> None:
    faster = stepped(dataclasses.replace(plain, **change))  # type: ignore[arg-type]
    difference = largest_difference(stepped(plain), faster)
    assert 0 <= difference < tolerance
    if "precision" in change:
        assert difference > 1e-5  # it did compute in less
    if "channels_last" in change:
        kernels = [p for p in faster.parameters() if p.dim() == 4 and min(p.shape[1:]) > 1]
        assert all(kernel.is_contiguous(memory_format=torch.channels_last) for kernel in kernels)


@pytest.mark.slow
def test_compiled_steps_are_eager_ones(plain: TrainConfig) -> None:
    assert largest_difference(stepped(plain), stepped(dataclasses.replace(plain, compile=True))) < 1e-4


@pytest.mark.parametrize("distilled", [False, True])
def test_frozen_backbone_stands_still_and_the_head_learns(plain: TrainConfig, distilled: bool) -> None:
    config = dataclasses.replace(plain, freeze_backbone_epochs=1, freeze_norm=False)
    model = network(distilled)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    learner = Learner(model, config, classifier_loss(make_criterion(config, [1, 1, 1])), CPU)
    images, targets = batch()

    def changed(epoch: int) -> set[str]:
        learner.begin_epoch(epoch)
        learner.step([MicroBatch(images, targets)], num_pictures=8, learning_rate=1e-2, number=epoch)
        return {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}

    heads = {name for name in before if name.startswith("head")}
    assert changed(0) == heads
    assert len(changed(1)) > 0.8 * len(before)  # behind a norm of zero weight there is no gradient yet


def test_frozen_network_gives_both_outputs_in_training() -> None:
    """A loss that treats the heads differently, as distillation's does, gets the pair."""
    model = network(distilled=True)
    for freeze_backbone in (True, False):
        set_training(model, freeze_backbone=freeze_backbone)
        first, second = model(batch()[0])
        assert first.shape == second.shape == (8, 3) and not torch.equal(first, second)


def test_frozen_statistics_stay(plain: TrainConfig) -> None:
    before, after = network().state_dict(), stepped(plain).state_dict()
    statistics = [name for name in before if "running_" in name]
    assert statistics and all(torch.equal(before[name], after[name]) for name in statistics)
    learnt = stepped(dataclasses.replace(plain, freeze_norm=False)).state_dict()
    assert not any(torch.equal(before[name], learnt[name]) for name in statistics)


def test_head_of_timms_networks_is_found() -> None:
    model = timm.create_model("resnet10t", num_classes=3)
    set_training(model, freeze_backbone=True)
    assert {name for name, p in model.named_parameters() if p.requires_grad} == {"fc.weight", "fc.bias"}
    set_training(model)
    assert all(parameter.requires_grad for parameter in model.parameters())
    with pytest.raises(ConfigError, match="a Linear does not say which part is its head"):
        head_modules(nn.Linear(2, 2))


def test_state_goes_on_where_it_was(plain: TrainConfig) -> None:
    config = dataclasses.replace(plain, ema_decay=0.9)
    images, targets = batch()
    micro_batches = [MicroBatch(images, targets)]

    def learner() -> Learner:
        made = Learner(network(), config, classifier_loss(make_criterion(config, [1, 1, 1])), CPU)
        made.begin_epoch(0)
        return made

    whole, first, second = learner(), learner(), learner()
    for number in range(3):
        whole.step(micro_batches, num_pictures=8, learning_rate=1e-2, number=number)
    first.step(micro_batches, num_pictures=8, learning_rate=1e-2, number=0)
    second.load_state_dict(first.state_dict())
    for number in (1, 2):
        second.step(micro_batches, num_pictures=8, learning_rate=1e-2, number=number)
    assert largest_difference(whole.model, second.model) == 0
    assert whole.average is not None and second.average is not None
    assert largest_difference(whole.average.module, second.average.module) == 0


def test_loss_scale_goes_on_where_it_was(plain: TrainConfig) -> None:
    config = dataclasses.replace(plain, precision="float16")
    images, targets = batch()
    first, second = (
        Learner(network(), config, classifier_loss(make_criterion(config, [1, 1, 1])), CPU) for _ in range(2)
    )
    first.begin_epoch(0)
    for number in range(3):
        first.step([MicroBatch(images, targets)], num_pictures=8, learning_rate=1e-2, number=number)
    assert first.state_dict()["scaler"] != second.state_dict()["scaler"]
    second.load_state_dict(first.state_dict())
    assert first.state_dict()["scaler"] == second.state_dict()["scaler"]


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_gradients_are_clipped_at_their_true_scale(plain: TrainConfig, precision: str) -> None:
    """Those of float16 come 65,536 times too large; AdamW does not mind, the share of the weights does."""
    config = dataclasses.replace(plain, precision=precision, clip_grad=1e-5)  # a fifth of what there is
    learner = Learner(network(), config, classifier_loss(make_criterion(config, [1, 1, 1])), CPU)
    learner.begin_epoch(0)
    (weights,) = (value for name, value in learner.model.named_parameters() if name == "head.linear.weight")
    images, targets = batch()
    learner.step([MicroBatch(images, targets)], num_pictures=8, learning_rate=1e-30, number=0)
    assert weights.grad is not None
    shares = weights.grad.norm(dim=1) / weights.norm(dim=1)
    assert shares.max().item() == pytest.approx(config.clip_grad, rel=1e-3)


def record(epoch: int, top1: float, ema: float | None = None) -> EpochRecord:
    return EpochRecord(
        epoch=epoch, learning_rate=1, train_loss=1, val_loss=1, val_top1=top1, val_top1_ema=ema,
        val_loss_ema=None if ema is None else 1.0, num_unreadable=0, pictures_per_second=1, seconds=1,
    )  # fmt: skip


def test_best_is_the_better_of_weights_and_average() -> None:
    history = [record(1, 0.5, 0.1), record(2, 0.4, 0.7), record(3, 0.6, 0.65)]
    assert best_epoch(history).epoch == 2 and best_epoch(history).ema_is_better
    assert [entry.best_top1 for entry in history] == [0.5, 0.7, 0.65]
    assert not record(1, 0.3).ema_is_better and best_epoch([record(1, 0.3), record(2, 0.3)]).epoch == 1


@pytest.mark.parametrize(("top1_ema", "average_is_best"), [(0.9, True), (0.1, False)])
def test_the_better_of_weights_and_average_is_kept_as_the_best(
    config: TrainConfig, data: PictureData, tmp_path: Path, top1_ema: float, average_is_best: bool
) -> None:
    averaging = dataclasses.replace(config, ema_decay=0.9)
    run = RunFolder.create(tmp_path / "run", averaging, data)
    learner = Learner(network(), averaging, classifier_loss(make_criterion(averaging, [1, 1, 1])), CPU)
    learner.begin_epoch(0)
    images, targets = batch()
    learner.step([MicroBatch(images, targets)], num_pictures=8, learning_rate=1e-2, number=0)
    assert learner.average is not None
    average = learner.average.module
    assert largest_difference(learner.model, average) > 0

    saver = efficientvit_saver(learner.model, data, averaging, run)
    keep_epoch(run, learner, [record(1, 0.5, top1_ema)], saver)
    best, info = effvit.load(run.weights)
    assert largest_difference(best, average if average_is_best else learner.model) == 0
    assert info.provenance["moving_average"] is average_is_best
    assert info.provenance["val_top1"] == max(0.5, top1_ema)
    last, info = effvit.load(run.last_weights)
    assert largest_difference(last, average) == 0 and info.provenance["val_top1"] == top1_ema

    keep_epoch(run, learner, [record(1, 0.5, top1_ema), record(2, 0.0, 0.05)], saver)
    assert effvit.load(run.weights)[1].provenance["epoch"] == 1  # a worse epoch does not replace the best
    assert effvit.load(run.last_weights)[1].provenance["epoch"] == 2


@pytest.mark.parametrize(("patience", "stops"), [(0, None), (1, 3), (2, 4), (9, None)])
def test_stops_after_patience_epochs_without_a_better_one(patience: int, stops: int | None) -> None:
    history = [record(number, top1) for number, top1 in enumerate([0.1, 0.5, 0.4, 0.5, 0.3], start=1)]
    stopped = [length for length in range(6) if stops_early(history[:length], patience)]
    assert stopped[:1] == ([] if stops is None else [stops])


def test_average_is_evaluated_and_saved(config: TrainConfig, data: PictureData, tmp_path: Path) -> None:
    """Official defect 6: the average was kept and never looked at."""
    averaging = dataclasses.replace(config, ema_decay=0.5, epochs=2, patience=1)
    run = RunFolder.create(tmp_path / "run", averaging, data)
    model = network()
    history = fit(model, data, averaging, run)
    assert all(entry.val_loss_ema is not None and entry.val_loss_ema != entry.val_loss for entry in history)
    last, info = effvit.load(run.last_weights)
    state = run.load_checkpoint()
    assert all(torch.equal(value, state["average"][name]) for name, value in last.state_dict().items())
    assert info.provenance["moving_average"] is True
    assert info.provenance["val_top1"] == history[-1].val_top1_ema
    best = best_epoch(history)
    _, kept = effvit.load(run.weights)
    assert (kept.provenance["epoch"], kept.provenance["val_top1"]) == (best.epoch, best.best_top1)
    assert json.loads((run.path / "metrics.jsonl").read_text().splitlines()[0])["val_top1_ema"] is not None
