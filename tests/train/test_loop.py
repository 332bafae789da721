from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor, nn

import effvit
from effvit.data.augmentation import Augmentation
from effvit.data.datasets import PictureData
from effvit.data.pictures import read_picture
from effvit.data.samples import Sample
from effvit.data.transforms import eval_transform, normalize
from effvit.errors import ConfigError, DataError, RunError
from effvit.model.layers import Residual
from effvit.train.classification import fit
from effvit.train.config import TrainConfig
from effvit.train.records import EpochRecord, StepReport, best_epoch
from effvit.train.running_loss import RunningLoss
from effvit.train.runs import RunFolder

pytestmark = pytest.mark.usefixtures("undrawn")


def network(config: TrainConfig, data: PictureData) -> nn.Module:
    torch.manual_seed(config.seed)
    return effvit.create_model(
        config.model, num_classes=len(data.class_names), image_size=32, drop_path=config.drop_path
    )


def keep_nothing(folder: Path, model: nn.Module, record: EpochRecord) -> None:
    """For networks that are not EfficientViT, and runs whose weights nobody reads."""


def same_weights(first: nn.Module, second: nn.Module) -> bool:
    pairs = zip(first.state_dict().items(), second.state_dict().items(), strict=True)
    return all(name == other and torch.equal(a, b) for (name, a), (other, b) in pairs)


def timeless(history: list[EpochRecord]) -> list[EpochRecord]:
    """What was computed, without how long it took."""
    return [dataclasses.replace(r, seconds=0, pictures_per_second=0, waiting_share=0) for r in history]


def interrupt_at(epoch: int, step: int) -> object:
    def on_step(report: StepReport) -> None:
        if (report.phase, report.epoch, report.step) == ("train", epoch, step):
            raise KeyboardInterrupt

    return on_step


@pytest.fixture
def uninterrupted(config: TrainConfig, data: PictureData, tmp_path: Path) -> tuple[nn.Module, list[EpochRecord]]:
    model = network(config, data)
    return model, fit(model, data, config, RunFolder.create(tmp_path / "whole", config, data))


@pytest.mark.parametrize("interrupted_at", [(1, 2), (3, 1)])
def test_resumed_run_ends_bit_for_bit_like_an_uninterrupted_one(
    config: TrainConfig,
    data: PictureData,
    tmp_path: Path,
    uninterrupted: tuple[nn.Module, list[EpochRecord]],
    interrupted_at: tuple[int, int],
) -> None:
    run = RunFolder.create(tmp_path / "cut", config, data)
    with pytest.raises(KeyboardInterrupt):
        fit(network(config, data), data, config, run, on_step=interrupt_at(*interrupted_at))  # type: ignore[arg-type]
    assert run.read_record()["status"] == "interrupted"
    assert len(run.read_metrics()) == interrupted_at[0] - 1

    # Another process: other initial weights, another state of the generator, workers.
    opened = RunFolder.open(tmp_path / "cut")
    torch.manual_seed(12345)
    resumed = effvit.create_model(config.model, num_classes=3, image_size=32, drop_path=config.drop_path)
    with_workers = dataclasses.replace(opened.read_config(), num_workers=1)
    history = fit(resumed, opened.read_data(), with_workers, opened, resume=True)

    whole, whole_history = uninterrupted
    assert same_weights(whole, resumed)
    assert timeless(history) == timeless(whole_history)
    assert [entry["epoch"] for entry in opened.read_metrics()] == [1, 2, 3]
    first, second = (effvit.load(tmp_path / name)[0] for name in ("whole", "cut"))
    assert same_weights(first, second)


def test_run_killed_between_its_files_can_go_on(
    config: TrainConfig, data: PictureData, tmp_path: Path, uninterrupted: tuple[nn.Module, list[EpochRecord]]
) -> None:
    """The metrics of epoch 2 are written, its checkpoint is not: as after a power cut."""
    run = RunFolder.create(tmp_path / "killed", config, data)
    kept: dict[int, bytes] = {}

    def on_epoch(record: EpochRecord) -> None:
        kept[record.epoch] = run.checkpoint.read_bytes()
        if record.epoch == 2:
            raise SystemExit

    with pytest.raises(SystemExit):
        fit(network(config, data), data, config, run, on_epoch=on_epoch)
    run.checkpoint.write_bytes(kept[1])
    resumed = network(config, data)
    fit(resumed, data, config, run, resume=True)
    assert same_weights(resumed, uninterrupted[0])
    assert [entry["epoch"] for entry in run.read_metrics()] == [1, 2, 3]


