"""The command line as a person and as a program meets it: results, exit codes, one line for every mistake."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import one_line
from helpers import write_photos

import effvit
from effvit.cli.main import run
from effvit.data.digits import write_digits
from effvit.deploy.speed.benchmark import Record, benchmark
from effvit.model.checkpoints import save_foreign

TINY = ["--model", "efficientvit_tiny", "--image-size", "32", "--batch-size", "8"]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photos(tmp_path_factory.mktemp("data") / "photos", classes=("gem", "leaf", "ocean", "stone"), count=8)


@pytest.fixture(scope="module")
def trained(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of two epochs, exported."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    assert run(["train", str(photos), *TINY, "--epochs", "2", "--output", str(folder)]) == 0
    assert run(["export", str(folder)]) == 0
    return folder


class TestResults:
    def test_models(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert run(["models"]) == 0
        assert "12,473,772" in capsys.readouterr().out
        assert run(["models", "--json"]) == 0
        rows = json.loads(capsys.readouterr().out)
        assert [row["name"] for row in rows] == [f"efficientvit_m{size}" for size in range(6)]
        assert rows[0]["num_macs"] == 79_193_600

    def test_version_and_help(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert run(["--version"]) == 0
        assert capsys.readouterr().out.strip() == effvit.__version__
        assert run([]) == 0
        assert "benchmark" in capsys.readouterr().out
        for verb in ("models", "train", "eval", "predict", "export", "benchmark", "demo"):
            assert run([verb, "--help"]) == 0
            assert capsys.readouterr().out.count(f"effvit {verb}") >= 3, "usage and two examples"

    def test_train_leaves_a_run_folder(self, trained: Path) -> None:
        names = {path.name for path in trained.iterdir()}
        assert names >= {"run.json", "split.json", "metrics.jsonl", "curves.png", "weights", "checkpoints"}
        assert names >= {"eval", "report.html"}
        record = json.loads((trained / "run.json").read_text())
        assert record["status"] == "finished" and record["config"]["epochs"] == 2
        assert len((trained / "metrics.jsonl").read_text().splitlines()) == 2
        _, info = effvit.load(trained)
        assert info.class_names == ("gem", "leaf", "ocean", "stone")
        assert info.preprocessing.image_size == (32, 32)

    @pytest.mark.usefixtures("undrawn")
    def test_train_json(self, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        arguments = ["train", str(photos), *TINY, "--epochs", "1", "--output", str(tmp_path / "run"), "--json"]
        capsys.readouterr()
        assert run(arguments) == 0
        result = json.loads(capsys.readouterr().out)
        assert result["run"] == str(tmp_path / "run") and 0 <= result["top1"] <= 1

    @pytest.mark.usefixtures("undrawn")
    def test_set_reaches_any_field(self, photos: Path, tmp_path: Path) -> None:
        settings = ["--set", "learning_rate=0.001", "--set", "augmentation.horizontal_flip=0"]
        folder = tmp_path / "run"
        assert run(["train", str(photos), *TINY, "--epochs", "1", "--output", str(folder), *settings]) == 0
        config = json.loads((folder / "run.json").read_text())["config"]
        assert config["learning_rate"] == 0.001 and config["augmentation"]["horizontal_flip"] == 0

    @pytest.mark.usefixtures("undrawn")
    def test_fine_tuning_starts_from_the_weights(self, photos: Path, trained: Path, tmp_path: Path) -> None:
        folder = tmp_path / "run"
        settings = ["--set", "learning_rate=1e-30", "--set", "min_learning_rate=0", "--set", "warmup_learning_rate=0"]
        arguments = [*TINY, "--epochs", "1", "--weights", str(trained), "--output", str(folder), *settings]
        assert run(["train", str(photos), *arguments]) == 0
        before, after = effvit.load(trained)[0], effvit.load(folder)[0]
        assert (before.head.linear.weight - after.head.linear.weight).abs().max() < 1e-6

    @pytest.mark.usefixtures("undrawn")
    def test_fine_tuning_keeps_the_preprocessing_and_says_where_it_started(
        self, photos: Path, trained: Path, tmp_path: Path
    ) -> None:
        folder = tmp_path / "run"
        arguments = [
            "--model",
            "efficientvit_tiny",
            "--weights",
            str(trained),
            "--epochs",
            "1",
            "--output",
            str(folder),
        ]
        assert run(["train", str(photos), *arguments]) == 0
        info = effvit.load(folder)[1]
        assert info.preprocessing.image_size == (32, 32)
        digest = hashlib.sha256((trained / "weights" / "model.safetensors").read_bytes()).hexdigest()
        assert info.provenance["initial_weights"]["sha256"] == digest
        assert json.loads((folder / "run.json").read_text())["initial_weights"]["sha256"] == digest

    @pytest.mark.usefixtures("undrawn")
    @pytest.mark.parametrize(
        "arguments",
        [
            {"mask_padding": False, "distilled": True, "window": 3},
            pytest.param({"mask_padding": False}, marks=pytest.mark.slow),
            pytest.param({"distilled": True}, marks=pytest.mark.slow),
            pytest.param({"window": 1}, marks=pytest.mark.slow),
        ],
    )
    def test_a_resumed_run_keeps_the_network_its_weights_brought(
        self, arguments: dict[str, object], photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        start = effvit.create_model("efficientvit_tiny", num_classes=4, image_size=80, **arguments)
        info = effvit.WeightsInfo(preprocessing=effvit.Preprocessing(image_size=(80, 80)))
        effvit.save(tmp_path / "start", start, info)
        common = ["--model", "efficientvit_tiny", "--epochs", "2", "--batch-size", "8", "--device", "cpu"]
        common = ["train", str(photos), *common, "--weights", str(tmp_path / "start"), "--output"]
        assert run([*common, str(tmp_path / "whole")]) == 0
        with monkeypatch.context() as patch:
            patch.setattr("effvit.cli.render.TrainingProgress.on_epoch", interrupt)
            assert run([*common, str(tmp_path / "cut")]) == 130
        assert run(["train", "--resume", str(tmp_path / "cut")]) == 0
        one, other = (effvit.load(tmp_path / name)[0] for name in ("whole", "cut"))
        assert one.config == other.config == start.config
        assert all((one.state_dict()[name] == value).all() for name, value in other.state_dict().items())

    @pytest.mark.parametrize("form", ["", "weights", "model.onnx"])
    def test_eval_of_every_form_is_the_same(
        self, form: str, trained: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        capsys.readouterr()
        arguments = ["eval", str(trained / form), str(photos), "--output", str(tmp_path / "eval"), "--json"]
        assert run(arguments) == 0
        captured = capsys.readouterr()
        summary = json.loads(captured.out)
        assert summary["num_pictures"] == 32
        assert {path.name for path in (tmp_path / "eval").iterdir()} == {
            "summary.json",
            "predictions.csv",
            "predictions.json",
            "confusion.png",
            "most_confused.png",
            "reliability.png",
            "worst.png",
            "least_sure.png",
        }
        assert ("were trained on" in captured.err) == (form == "")
        reference = effvit_top1(trained, photos)
        assert summary["top1"] == pytest.approx(reference)

    def test_eval_of_a_run_uses_its_held_out_pictures(self, trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
        capsys.readouterr()
        assert run(["eval", str(trained), "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["num_pictures"] == 8
        assert run(["eval", str(trained)]) == 0
        assert "top-1" in capsys.readouterr().out

    @pytest.mark.parametrize("form", ["", "model.onnx"])
    def test_predict(self, form: str, trained: Path, photos: Path, tmp_path: Path, capsys) -> None:
        capsys.readouterr()
        picture = photos / "gem" / "0.png"
        assert run(["predict", str(trained / form), str(picture), str(photos / "leaf"), "--top-k", "2", "--json"]) == 0
        rows = json.loads(capsys.readouterr().out)
        assert len(rows) == 9 and rows[0]["path"] == str(picture)
        for row in rows:
            probabilities = [entry["probability"] for entry in row["classes"]]
            assert len(probabilities) == 2 and probabilities == sorted(probabilities, reverse=True)
        output = tmp_path / "out"
        assert run(["predict", str(trained / form), str(picture), "--output", str(output)]) == 0
        assert "gem" in capsys.readouterr().out
        assert json.loads((output / "predictions.json").read_text())[0]["path"] == str(picture)

    @pytest.mark.usefixtures("undrawn")
    def test_another_picture_size(self, trained: Path, photos: Path, tmp_path: Path, capsys) -> None:
        arguments = ["--image-size", "48x64", "--output", str(tmp_path / "eval")]
        assert run(["eval", str(trained), str(photos), *arguments]) == 0
        line = one_line(["predict", str(trained / "model.onnx"), str(photos), "--image-size", "64"], capsys)
        assert "model.onnx takes pictures of shape (any, 3, 32, 32), got (32, 3, 64, 64)" in line

    def test_predict_reports_a_corrupt_picture_and_goes_on(
        self, trained: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "bad.jpg").write_bytes(b"no picture")
        shutil.copy(photos / "gem" / "0.png", tmp_path / "good.png")
        capsys.readouterr()
        assert run(["predict", str(trained), str(tmp_path), "--json"]) == 0
        bad, good = json.loads(capsys.readouterr().out)
        assert bad["error"] and not bad["classes"]
        assert good["error"] is None and good["classes"]

    def test_export_says_how_it_was_verified(self, trained: Path, tmp_path: Path, capsys) -> None:
        capsys.readouterr()
        output = tmp_path / "net.pt2"
        assert run(["export", str(trained), "--format", "torch-export", "--output", str(output), "--json"]) == 0
        result = json.loads(capsys.readouterr().out)
        assert result["verification"]["passed"] and result["verification"]["num_pictures"] == 8
        assert result["class_names"] == ["gem", "leaf", "ocean", "stone"]
        assert output.stat().st_size == result["num_bytes"]

    def test_export_of_a_name_with_weights(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        path = save_foreign(tmp_path / "w.pth", effvit.create_model("efficientvit_tiny", num_classes=3), "official")
        output = tmp_path / "named.pt2"
        arguments = ["export", "efficientvit_tiny", "--weights", str(path), "--output", str(output)]
        assert run([*arguments, "--image-size", "64", "--format", "torch-export"]) == 0
        assert "named.pt2" in capsys.readouterr().out and output.is_file()

    def test_benchmark(self, trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """A run and its file; what `--output` writes is in cli/test_benchmarking.py."""
        capsys.readouterr()
        arguments = ["benchmark", str(trained), "efficientvit_tiny", str(trained / "model.onnx"), "--batch", "1,2"]
        arguments += ["--rounds", "2", "--seconds", "0.01", "--threads", "1", "--image-size", "32"]
        assert run([*arguments, "--json"]) == 0
        record = json.loads(capsys.readouterr().out)
        assert record["protocol"]["num_threads"] == 1
        assert sum(row["is_control"] for row in record["rows"]) == 2 and len(record["rows"]) == 8

    @pytest.mark.parametrize(
        "data", ["some digits", *(pytest.param(d, marks=pytest.mark.slow) for d in ("all", "own"))]
    )
    def test_demo(
        self,
        data: str,
        photos: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        """The whole road, with one epoch; in the quick test with a few of the digits, and timed hardly at all."""
        output = tmp_path / "demo"
        if data == "some digits":
            monkeypatch.setattr("effvit.cli.demo.write_digits", some_digits)
            monkeypatch.setattr("effvit.cli.demo.measure", measured_briefly)
        assert run(["demo", *([str(photos)] if data == "own" else []), "--output", str(output), "--epochs", "1"]) == 0
        folder = output / "runs" / "efficientvit_m0-1"
        text = capsys.readouterr().out
        for name in ("eval/confusion.png", "eval/worst.png", "curves.png", "model.onnx", "overview.png", "weights/"):
            assert name in text and (folder / name).exists()
        record = json.loads((folder / "benchmark.json").read_text())
        assert {row["model"] for row in record["rows"]} >= {"timm/efficientvit_m0", "mobilenetv3_large_100"}


def some_digits(folder: Path) -> Path:
    """The demo's pictures, six of each class."""
    written = write_digits(folder)
    for path in (path for part in written.iterdir() for path in sorted(part.iterdir())[6:]):
        path.unlink()
    return written


