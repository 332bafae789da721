"""`effvit train` with recipes, without training, in several processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import effvit
from effvit.cli.main import run
from effvit.train.runs import RunFolder

pytestmark = pytest.mark.usefixtures("undrawn")

TINY = ["--model", "efficientvit_tiny", "--image-size", "32", "--workers", "0", "--device", "cpu"]


def test_recipes_values_are_the_runs_values_unless_changed(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    changed = ["--epochs", "1", "--set", "augmentation.mixup=0.3"]
    assert run(["train", str(photos), "--recipe", "scratch_small", *TINY, *changed, "--output", str(out)]) == 0
    config = RunFolder(out).read_config()
    from effvit.train.recipes import recipe

    expected = recipe("scratch_small").to_dict()
    expected["augmentation"]["mixup"] = 0.3
    expected["preprocessing"]["image_size"] = (32, 32)
    expected |= {"model": "efficientvit_tiny", "epochs": 1, "num_workers": 0, "device": "cpu"}
    assert config.to_dict() == expected
    assert (out / "report.html").is_file() and (out / "weights-last" / "model.safetensors").is_file()


def test_recipe_that_starts_from_weights_says_so(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["train", str(photos), "--recipe", "finetune", *TINY]) == 2
    assert "recipe finetune starts from weights: add --weights" in capsys.readouterr().err
    assert run(["train", str(photos), "--recipe", "finetun", *TINY]) == 2
    assert "unknown recipe 'finetun' (did you mean 'finetune'?)" in capsys.readouterr().err


def test_finetuning_keeps_the_weights_preprocessing(photos: Path, tmp_path: Path) -> None:
    model = effvit.create_model("efficientvit_tiny", num_classes=5, image_size=32)
    own = effvit.Preprocessing(image_size=(32, 32), mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2))
    effvit.save(tmp_path / "weights", model, effvit.WeightsInfo(preprocessing=own))
    out = tmp_path / "run"
    arguments = ["--weights", str(tmp_path / "weights"), "--epochs", "1", "--workers", "0", "--output", str(out)]
    model_name = ["--model", "efficientvit_tiny", "--set", "ema_decay=0.5"]
    assert run(["train", str(photos), "--recipe", "finetune", *model_name, *arguments]) == 0
    assert RunFolder(out).read_config().preprocessing == own
    assert RunFolder(out).read_record()["initial_weights"]["file"] == "model.safetensors"


def test_dry_run_trains_nothing(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["train", str(photos), "--recipe", "scratch_small", *TINY, "--dry-run"]
    assert run([*arguments, "--json", "--output", str(tmp_path / "plan.png")]) == 0
    values = json.loads(capsys.readouterr().out)
    assert "efficientvit_tiny" in json.dumps(values)
    assert not (tmp_path / "runs").exists() and not list(tmp_path.rglob("*.pt"))
    assert run(["train", "--recipe", "imagenet", "--model", "efficientvit_m5", "--dry-run", "--device", "cpu"]) == 0
    shown = capsys.readouterr().out
    assert "12,473,772" in shown and "0.99996" in shown and "rand-m9-mstd0.5-inc1" in shown


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("distillation.teacher=timm:nope", "nope"),
        (
            "accumulation=10000",
            "(1 with freeze_norm=true) for each of 1 processes x 10000 micro-batches, so 20000, got 64",
        ),
        ("recipe=imagenet", "a recipe is a whole set of settings: give it as --recipe imagenet"),
    ],
)
def test_what_is_refused_leaves_no_run_behind(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], setting: str, message: str
) -> None:
    assert run(["train", str(photos), *TINY, "--set", setting, "--output", str(tmp_path / "run")]) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "run").exists()


def test_resume_takes_no_other_settings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["train", "--resume", str(tmp_path), "--recipe", "finetune", "--dry-run"]) == 2
    assert "leave out --dry-run, --recipe" in capsys.readouterr().err


def torchrun(*arguments: str, kill_when: Path | None = None) -> int:
    """`effvit train` in two processes; once a file is there, the second of them is killed."""
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "effvit", "train"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen([sys.executable, *command, *arguments], env=environment) as process:
        if kill_when is not None:
            while not kill_when.exists() and process.poll() is None:
                time.sleep(0.05)
            time.sleep(0.3)
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            os.kill(int(children[-1]), signal.SIGKILL)
        return process.wait(timeout=240)


@pytest.mark.slow
def test_torchrun_survives_the_kill_of_any_process(photos: Path, tmp_path: Path) -> None:
    settings = ["ema_decay=0.9", "checkpoint_minutes=1e-9", "accumulation=2", "augmentation.mixup=0.5", "num_workers=1"]
    flags = [flag for setting in settings for flag in ("--set", setting)]
    tiny = [*TINY[: TINY.index("--workers")], "--device", "cpu", "--epochs", "6", "--batch-size", "8", *flags]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert torchrun(str(photos), *tiny, "--output", str(whole)) == 0
    assert torchrun(str(photos), *tiny, "--output", str(cut), kill_when=cut / "checkpoints" / "last.pt") != 0
    assert torchrun("--resume", str(cut)) == 0
    first, second = (RunFolder(path).load_checkpoint() for path in (whole, cut))
    for part in ("model", "average"):
        assert all(torch.equal(value, second[part][name]) for name, value in first[part].items())
