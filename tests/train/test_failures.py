"""What goes wrong in a long run: one clear line, and the last good checkpoint as it was."""

from __future__ import annotations

import dataclasses
import errno
import multiprocessing
import os
import resource
import shutil
import signal
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import effvit
from effvit.data.datasets import PictureData, find_data
from effvit.data.samples import Sample
from effvit.errors import ConfigError, DataError, RunError
from effvit.train.classification import fit
from effvit.train.config import TrainConfig
from effvit.train.records import StepReport
from effvit.train.runs import RunFolder

pytestmark = pytest.mark.usefixtures("undrawn")


def network(config: TrainConfig) -> nn.Module:
    torch.manual_seed(0)
    return effvit.create_model(config.model, num_classes=3, image_size=32)


@pytest.mark.parametrize("first_victim", [pytest.param("weights", marks=pytest.mark.slow), "checkpoint"])
def test_full_disk_is_one_line_and_the_checkpoint_before_it_is_whole(
    config: TrainConfig, data: PictureData, tmp_path: Path, first_victim: str
) -> None:
    """The kernel itself refuses to let a file grow, as it does on a full disk, from the second epoch on."""
    path = tmp_path / "run"
    run = RunFolder.create(path, config, data)

    def train_with_little_room() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

        def fill_the_disk(*_: object) -> None:
            if first_victim == "weights" or len(run.read_metrics()) == 1:
                resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))

        save = None if first_victim == "weights" else fill_the_disk
        try:
            fit(network(config), data, config, run, on_epoch=None if save else fill_the_disk, save_weights=save)
        except RunError as error:
            os._exit(0 if _is_clear(str(error)) else 3)
        os._exit(4)

    def _is_clear(message: str) -> bool:
        return os.strerror(errno.EFBIG) in message and str(path) in message and "\n" not in message

    process = multiprocessing.get_context("fork").Process(target=train_with_little_room)
    process.start()
    process.join()
    assert process.exitcode == 0
    assert len(run.load_checkpoint()["history"]) == 1
    assert not [file for file in path.rglob("*") if "partial" in file.name]
    if first_victim == "weights":
        assert effvit.load(run.weights)[1].provenance["epoch"] == 1
    whole = network(config)
    fit(whole, data, config, RunFolder.create(tmp_path / "whole", config, data))
    resumed = network(config)
    fit(resumed, data, config, run, resume=True)
    assert all(torch.equal(value, resumed.state_dict()[name]) for name, value in whole.state_dict().items())


def test_deleted_pictures_are_named(config: TrainConfig, photos: Path, tmp_path: Path) -> None:
    shutil.copytree(photos, tmp_path / "photos")
    data = find_data(tmp_path / "photos")
    run = RunFolder.create(tmp_path / "run", config, data)

    def on_step(report: StepReport) -> None:
        if (report.phase, report.epoch) == ("val", 1):
            for sample in data.train[:3]:
                sample.path.unlink()

    with pytest.raises(
        DataError, match=r"pictures cannot be read .*max_unreadable.*\.jpg: No such file.*; at epoch 2, step \d"
    ):
        fit(network(config), data, dataclasses.replace(config, num_workers=1), run, on_step=on_step)
    assert len(run.load_checkpoint()["history"]) == 1
    assert run.read_record()["status"] == "failed"


class NanAt(nn.Module):
    """Gives nan in one training step."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.at = at
        self.steps = 0

    def forward(self, x: Tensor) -> Tensor:
        self.steps += self.training
        logits: Tensor = self.linear(x.mean(dim=(2, 3)))
        return logits * (float("nan") if self.training and self.steps == self.at else 1.0)


def test_no_checkpoint_is_written_from_a_loss_that_is_not_finite(
    config: TrainConfig, data: PictureData, tmp_path: Path
) -> None:
    often = dataclasses.replace(config, checkpoint_minutes=1e-9)
    run = RunFolder.create(tmp_path / "run", often, data)
    with pytest.raises(RunError, match=r"the loss is nan at epoch 2, step 2 \(pictures "):
        fit(NanAt(5), data, often, run, save_weights=lambda *_: None)
    state = run.load_checkpoint()
    assert (len(state["history"]), state["position"]["step"]) == (1, 1)
    assert all(value.isfinite().all() for value in state["model"].values())


class NanGradientAt(NanAt):
    """A finite loss with a gradient that is not: the root of zero."""

    def forward(self, x: Tensor) -> Tensor:
        self.steps += self.training
        logits: Tensor = self.linear(x.mean(dim=(2, 3)))
        return logits + (logits * 0).sqrt() if self.training and self.steps == self.at else logits


def test_weights_that_are_not_finite_never_reach_the_checkpoint(
    config: TrainConfig, data: PictureData, tmp_path: Path
) -> None:
    often = dataclasses.replace(config, checkpoint_minutes=1e-9)
    run = RunFolder.create(tmp_path / "run", often, data)
    with pytest.raises(RunError, match="the weights are not finite after epoch 2, step 2"):
        fit(NanGradientAt(5), data, often, run, save_weights=lambda *_: None)
    state = run.load_checkpoint()
    assert (len(state["history"]), state["position"]["step"]) == (1, 1)
    assert all(value.isfinite().all() for value in state["model"].values())


def test_unreadable_pictures_are_named_and_more_are_allowed_on_request(
    config: TrainConfig, data: PictureData, tmp_path: Path
) -> None:
    bad = [Sample(tmp_path / f"{number}.jpg", 0) for number in range(4)]
    for sample in bad:
        sample.path.write_bytes(b"no picture")
    spoilt = dataclasses.replace(data, root=Path("/"), train=(*data.train, *bad[:2]), val=(*data.val, *bad[2:]))
    patient = dataclasses.replace(config, epochs=2, max_unreadable=0.5)
    run = RunFolder.create(tmp_path / "run", patient, spoilt)
    history = fit(network(config), spoilt, patient, run)
    assert [record.num_unreadable for record in history] == [4, 4]
    lines = (run.path / "unreadable.txt").read_text().splitlines()
    assert len(lines) == 4 and all(any(f"{n}.jpg" in line for line in lines) for n in range(4))


def test_what_norms_on_a_cpu_cannot_do_is_refused(config: TrainConfig, data: PictureData, tmp_path: Path) -> None:
    synchronised = dataclasses.replace(config, sync_norm=True)
    with pytest.raises(ConfigError, match="sync_norm works on CUDA only, got device cpu"):
        fit(network(config), data, synchronised, RunFolder.create(tmp_path / "run", synchronised, data))
