"""Several processes train what one would: the same weights, every picture counted once."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest
import torch
from helpers import randomise
from processes import in_processes
from torch import Tensor, nn

import effvit
from effvit.data.datasets import PictureData
from effvit.errors import ConfigError, DataError
from effvit.train import distributed
from effvit.train.batches import validation_loader
from effvit.train.classification import fit
from effvit.train.config import TrainConfig
from effvit.train.evaluate import evaluate, network_predictor
from effvit.train.records import EpochRecord
from effvit.train.runs import RunFolder


def keep_nothing(folder: Path, model: nn.Module, record: EpochRecord) -> None:
    """The checkpoint has the weights."""


def to_double(module: nn.Module, arguments: tuple[Tensor]) -> tuple[Tensor]:
    return (arguments[0].double(),)


def trained(path: Path, config: TrainConfig, data: PictureData) -> None:
    """A run in float64 from random weights, statistics and biases."""
    model = effvit.create_model("efficientvit_tiny", num_classes=3, image_size=32)
    randomise(model, seed=3).double().register_forward_pre_hook(to_double)  # type: ignore[arg-type]
    if distributed.is_main():
        RunFolder.create(path, config, data)
    distributed.on_main(lambda: None)  # it is there
    fit(model, data, config, RunFolder(path), save_weights=keep_nothing)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_processes_together_train_what_one_does(
    config: TrainConfig, data: PictureData, tmp_path: Path, accumulation: int
) -> None:
    data = dataclasses.replace(data, train=data.train[:23])  # batches and parts of different lengths
    frozen = dataclasses.replace(
        config, epochs=2, freeze_norm=True, drop_path=0.0, ema_decay=0.9, class_weights="inverse", batch_size=9,
        freeze_backbone_epochs=1,
        learning_rate=1e-3,
    )  # fmt: skip
    trained(tmp_path / "one", frozen, data)
    together = dataclasses.replace(frozen, accumulation=accumulation)
    in_processes(2, lambda: trained(tmp_path / "two", together, data))
    one, two = (RunFolder(tmp_path / name).load_checkpoint() for name in ("one", "two"))
    for part in ("model", "average"):
        for name, value in one[part].items():
            torch.testing.assert_close(two[part][name], value, rtol=1e-8, atol=1e-10)
    for first, second in zip(one["history"], two["history"], strict=True):
        for field in ("train_loss", "val_loss", "val_top1", "val_loss_ema", "val_top1_ema"):
            assert second[field] == pytest.approx(first[field], rel=1e-6), field


def test_interrupted_processes_go_on_as_if_nothing_had_been(
    config: TrainConfig, data: PictureData, tmp_path: Path
) -> None:
    """With the batch's own statistics, of which every process has others."""
    often = dataclasses.replace(config, epochs=2, ema_decay=0.9, checkpoint_minutes=1e-9)

    def run(name: str, *, cut: bool) -> None:
        def on_step(report: object) -> None:
            if cut and getattr(report, "epoch", 0) == 2 and getattr(report, "step", 0) == 2:
                raise KeyboardInterrupt

        torch.manual_seed(0)
        model = effvit.create_model("efficientvit_tiny", num_classes=3, image_size=32, drop_path=0.2)
        folder = RunFolder(tmp_path / name)
        resume = folder.checkpoint.exists()
        if distributed.is_main() and not resume:
            RunFolder.create(folder.path, often, data)
        distributed.on_main(lambda: None)
        try:
            fit(model, data, often, folder, resume=resume, on_step=on_step, save_weights=keep_nothing)
        except KeyboardInterrupt:
            os._exit(0)

    in_processes(2, lambda: run("whole", cut=False))
    in_processes(2, lambda: run("cut", cut=True))
    assert RunFolder(tmp_path / "cut").load_checkpoint()["position"]["step"] > 0
    in_processes(2, lambda: run("cut", cut=False))
    whole, cut = (RunFolder(tmp_path / name).load_checkpoint() for name in ("whole", "cut"))
    assert all(torch.equal(value, cut["model"][name]) for name, value in whole["model"].items())
    assert all(torch.equal(value, cut["average"][name]) for name, value in whole["average"].items())
    assert [record["train_loss"] for record in cut["history"]] == pytest.approx(
        [record["train_loss"] for record in whole["history"]]
    )

    # What was validated, by all processes together, is what is saved: the main one's statistics.
    for part, field in (("model", "val_loss"), ("average", "val_loss_ema")):
        saved = effvit.create_model("efficientvit_tiny", num_classes=3, image_size=32)
        saved.load_state_dict(whole[part])
        loader = validation_loader(data, often)
        alone = evaluate(
            network_predictor(saved), loader, class_names=data.class_names, preprocessing=often.preprocessing
        )
        assert whole["history"][-1][field] == pytest.approx(alone.loss, rel=1e-6)


def test_one_process_needs_nothing() -> None:
    values = torch.tensor([1.0, 2.0])
    with distributed.joined("auto"):
        assert (distributed.rank(), distributed.num_processes(), distributed.is_main()) == (0, 1, True)
        assert torch.equal(distributed.sum_over_processes(values), values)
        assert distributed.gather([3, 4]) == [3, 4] and distributed.on_main(lambda: "x") == "x"
        assert distributed.local_device("cuda:1") == "cuda:1"


def fail() -> None:
    raise DataError("no such folder")


def test_what_was_gathered_is_in_the_order_of_the_processes() -> None:
    def work() -> None:
        rank = distributed.rank()
        assert distributed.gather([rank] * (rank + 1)) == [0, 1, 1]
        assert distributed.on_main(distributed.rank) == 0
        with pytest.raises(DataError, match="no such folder"):
            distributed.on_main(fail)
        assert distributed.sum_over_processes(torch.tensor([1, rank])).tolist() == [2, 1]
        with pytest.raises(ConfigError, match="device must be cpu or cuda where torchrun .*got 'cuda:1'"):
            distributed.local_device("cuda:1")

    in_processes(2, work)


def test_a_batch_too_small_for_its_processes_is_refused(config: TrainConfig, data: PictureData, tmp_path: Path) -> None:
    small = dataclasses.replace(config, batch_size=6, accumulation=4)
    with pytest.raises(
        ConfigError,
        match="batch_size must be at least 2 .1 with freeze_norm=true. for each of 1 processes x 4 .*so 8, got 6",
    ):
        trained(tmp_path / "run", small, data)