def test_sixteen_pictures_are_learnt_by_heart(data: PictureData, tmp_path: Path) -> None:
    few = dataclasses.replace(data, train=data.train[::3][:16], val=data.train[::3][:16])
    still = Augmentation(crop_scale=(1, 1), crop_aspect=(1, 1), horizontal_flip=0, color_jitter=0)
    config = TrainConfig(
        model="efficientvit_tiny", epochs=40, batch_size=16, label_smoothing=0, learning_rate=5e-3,
        augmentation=still, preprocessing=effvit.Preprocessing(image_size=(32, 32), crop_ratio=1.0),
    )  # fmt: skip
    run = RunFolder.create(tmp_path / "run", config, few)
    history = fit(network(config, few), few, config, run, save_weights=keep_nothing)
    assert history[-1].train_loss < 0.1
    assert best_epoch(history).val_top1 == 1.0


def test_curves_for_tensorboard(config: TrainConfig, data: PictureData, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    short = dataclasses.replace(config, epochs=1, tensorboard=True)
    fit(network(short, data), data, short, RunFolder.create(tmp_path / "run", short, data))
    assert len(list((tmp_path / "run" / "tensorboard").glob("events.*"))) == 1


def test_fewer_pictures_than_a_batch_are_all_trained_on(config: TrainConfig, data: PictureData, tmp_path: Path) -> None:
    few = dataclasses.replace(data, train=(data.train[0], data.train[-1]))
    short = dataclasses.replace(config, epochs=1, batch_size=64)
    steps: list[StepReport] = []
    run = RunFolder.create(tmp_path / "run", short, few)
    fit(network(short, few), few, short, run, on_step=steps.append)
    assert [(step.phase, step.step, step.num_steps) for step in steps] == [("train", 1, 1), ("val", 1, 1)]


def test_a_single_picture_left_over_does_not_stop_the_training(
    config: TrainConfig, data: PictureData, tmp_path: Path
) -> None:
    odd = dataclasses.replace(data, train=data.train[::8][:3])  # batches of two and one
    short = dataclasses.replace(config, epochs=1, batch_size=2)
    history = fit(network(short, odd), odd, short, RunFolder.create(tmp_path / "run", short, odd))
    assert len(history) == 1 and history[0].num_unreadable == 0


@pytest.mark.parametrize("name", ["mobilenetv3_small_050", "resnet10t"])
def test_other_peoples_networks_train_too(config: TrainConfig, data: PictureData, tmp_path: Path, name: str) -> None:
    model = timm.create_model(name, num_classes=3)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    short = dataclasses.replace(config, epochs=2, warmup_share=0)
    run = RunFolder.create(tmp_path / "run", short, data)
    fit(model, data, short, run, save_weights=keep_nothing)
    changed = [not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True)]
    assert sum(changed) > 0.9 * len(changed)


def test_other_peoples_networks_need_a_writer(config: TrainConfig, data: PictureData, tmp_path: Path) -> None:
    short = dataclasses.replace(config, epochs=1)
    with pytest.raises(ConfigError, match="weights of a MobileNetV3 need save_weights="):
        fit(
            timm.create_model("mobilenetv3_small_050", num_classes=3),
            data,
            short,
            RunFolder.create(tmp_path / "run", short, data),
        )


def test_both_heads_of_a_distilled_network_are_trained(config: TrainConfig, data: PictureData, tmp_path: Path) -> None:
    model = effvit.create_model("efficientvit_tiny", num_classes=3, image_size=32, distilled=True)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    short = dataclasses.replace(config, epochs=1, warmup_share=0)
    fit(model, data, short, RunFolder.create(tmp_path / "run", short, data))
    heads = [name for name in before if "head" in name and name.endswith("linear.weight")]
    assert len(heads) == 2
    assert not any(torch.equal(before[name], model.state_dict()[name]) for name in heads)


