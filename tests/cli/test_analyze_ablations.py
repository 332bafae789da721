"""`effvit analyze ablations`, as a person calls it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from helpers import write_photos

from effvit.cli import analyze_ablations, main
from effvit.cli.main import run
from effvit.cli.study_progress import StudyProgress, duration
from effvit.model.variants import PUBLISHED
from effvit.studies.progress import StudyStep
from effvit.studies.training import Trained
from effvit.train.records import EpochRecord, StepReport

VERB = ["analyze", "ablations"]
SMALL = ["efficientvit_tiny", "--image-size", "32", "--epochs", "1", "--workers", "0", "--set", "batch_size=8"]


@pytest.fixture(autouse=True)
def _app(monkeypatch: pytest.MonkeyPatch) -> None:
    """The verb alone: the others have tests of their own."""
    app, analyze = typer.Typer(rich_markup_mode=None), typer.Typer(rich_markup_mode=None)
    analyze.callback()(lambda: None)
    analyze_ablations.register(analyze)
    app.add_typer(analyze, name="analyze")
    monkeypatch.setattr(main, "app", app)


@pytest.fixture(scope="module")
def photos_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photos(tmp_path_factory.mktemp("data"), classes=("ash", "birch"), count=10)


def test_dry_run_lists_the_rows(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run([*VERB, "--rows", "5,qk8", "--image-size", "224", "--set", "window=7", "--dry-run", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["row"] for row in rows] == ["1", "5", "qk8"]
    assert rows[0]["num_macs"] == PUBLISHED["efficientvit_m4"].num_macs
    assert run([*VERB, "efficientvit_tiny", "--rows", "9", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "no token interaction" in out and "16 24 32" in out and "69.9" in out


def test_a_study_and_the_same_again(photos_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "study"
    command = [*VERB, *SMALL, "--data", str(photos_folder), "--rows", "9", "--no-rescale", "--no-speed"]
    command += ["--output", str(folder)]
    assert run([*command, "--json"]) == 0
    first = capsys.readouterr()
    assert "row1, seed 0: top-1" in first.err and "row9, seed 0: top-1" in first.err
    assert "left in all" in first.err
    record = json.loads(first.out)
    assert [entry["row"] for entry in record["networks"]] == ["1", "9"]
    assert record["networks"][1]["trainings"][0]["top1"] is not None
    assert json.loads((folder / "record.json").read_text()) == record
    assert (folder / "page.html").is_file() and (folder / "table6.png").is_file()
    assert (folder / "runs" / "row9-0" / "weights" / "model.safetensors").is_file()

    assert run(command) == 0  # finished: nothing is trained again
    again = capsys.readouterr()
    assert "left in all" not in again.err
    assert "no token interaction" in again.out and "What this cannot show" in again.out

    assert run([*command, "--set", "learning_rate=0.001"]) == 2
    assert "row1-0 was made with other settings (learning_rate): give another folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "ablations need --output DIR: hours of work are kept there, and taken from there again"),
        (["--rows", "12"], "unknown row '12'"),
        (["--seeds", "0,0"], "--seeds must be different whole numbers with commas between them, got '0,0'"),
        (["--seeds", "a"], "--seeds must be different whole numbers with commas between them, got 'a'"),
        (["--batch", "0"], "--batch must be at least 1, got 0"),
        (["--threads", "0"], "--threads must be at least 1, got 0"),
        (
            ["--recipe", "imagenet_distilled", "--dry-run"],
            "a study trains on labels alone; leave out the teacher",
        ),
        (["--set", "seed=3", "--dry-run"], "--set seed has no effect here: --seeds decides it"),
        (["efficientvit_m9", "--dry-run"], "unknown model 'efficientvit_m9' (did you mean"),
        (["--data", "nowhere", "--output", "out"], "nowhere"),
        (["--epochs", "2", "--set", "epochs=3", "--dry-run"], "epochs is given by a flag and by --set; give it once"),
    ],
)
def test_what_is_not_allowed_is_one_line(
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run([*VERB, *arguments]) == 2
    err = capsys.readouterr().err
    assert message in err and "Traceback" not in err and err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_an_interruption_says_how_to_go_on(
    photos_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(StudyProgress, "on_step", interrupt)
    command = [*VERB, *SMALL, "--data", str(photos_folder), "--rows", "1", "--no-speed"]
    assert run([*command, "--output", str(tmp_path / "study")]) == 130
    assert "what is finished is in" in capsys.readouterr().err
    assert (tmp_path / "study" / "runs" / "row1-0" / "checkpoints" / "last.pt").is_file()


def test_progress_tells_only_what_is_new(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    record = EpochRecord(
        epoch=1,
        learning_rate=1e-3,
        train_loss=1.0,
        val_loss=1.0,
        val_top1=0.5,
        num_unreadable=0,
        pictures_per_second=1.0,
        seconds=100.0,
    )
    new = Trained(name="new", seed=0, folder=tmp_path, epochs=(record,))
    old = Trained(name="old", seed=0, folder=tmp_path, epochs=(record,))
    failed = Trained(name="bad", seed=1, folder=tmp_path, epochs=(), failure="the loss is nan")
    with StudyProgress() as bar:
        bar.on_round(1, 2)
        bar.on_run(old)
        for result in (new, failed):
            step = StepReport("train", 1, 1, 1, 1, None)
            bar.on_step(StudyStep(result.name, result.seed, 1, 2, step, 0.5, 7260.0))
            bar.on_run(result)
    assert capsys.readouterr().err.splitlines() == [
        "new, seed 0: top-1 50.00%, 2 min; 2 h 01 min left in all",
        "bad, seed 1: failed: the loss is nan, 0 s; 2 h 01 min left in all",
    ]


def test_durations() -> None:
    assert [duration(seconds) for seconds in (0, 89, 91, 5399, 7200)] == [
        "0 s",
        "89 s",
        "2 min",
        "1 h 30 min",
        "2 h 00 min",
    ]