def measured_briefly(models: list[Any], **arguments: Any) -> Record:
    return benchmark(models, **{**arguments, "rounds": 2, "min_round_seconds": 0.01, "warmup_seconds": 0.0})


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def effvit_top1(trained: Path, photos: Path) -> float:
    """Accuracy counted by hand, picture by picture."""
    from effvit.data.datasets import find_samples
    from effvit.data.pictures import read_picture
    from effvit.data.transforms import eval_transform, normalize

    network, info = effvit.load(trained)
    right = 0
    samples = find_samples(photos, info.class_names).samples
    for sample in samples:
        picture = eval_transform(info.preprocessing)(read_picture(sample.path))
        with torch.no_grad():
            right += int(network(normalize(picture[None], info.preprocessing)).argmax()) == sample.target
    return right / len(samples)


@pytest.fixture(scope="module")
def bad(tmp_path_factory: pytest.TempPathFactory, photos: Path, trained: Path) -> Path:
    """No test leaves anything in it."""
    tmp_path = tmp_path_factory.mktemp("bad")
    (tmp_path / "empty").mkdir()
    write_photos(tmp_path / "one-class", classes=("alone",), count=3)
    write_photos(tmp_path / "hollow", classes=("full", "other"), count=3)
    (tmp_path / "hollow" / "nothing").mkdir()
    write_photos(tmp_path / "strangers", classes=("gem", "unicorn"), count=2)
    write_photos(tmp_path / "caps" / "train", classes=("gem", "leaf"), count=2)
    write_photos(tmp_path / "caps" / "dev", classes=("gem", "leaf"), count=2)
    (tmp_path / "file").write_text("a file")
    (tmp_path / "noise.pth").write_bytes(b"noise")
    (tmp_path / "bad.jpg").write_bytes(b"noise")
    (tmp_path / "noise.onnx").write_bytes(b"noise")
    save_foreign(tmp_path / "m1.pth", effvit.create_model("efficientvit_m1", num_classes=4), "official")
    shutil.copytree(photos, tmp_path / "corrupt")
    for number in range(4):
        (tmp_path / "corrupt" / "gem" / f"{number}.png").write_bytes(b"noise")
    (tmp_path / "photos").symlink_to(photos)
    (tmp_path / "run").symlink_to(trained)
    damage(trained, tmp_path)
    return tmp_path