class Watched(nn.Module):
    """The least network there is; keeps what it was shown and which of 64 branches it dropped."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.branch = Residual(nn.Identity(), drop_path=0.5)
        self.shown: dict[bool, list[Tensor]] = {True: [], False: []}
        self.dropped: list[tuple[bool, ...]] = []

    def forward(self, x: Tensor) -> Tensor:
        self.shown[self.training].append(x)
        if self.training:
            self.dropped.append(tuple((self.branch(torch.ones(64, 1, 1, 1)) == 1).flatten().tolist()))
        logits: Tensor = self.linear(x.mean(dim=(2, 3)))
        return logits


@pytest.fixture
def one_step(config: TrainConfig) -> TrainConfig:
    """One step an epoch, so small that no weight changes: a step's numbers can be computed afterwards."""
    return dataclasses.replace(
        config, epochs=1, batch_size=64, warmup_share=0, learning_rate=1e-30, min_learning_rate=0
    )


def watch(model: nn.Module, data: PictureData, config: TrainConfig, path: Path) -> list[EpochRecord]:
    return fit(model, data, config, RunFolder.create(path, config, data), save_weights=keep_nothing)


@pytest.mark.parametrize("clip_grad", [0.02, 0.005, 0.0])
def test_no_units_gradient_is_larger_than_its_share_of_the_weights(
    one_step: TrainConfig, data: PictureData, tmp_path: Path, clip_grad: float
) -> None:
    model = Watched()
    watch(model, data, dataclasses.replace(one_step, clip_grad=clip_grad), tmp_path / "run")
    assert model.linear.weight.grad is not None
    share = model.linear.weight.grad.norm(dim=1) / model.linear.weight.norm(dim=1)
    if clip_grad:
        torch.testing.assert_close(share.max().item(), clip_grad, rtol=1e-4, atol=0)
    else:
        assert share.max() > 0.02  # there was something to clip


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.4])
def test_labels_are_smoothed_in_training_and_not_in_validation(
    one_step: TrainConfig, data: PictureData, tmp_path: Path, smoothing: float
) -> None:
    model = Watched()
    model.linear.weight.data.zero_()
    model.linear.bias.data.copy_(torch.tensor([2.0, 0.0, -1.0]))  # the same answer to every picture
    data = dataclasses.replace(data, train=data.train[:10])  # of all classes alike, smoothing would not show
    (record,) = watch(model, data, dataclasses.replace(one_step, label_smoothing=smoothing), tmp_path / "run")
    losses = -model.linear.bias.log_softmax(dim=0)  # of each class
    of_train, of_val = (losses[[sample.target for sample in part]].mean().item() for part in (data.train, data.val))
    assert record.train_loss == pytest.approx((1 - smoothing) * of_train + smoothing * losses.mean().item(), rel=1e-5)
    assert record.val_loss == pytest.approx(of_val, rel=1e-5)


def test_pictures_are_varied_in_training_and_as_they_are_in_validation(
    one_step: TrainConfig, data: PictureData, tmp_path: Path
) -> None:
    model = Watched()
    watch(model, dataclasses.replace(data, train=data.val), one_step, tmp_path / "run")
    transform = eval_transform(one_step.preprocessing)
    plain = torch.stack([transform(read_picture(sample.path)) for sample in data.val])
    expected = normalize(plain, one_step.preprocessing)
    assert torch.equal(torch.cat(model.shown[False]), expected)
    assert not any(torch.equal(shown, image) for shown in torch.cat(model.shown[True]) for image in expected)


def test_what_is_dropped_follows_seed_and_epoch_alone(one_step: TrainConfig, data: PictureData, tmp_path: Path) -> None:
    def dropped(name: str, *, seed: int, elsewhere: int) -> list[tuple[bool, ...]]:
        model = Watched()
        torch.manual_seed(elsewhere)
        watch(model, data, dataclasses.replace(one_step, epochs=3, seed=seed), tmp_path / name)
        return model.dropped

    first = dropped("first", seed=0, elsewhere=1)
    assert dropped("again", seed=0, elsewhere=2) == first
    assert len({*first, *dropped("other", seed=1, elsewhere=1)}) == 6  # no two epochs alike, nor two seeds

    several_steps = Watched()
    watch(several_steps, data, dataclasses.replace(one_step, batch_size=8), tmp_path / "steps")
    assert len(set(several_steps.dropped)) == 3


