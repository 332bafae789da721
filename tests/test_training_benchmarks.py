"""The scripts in `benchmarks/` that train: both sides do the same, and what is finished is kept. Never how fast."""

from __future__ import annotations

import json
import math
import statistics
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from benchmark_scripts import load
from photos import unpack_photos
from timm.data import Mixup

from effvit.data.augmentation import Augmentation
from effvit.errors import EffvitError
from effvit.model.checkpoints import foreign_state_dict
from effvit.preprocessing import Preprocessing
from effvit.train.config import TrainConfig
from effvit.train.optimizer import learning_rate_at

SMALL = TrainConfig(
    epochs=2,
    batch_size=4,
    ema_decay=0.9,
    ema_warmup=True,
    augmentation=Augmentation(mixup=0.2),
    preprocessing=Preprocessing(image_size=(32, 32)),
)


@pytest.fixture(scope="module")
def two_classes(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("two_classes")
    for part in ("train", "val"):
        unpack_photos(data_dir, folder / part, num_classes=2, per_class=4, part=part)
    return folder


@pytest.fixture
def speed(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return load("training_speed", monkeypatch)


def test_a_step_of_ours_and_of_timm_does_the_same(speed: ModuleType) -> None:
    pair = speed.same_networks("efficientvit_m0")
    for module in pair["ours"].modules():  # a large gradient, so that clipping has something to do
        if isinstance(module, torch.nn.Linear):
            torch.nn.init.normal_(module.weight)
    pair["timm"].load_state_dict(foreign_state_dict(pair["ours"], "timm"))
    images, targets = torch.randn(2, 3, 224, 224), torch.arange(2)
    config = TrainConfig(**{**speed.SETTINGS, "learning_rate": 1e-2})
    losses = {
        "ours": speed.our_step(pair["ours"], images, targets, config=config)() / 2,  # ours gives the sum
        "timm": speed.timm_step(pair["timm"], images, targets, config=config)(),
    }
    assert losses["ours"] == pytest.approx(losses["timm"], rel=1e-5)
    ours, timms = foreign_state_dict(pair["ours"], "timm"), pair["timm"].state_dict()
    weights = [name for name, value in timms.items() if value.is_floating_point() and "running" not in name]
    far = torch.cat([(ours[name] - timms[name]).abs().flatten() > 1e-3 for name in weights])
    assert far.float().mean() < 0.01  # AdamW's first step is the sign of a gradient, also of one that is next to 0


@pytest.mark.slow
def test_the_speed_of_training_is_recorded(
    speed: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "record.json"
    monkeypatch.delitem(speed.FORMS, "compiled")  # takes minutes
    monkeypatch.setattr("sys.argv", ["training_speed.py", "m0", "--quick", "--output", str(output)])
    assert speed.main() == 0
    record = json.loads(output.read_text())
    assert str(tmp_path) not in output.read_text()
    assert record["command"] == "python benchmarks/training_speed.py m0 --threads 1 --quick"
    rows = {(row["whose"], row["form"]): row for row in record["rows"]}
    assert set(rows) == {(w, f) for w in ("ours", "timm") for f in ("eager", "channels_last")} | {
        ("ours again", "eager")
    }
    for (whose, form), row in rows.items():
        assert row["images_per_second"] == pytest.approx(2e3 / row["timing"]["latency_ms"])
        if whose != "ours":
            pairs = zip(row["timing"]["samples_ms"], rows["ours", form]["timing"]["samples_ms"], strict=True)
            assert row["time_over_ours"]["median"] == pytest.approx(statistics.median(a / b for a, b in pairs))
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| m0")]
    assert [line.split(" | ")[2] for line in lines] == ["eager", "channels_last"]


def test_a_wrong_name_ends_the_measurement_of_speed(
    speed: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["training_speed.py", "m1"])
    with pytest.raises(SystemExit, match="2"):
        speed.main()
    assert "unknown models m1; known: m0, m5" in capsys.readouterr().err


def test_the_plain_loop_has_the_schedule_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    plain_loop = load("plain_loop", monkeypatch)
    config = TrainConfig(epochs=20, warmup_share=0.1)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=config.learning_rate)
    scheduler = plain_loop._schedule(optimizer, config, 5)
    for step in range(100):
        ours = learning_rate_at(step, 100, config, steps_per_epoch=5)
        # timm's cosine would reach the end one step after the last
        assert optimizer.param_groups[0]["lr"] == pytest.approx(ours, abs=0.02 * config.learning_rate)
        scheduler.step_update(num_updates=step + 1)


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # timm leaves closing to the garbage collector
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_the_plain_loop_is_timms_with_our_values(two_classes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain_loop = load("plain_loop", monkeypatch)
    config = replace(SMALL, window=4)
    epochs: list[Any] = []
    model, trained = plain_loop.train("efficientvit_m0", two_classes, config, on_epoch=epochs.append)
    assert epochs == trained and len(trained) == 2
    assert model.stages[0].blocks[0].mixer.m.attn.attention_biases.shape == (4, 2 * 2)  # of windows for 32 pixels
    assert all(0 <= epoch.top1 <= 1 and 0 <= epoch.top1_ema <= 1 for epoch in trained)
    assert isinstance(plain_loop._mixup(config, 2), Mixup)
    assert plain_loop._mixup(replace(config, augmentation=Augmentation()), 2) is None


def test_learning_keeps_what_is_finished(
    two_classes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    learning = load("learning", monkeypatch)
    output, curve, work = tmp_path / "record.json", tmp_path / "curve.png", tmp_path / "work"
    monkeypatch.setattr(learning, "recipe", lambda name: replace(SMALL, model="efficientvit_tiny", recipe=name))
    arguments = ["learning.py", "--data", str(two_classes), "--folder", str(work), "--quick"]
    arguments += ["--output", str(output), "--curve", str(curve), "--only", "ours", "distilled"]
    monkeypatch.setattr("sys.argv", arguments)
    assert learning.main() == 0
    assert "ours, seed 0, epoch 1 of 1" in capsys.readouterr().err
    record = json.loads(output.read_text())
    assert str(tmp_path) not in output.read_text() and str(two_classes) not in output.read_text()
    assert [(run["network"], run["teacher"]) for run in record["runs"]] == [("ours", None), ("distilled", "ours")]
    assert record["data"] == {"name": "grocery_store", "num_classes": 2, "num_train": 8, "num_val": 8}
    assert curve.stat().st_size > 1000

    monkeypatch.setattr("learning_runs.train_entrant", None)  # would fail if it was called
    assert learning.main() == 0
    printed = capsys.readouterr()
    assert "2 of 2 runs are there already" in printed.err and "ours minus ours, M0 with a teacher" in printed.out

    monkeypatch.setattr("sys.argv", [*arguments, "--epochs", "3"])
    with pytest.raises(EffvitError, match="ours-0.json was made with other settings; give another --folder"):
        learning.main()


def test_an_interrupted_run_of_ours_goes_on(two_classes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    learning_runs = load("learning_runs", monkeypatch)
    config = replace(SMALL, model="efficientvit_tiny")

    def interrupt(epoch: dict[str, Any]) -> None:
        raise KeyboardInterrupt

    results = []
    for name in ("whole", "interrupted"):
        (tmp_path / name).mkdir()
        runs = learning_runs.Runs(tmp_path / name, two_classes, config, learning_runs.Distillation())
        if name == "interrupted":
            with pytest.raises(KeyboardInterrupt):
                runs.train("ours", 1, on_epoch=interrupt)
            assert runs.finished("ours", 1) is None
        runs.train("ours", 1, on_epoch=lambda epoch: None)
        results.append([(epoch["top1"], epoch["top1_ema"]) for epoch in runs.finished("ours", 1)["epochs"]])
    assert results[0] == results[1] and len(results[0]) == config.epochs


def test_a_student_wants_a_teacher(two_classes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    learning_runs = load("learning_runs", monkeypatch)
    runs = learning_runs.Runs(tmp_path, two_classes, SMALL, learning_runs.Distillation())
    with pytest.raises(EffvitError, match="no teacher for distilled: train ours or mobilenetv3 first"):
        runs.train("distilled", 0, on_epoch=lambda epoch: None)


def test_the_better_network_teaches(two_classes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    learning_runs = load("learning_runs", monkeypatch)
    runs = learning_runs.Runs(tmp_path, two_classes, SMALL, learning_runs.Distillation(temperature=3.0))
    for network, seed, top1 in (("ours", 0, 0.9), ("ours", 1, 0.1), ("mobilenetv3", 1, 0.6), ("timm", 0, 1.0)):
        epoch = {"top1": 0.0, "top1_ema": top1, "seconds": 1.0}
        result = {"network": network, "seed": seed, "teacher": None, "epochs": [epoch]}
        text = json.dumps({**result, "settings": runs._settings()})
        (tmp_path / f"{network}-{seed}.json").write_text(text)
    name, distillation = runs._teacher(0)
    assert name == "mobilenetv3" and distillation.teacher == "timm:mobilenetv3_small_100"
    assert Path(distillation.weights).name == "mobilenetv3-1.safetensors" and distillation.temperature == 3


def test_the_table_has_the_spread_of_the_seeds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    report = load("learning_report", monkeypatch)
    scores = {"ours": (0.60, 0.62, 0.64), "timm": (0.59, 0.60, 0.61)}
    runs = [
        {
            "network": network,
            "seed": seed,
            "teacher": None,
            "epochs": [{"top1": 0.5, "top1_ema": value, "seconds": 2.0} for value in (0.7, score)],
        }
        for network, values in scores.items()
        for seed, score in enumerate(values)
    ]
    record = {
        "runs": runs,
        "config": SMALL.to_dict(),
        "data": {"name": "photos", "num_classes": 2, "num_train": 1000, "num_val": 10},
        "environment": {"date": "", "cpu": "A Processor", "accelerator": None, "cores_usable": 1, "os": "Linux 6.1"}
        | {"versions": {"torch": "2.15.0"}, "commit": "0" * 40, "commit_is_exact": True},
    }
    text = report.table(record)
    assert "| ours, M0 | 62.0% ± 2.0 | 60.0%, 62.0%, 64.0% | 50.0% | 70.0% | 2.0 |" in text
    error = math.sqrt((2.0**2 + 1.0**2) / 3)
    assert f"- ours minus timm's M0, plain timm loop: +2.0 points, standard error {error:.1f}" in text
    report.draw(record, tmp_path / "curve.png")
    assert (tmp_path / "curve.png").stat().st_size < 150_000