class TestMistakes:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ("train missing", "no such folder: missing"),
            ("train empty", "no pictures in empty: it is empty"),
            ("train one-class", "one-class has one class, 'alone'; training needs at least 2"),
            ("train hollow", "class folders without pictures in hollow: nothing"),
            ("train file", "not a folder: file"),
            ("train", "train needs DATA, a folder of photos, or --resume RUN"),
            ("train photos --model efficientvit_m9", "unknown model 'efficientvit_m9' (did you mean"),
            ("train photos --model resnet50", "unknown model 'resnet50'; known: efficientvit_m0"),
            ("train photos --epochs 0", "epochs must be in 1..1000000, got 0"),
            ("train photos --epochs -3", "epochs must be in 1..1000000, got -3"),
            ("train photos --epochs two", "Invalid value for '--epochs': Input should be a valid integer"),
            ("train photos --batch-size 0", "batch_size must be in 2..1000000, got 0"),
            ("train photos --image-size 0", "--image-size must be a side, or a height and a width, in pixels, got '0'"),
            ("train photos --image-size 16", "image_size must be a height and a width from 32 up, got (16, 16)"),
            ("train photos --image-size big", "got 'big'"),
            ("train photos --workers -1", "num_workers must be in 0..256, got -1"),
            ("train photos --seed -1", "seed must be in 0..2**63-1, got -1"),
            ("train photos --device tpu", "device 'tpu' cannot be used here; usable: cpu"),
            ("train photos --set colour=3", "unknown field 'colour'"),
            ("train photos --set learning_rate=fast", "learning_rate must be a number, got 'fast'"),
            ("train photos --weights missing.pth", "no weights at missing.pth: no such file or folder"),
            ("train photos --weights noise.pth", "noise.pth"),
            ("train photos --weights m1.pth", "m1.pth does not fit efficientvit_m0: patch_embed.0.c.weight has shape"),
            ("train photos --output file", "cannot use file as output folder: it is a file"),
            ("train photos --output photos", "photos is not empty: give a new folder"),
            ("train photos --output /proc/run", "cannot write to output folder /proc/run"),
            ("train photos --resume run", "--resume continues a run as it was started; leave out DATA"),
            ("train --resume run --epochs 3 --image-size 64", "leave out --epochs, --image-size"),
            ("train --resume missing", "no such run folder: missing"),
            ("train --resume photos", "photos is not a run folder: it has no run.json"),
            ("train photos --nonsense", "No such option: --nonsense"),
            ("eval missing", "missing is not a run folder, so it has no pictures of its own: give DATA"),
            ("eval missing photos", "no weights at missing: no such file or folder"),
            ("eval run missing", "no such folder: missing"),
            ("eval run empty", "no pictures in empty"),
            ("eval run strangers", "the network does not know: unicorn"),
            ("eval run photos --batch-size 0", "--batch-size must be at least 1, got 0"),
            ("eval run photos --output file", "it is a file"),
            ("eval noise.onnx photos --output out/eval", "noise.onnx"),
            ("eval runs/run-9 photos", "no weights at runs/run-9: no such file or folder"),
            ("benchmark efficientvit_x --output out/speed", "unknown model 'efficientvit_x'"),
            ("export run --output out/net.bin", "must end in .onnx"),
            ("train photos --epochs 1 --set epochs=2", "epochs is given by a flag and by --set; give it once"),
            ("train photos --set device=tpu", "device 'tpu' cannot be used here"),
            ("train photos --set learning_rate=inf", "learning_rate must be finite, got inf"),
            (
                "train photos --set preprocessing.mean=0.5 --set preprocessing.std=0.5",
                "one value for each of 3 channels",
            ),
            ("train photos --seed 18446744073709551616", "seed must be in 0..2**63-1"),
            ("train photos --image-size 100000", "image_size must be two whole numbers in 1..8192"),
            ("train photos --workers 1000", "num_workers must be in 0..256, got 1000"),
            ("train photos --set preprocessing.mean=nan,0,0", "mean and std must be finite"),
            ("benchmark efficientvit_m0 --threads 100000", "--threads must be at most 1024, got 100000"),
            ("eval damaged-run", "run.json is not what a run writes: KeyError"),
            ("train --resume damaged-run", "run.json is not what a run writes: KeyError"),
            ("eval damaged-split", "split.json is not what a run writes: KeyError"),
            ("train --resume damaged-checkpoint", "last.pt is damaged: it is not a checkpoint of a run"),
            ("train --resume garbled-checkpoint", "last.pt is damaged: it cannot be read as a checkpoint"),
            ("eval moved-data", "the pictures of moved-data are gone: there is no folder /nowhere any more"),
            (
                "train photos --weights run/model.onnx",
                "is refused: it is no checkpoint, or holds code, which is never run",
            ),
            ("train caps", "caps has train/ with class folders but no val/"),
            ("eval noise.pth photos", "noise.pth"),
            ("eval m1.pth photos", "m1.pth does not say which network it is for"),
            ("predict run", "Missing argument 'pictures'"),
            ("predict run missing.jpg", "missing.jpg"),
            ("predict run empty", "no pictures"),
            ("predict run bad.jpg", "none of 1 pictures could be read; the first:"),
            ("predict run photos --top-k 0", "--top-k must be at least 1, got 0"),
            ("predict missing photos", "no weights at missing"),
            ("export missing", "no weights at missing"),
            ("export efficientvit_m0", "efficientvit_m0 is a name without weights: add --weights imagenet"),
            ("export run --format onyx", "unknown format 'onyx' (did you mean 'onnx'?)"),
            ("export run --image-size -4", "--image-size must be a side, or a height and a width, in pixels"),
            ("export run --output file/net.onnx", "cannot use file as output folder: it is a file"),
            ("export run --output net.bin", "must end in .onnx, got 'net.bin'"),
            ("export run --weights imagenet", "--weights goes with a name"),
            ("benchmark", "Missing argument 'models'"),
            ("benchmark efficientvit_x", "unknown model 'efficientvit_x'; nearest: "),
            ("benchmark efficientvit_m0 --batch 0", "--batch must be positive whole numbers"),
            ("benchmark efficientvit_m0 --batch 1,x", "got '1,x'"),
            ("benchmark efficientvit_m0 --threads 0", "--threads must be at least 1, got 0"),
            ("benchmark efficientvit_m0 --rounds -1", "--rounds must be at least 1, got -1"),
            (
                "benchmark efficientvit_m0 --runtimes tensorrt",
                "unknown runtime 'tensorrt'; known: torch, compile, cuda-graph",
            ),
            ("benchmark efficientvit_m0 --output file", "it is a file"),
            ("benchmark missing.onnx", "no such file: missing.onnx"),
            ("demo missing --output out", "no such folder: missing"),
            ("demo --output file", "it is a file"),
            ("demo --epochs 0", "--epochs must be at least 1, got 0"),
            ("dmeo", "No such command 'dmeo'"),
        ],
    )
    def test_one_line(self, arguments: str, message: str, bad: Path, monkeypatch, capsys) -> None:
        before = snapshot(bad)
        monkeypatch.chdir(bad)
        line = one_line(arguments.split(), capsys)
        assert message in line
        left = snapshot(bad) - before
        assert not left

    def test_a_folder_that_cannot_be_written(self, photos: Path, tmp_path: Path, capsys) -> None:
        folder = tmp_path / "locked"
        folder.mkdir()
        folder.chmod(0o555)
        if os.access(folder, os.W_OK):
            pytest.skip("this user may write everywhere; /proc/run above stands in")
        assert "cannot write to output folder" in one_line(
            ["train", str(photos), "--output", str(folder / "run")], capsys
        )

    @pytest.mark.usefixtures("undrawn")
    def test_one_corrupt_picture_is_reported_and_counted(self, photos: Path, tmp_path: Path, capsys) -> None:
        data = tmp_path / "data"
        shutil.copytree(photos, data)
        (data / "gem" / "0.png").write_bytes(b"noise")
        assert run(["train", str(data), *TINY, "--epochs", "1", "--output", str(tmp_path / "run")]) == 0
        assert "1 unreadable" in capsys.readouterr().err

    def test_too_many_corrupt_pictures_end_the_run(self, bad: Path, tmp_path: Path, capsys) -> None:
        folder = tmp_path / "run"
        assert run(["train", str(bad / "corrupt"), *TINY, "--epochs", "1", "--output", str(folder)]) == 2
        captured = capsys.readouterr()
        assert captured.err.splitlines()[-1].startswith("error: at least 2 of 24 pictures cannot be read")
        assert "gem/0.png" in captured.err and captured.out == ""
        assert json.loads((folder / "run.json").read_text())["status"] == "failed"

    def test_debug_shows_where(self) -> None:
        with pytest.raises(effvit.EffvitError, match="no such folder: missing"):
            run(["--debug", "train", "missing"])