def test_a_run_that_gets_no_better_stops_and_is_not_taken_up_again(
    one_step: TrainConfig, data: PictureData, tmp_path: Path
) -> None:
    patient = dataclasses.replace(one_step, epochs=5, patience=1)
    history = watch(Watched(), data, patient, tmp_path / "run")
    assert [record.epoch for record in history] == [1, 2]  # the second is no better than the first
    run, steps = RunFolder.open(tmp_path / "run"), list[StepReport]()
    assert run.read_record()["status"] == "finished"
    resumed = fit(Watched(), data, patient, run, resume=True, on_step=steps.append, save_weights=keep_nothing)
    assert resumed == history and not steps


@pytest.mark.parametrize(("freeze_norm", "trained_on"), [(False, [2]), (True, [2, 1])])
def test_a_single_picture_is_trained_on_where_statistics_are_frozen(
    one_step: TrainConfig, data: PictureData, tmp_path: Path, freeze_norm: bool, trained_on: list[int]
) -> None:
    model = Watched()
    few = dataclasses.replace(data, train=data.train[:3])
    watch(model, few, dataclasses.replace(one_step, batch_size=2, freeze_norm=freeze_norm), tmp_path / "run")
    assert [len(images) for images in model.shown[True]] == trained_on


def test_a_step_that_is_too_short_in_another_process_is_left_out_in_this_one(
    one_step: TrainConfig, data: PictureData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The processes exchange gradients: where one leaves a step out and another does not, both wait for ever."""
    own: list[int] = []

    def with_another_process(values: Tensor) -> Tensor:
        own.append(int(values[0]))
        elsewhere = torch.zeros_like(values)
        elsewhere[:2] = torch.tensor([1, len(own) == 2])  # its pictures, and whether they are too few
        return values + elsewhere

    monkeypatch.setattr("effvit.train.loop.sum_over_processes", with_another_process)
    model = Watched()
    watch(model, data, dataclasses.replace(one_step, batch_size=8), tmp_path / "run")
    assert own == [8, 8, 8] and len(model.shown[True]) == 2


def test_processes_draw_each_its_own(
    one_step: TrainConfig, data: PictureData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the same pictures, another process mixes and drops others."""
    data = dataclasses.replace(data, train=data.train[:6], val=data.val[:1])
    mixing = dataclasses.replace(one_step, augmentation=Augmentation(mixup=1.0))
    models = [Watched(), Watched()]
    for rank, model in enumerate(models):
        monkeypatch.setattr("effvit.train.loop.rank", lambda rank=rank: rank)
        watch(model, data, mixing, tmp_path / str(rank))
    first, second = (torch.cat(model.shown[True]) for model in models)
    assert first.shape == second.shape and not torch.equal(first, second)
    assert models[0].dropped != models[1].dropped


def test_losses_a_gpu_was_not_yet_asked_for_are_in_the_checkpoint(
    one_step: TrainConfig, data: PictureData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_in_groups(device: torch.device, place: str) -> RunningLoss:
        return RunningLoss(torch.device("cuda"), place)  # only its name is looked at

    monkeypatch.setattr("effvit.train.loop.RunningLoss", read_in_groups)
    often = dataclasses.replace(one_step, batch_size=4, checkpoint_minutes=1e-9)
    torch.manual_seed(0)
    (whole,) = watch(Watched(), data, often, tmp_path / "whole")
    run = RunFolder.create(tmp_path / "cut", often, data)
    torch.manual_seed(0)
    with pytest.raises(KeyboardInterrupt):
        fit(Watched(), data, often, run, on_step=interrupt_at(1, 4), save_weights=keep_nothing)  # type: ignore[arg-type]
    assert run.load_checkpoint()["position"]["step"] == 3
    (resumed,) = fit(Watched(), data, often, run, resume=True, save_weights=keep_nothing)
    assert resumed.train_loss == pytest.approx(whole.train_loss, rel=1e-6)


def test_what_a_killed_process_was_writing_is_removed_when_its_run_goes_on(
    one_step: TrainConfig, data: PictureData, tmp_path: Path
) -> None:
    watch(Watched(), data, one_step, tmp_path / "run")
    run = RunFolder.open(tmp_path / "run")
    leftover = run.checkpoint.with_name(".last.7.partial.pt")
    leftover.touch()
    fit(Watched(), data, one_step, run, resume=True, save_weights=keep_nothing)
    assert not leftover.exists() and run.checkpoint.exists()


class Exploding(nn.Module):
    """Gives nan in the given training step."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.steps = 0
        self.at = at

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.linear(x.mean(dim=(2, 3)))
        self.steps += self.training
        return logits * (float("nan") if self.training and self.steps == self.at else 1.0)


def test_loss_that_is_not_finite_names_the_step_and_keeps_the_last_epoch(
    config: TrainConfig, data: PictureData, tmp_path: Path
) -> None:
    run = RunFolder.create(tmp_path / "run", config, data)
    with pytest.raises(RunError, match=r"the loss is nan at epoch 2, step 3 \(pictures .*\.jpg, .*\.jpg, \.\.\.\)"):
        fit(Exploding(at=6), data, config, run, save_weights=keep_nothing)
    state = run.load_checkpoint()
    assert len(state["history"]) == 1
    assert all(value.isfinite().all() for value in state["model"].values())
    assert run.read_record()["status"] == "failed"


def test_corrupt_pictures_are_counted(config: TrainConfig, data: PictureData, tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"no picture")
    bad = Sample(tmp_path / "bad.jpg", 0)
    short = dataclasses.replace(config, epochs=1)
    spoilt = dataclasses.replace(data, root=Path("/"), train=(*data.train, bad))
    history = fit(network(short, data), spoilt, short, RunFolder.create(tmp_path / "run", short, spoilt))
    assert history[0].num_unreadable == 1

    worse = dataclasses.replace(spoilt, val=(*data.val, bad, bad))
    run = RunFolder.create(tmp_path / "worse", short, worse)
    with pytest.raises(DataError, match=r"at least 2 of 8 pictures cannot be read .*bad\.jpg"):
        fit(network(short, data), worse, short, run)


def test_resuming_with_other_settings_is_refused(config: TrainConfig, data: PictureData, tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run", config, data)
    with pytest.raises(KeyboardInterrupt):
        fit(network(config, data), data, config, run, on_step=interrupt_at(1, 1))  # type: ignore[arg-type]
    other = dataclasses.replace(config, epochs=9, seed=1)
    with pytest.raises(ConfigError, match="keeps its configuration, but epochs was 3, is 9, seed was 0, is 1"):
        fit(network(config, data), data, other, run, resume=True)


def test_finished_run_is_left_as_it_is(
    config: TrainConfig, data: PictureData, tmp_path: Path, uninterrupted: tuple[nn.Module, list[EpochRecord]]
) -> None:
    run = RunFolder.open(tmp_path / "whole")
    steps: list[StepReport] = []
    history = fit(network(config, data), data, config, run, resume=True, on_step=steps.append)
    assert history == uninterrupted[1] and not steps


def test_best_epochs_weights_are_kept_with_what_they_need(
    config: TrainConfig, data: PictureData, tmp_path: Path, uninterrupted: tuple[nn.Module, list[EpochRecord]]
) -> None:
    model, info = effvit.load(tmp_path / "whole")
    best = best_epoch(uninterrupted[1])
    assert info.class_names == data.class_names
    assert info.preprocessing == config.preprocessing
    assert info.provenance["epoch"] == best.epoch
    assert json.loads(json.dumps(info.provenance))["val_top1"] == best.val_top1
    assert str(tmp_path) not in json.dumps(info.provenance)
    assert not model.training


def test_run_on_a_moved_data_folder(config: TrainConfig, data: PictureData, photos: Path, tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run", config, data)
    shutil.copytree(photos, tmp_path / "moved")
    moved = run.read_data(tmp_path / "moved")
    assert [s.path.relative_to(moved.root) for s in moved.val] == [s.path.relative_to(data.root) for s in data.val]
    assert all(sample.path.is_file() for sample in (*moved.train, *moved.val))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_training_on_cuda(config: TrainConfig, data: PictureData, tmp_path: Path) -> None:
    on_cuda = dataclasses.replace(config, device="cuda", num_workers=1)
    history = fit(network(config, data), data, on_cuda, RunFolder.create(tmp_path / "run", on_cuda, data))
    assert len(history) == config.epochs
