"""A run that is killed goes on to the same weights, bit for bit, wherever it was and whatever was switched on."""

from __future__ import annotations

import contextlib
import dataclasses
import multiprocessing
import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import effvit
from effvit.data.augmentation import Augmentation
from effvit.data.datasets import PictureData
from effvit.errors import EffvitError
from effvit.preprocessing import Preprocessing
from effvit.train.classification import fit
from effvit.train.config import TrainConfig
from effvit.train.runs import RunFolder

pytestmark = pytest.mark.usefixtures("undrawn")

EVERYTHING = TrainConfig(
    model="efficientvit_tiny",
    epochs=3,
    batch_size=10,
    accumulation=2,
    drop_path=0.2,
    ema_decay=0.9,
    ema_warmup=True,
    layer_decay=0.8,
    freeze_backbone_epochs=1,
    class_weights="inverse",
    checkpoint_minutes=1e-9,
    num_workers=2,
    augmentation=Augmentation(
        rand_augment="rand-m9-mstd0.5-inc1", random_erasing=0.5, repeats=2, mixup=0.8, cutmix=1.0
    ),
    preprocessing=Preprocessing(image_size=(32, 32)),
)
"""Every source of randomness and every kind of state at once, with a checkpoint after each step."""


def train(path: Path, config: TrainConfig, data: PictureData, *, initial_seed: int = 0) -> None:
    """Begin or continue a run, as the command line does."""
    resume = (path / "run.json").exists() and RunFolder(path).checkpoint.exists()
    torch.manual_seed(initial_seed)
    model = effvit.create_model(config.model, num_classes=len(data.class_names), image_size=32, drop_path=0.2)
    run = RunFolder(path) if (path / "run.json").exists() else RunFolder.create(path, config, data)
    fit(model, data, config, run, resume=resume)


def quietly(path: Path, config: TrainConfig, data: PictureData) -> None:
    torch.set_num_threads(1)
    try:
        train(path, config, data)
    except EffvitError:
        os._exit(2)
    os._exit(0)


def content(path: Path) -> dict[str, Any]:
    """All that a finished run has computed, without the times it took."""
    state = RunFolder(path).load_checkpoint()
    for record in state["history"]:
        for name in ("seconds", "pictures_per_second", "waiting_share"):
            del record[name]
    return {**state, "best": effvit.load(path / "weights")[0].state_dict()}


def assert_same(first: object, second: object, place: str = "") -> None:
    if isinstance(first, torch.Tensor):
        assert isinstance(second, torch.Tensor) and torch.equal(first, second), place
    elif isinstance(first, dict):
        assert isinstance(second, dict) and first.keys() == second.keys(), place
        for key in first:
            assert_same(first[key], second[key], f"{place}/{key}")
    elif isinstance(first, list | tuple):
        assert isinstance(second, list | tuple) and len(first) == len(second), place
        for index, (one, other) in enumerate(zip(first, second, strict=True)):
            assert_same(one, other, f"{place}/{index}")
    else:
        assert first == second, place


def children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def kill_now_and_then(
    path: Path, config: TrainConfig, data: PictureData, *, draw: random.Random, seconds: float, kills: int
) -> Iterator[str]:
    """Run until the end, killing this run or one of its workers at random moments; yields what was killed."""
    context = multiprocessing.get_context("fork")
    for _ in range(kills):
        process = context.Process(target=quietly, args=(path, config, data))
        process.start()
        assert process.pid is not None
        time.sleep(draw.uniform(0, seconds))
        workers = children(process.pid)
        victim = draw.choice([process.pid, *workers])
        with contextlib.suppress(ProcessLookupError):
            os.kill(victim, signal.SIGKILL)
        process.join()
        yield "worker" if victim != process.pid else f"run ({process.exitcode})"
    process = context.Process(target=quietly, args=(path, config, data))
    process.start()
    process.join()
    assert process.exitcode == 0


@pytest.mark.parametrize("kills", [3, pytest.param(25, marks=pytest.mark.slow)])
def test_killed_runs_end_like_one_that_was_never_killed(data: PictureData, tmp_path: Path, kills: int) -> None:
    config = dataclasses.replace(EVERYTHING, epochs=3 if kills < 10 else 8)
    started = time.monotonic()
    train(tmp_path / "whole", config, data)
    seconds = (time.monotonic() - started) * (0.7 if kills < 10 else 0.25)
    killed = list(
        kill_now_and_then(tmp_path / "killed", config, data, draw=random.Random(kills), seconds=seconds, kills=kills)
    )
    assert len(killed) == kills
    assert_same(content(tmp_path / "whole"), content(tmp_path / "killed"))
    assert not list((tmp_path / "killed").rglob(".*"))