def damage(trained: Path, folder: Path) -> None:
    """Copies of a run, each with one file that is not what it was."""
    for name in ("damaged-run", "damaged-split", "damaged-checkpoint", "garbled-checkpoint", "moved-data"):
        shutil.copytree(trained, folder / name)
    (folder / "damaged-run" / "run.json").write_text("{}")
    (folder / "damaged-split" / "split.json").write_text("{}")
    torch.save({"a": torch.zeros(2)}, folder / "damaged-checkpoint" / "checkpoints" / "last.pt")
    (folder / "garbled-checkpoint" / "checkpoints" / "last.pt").write_bytes(b"garbage")
    record = json.loads((folder / "moved-data" / "run.json").read_text())
    (folder / "moved-data" / "run.json").write_text(json.dumps({**record, "data_root": "/nowhere"}))


def snapshot(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def start(arguments: list[str]) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "effvit", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


# Of SIGKILL, train/test_resume.py is the quick test.
@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(
    "how", [signal.SIGINT, *(pytest.param(one, marks=pytest.mark.slow) for one in (signal.SIGTERM, signal.SIGKILL))]
)
def test_an_interrupted_run_continues_to_the_same_weights(how: signal.Signals, photos: Path, tmp_path: Path) -> None:
    arguments = ["train", str(photos), *TINY, "--epochs", "12", "--output"]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    process = start([*arguments, str(cut)])
    deadline = time.monotonic() + 120
    while not (cut / "metrics.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(how)
    _, errors = process.communicate()
    if how is not signal.SIGKILL:
        assert process.returncode == 130, errors
        assert errors.splitlines()[-1] == "interrupted"
        assert f"continue with: effvit train --resume {cut}" in errors and "Traceback" not in errors
    assert json.loads((cut / "run.json").read_text())["status"] != "finished"
    assert run(["train", "--resume", str(cut)]) == 0
    assert run([*arguments, str(whole)]) == 0
    one, other = effvit.load(whole)[0].state_dict(), effvit.load(cut)[0].state_dict()
    assert all((one[name] == other[name]).all() for name in one)


def test_help_is_fast_because_torch_is_not_imported() -> None:
    code = "import sys; from effvit.cli.main import run; run(['--help']); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL, check=False).returncode == 0


def test_output_into_a_closed_pipe_is_no_error() -> None:
    command = f"{sys.executable} -m effvit models | head -1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stderr == ""
