from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from helpers import write_photos

from effvit.cli.main import run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for part in ("train", "val"):
        write_photos(tmp_path / "photos" / part, classes=("cat", "[dog]"), count=3)
    return tmp_path / "photos"


def test_check_shows_findings_and_leaves_with_0(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Both parts are written from one seed, so that every picture leaks.
    assert run(["data", "check", str(folder), "--output", str(tmp_path / "out"), "--image-size", "64"]) == 0
    printed = capsys.readouterr()
    assert "validation pictures with a copy among the training pictures: 6" in printed.out
    assert "[dog]" in printed.out and "contact_sheet.png" in printed.err
    assert (tmp_path / "out" / "contact_sheet.png").stat().st_size > 1000
    written = json.loads((tmp_path / "out" / "check.json").read_text())
    assert run(["data", "check", str(folder), "--json", "--image-size", "64"]) == 0
    assert json.loads(capsys.readouterr().out) == written
    assert written["num_leaked"] == 6 and written["sizes"]["num_below_input"] == 12


def test_strict_leaves_with_2_on_leaks_and_on_unreadable_files(folder: Path, tmp_path: Path) -> None:
    assert run(["data", "check", str(folder), "--strict"]) == 2
    write_photos(tmp_path / "clean", classes=("cat", "dog"), count=3)
    assert run(["data", "check", str(tmp_path / "clean"), "--strict"]) == 0
    (tmp_path / "clean" / "cat" / "text.jpg").write_text("not a picture")
    assert run(["data", "check", str(tmp_path / "clean"), "--strict"]) == 2
    assert run(["data", "check", str(tmp_path / "clean")]) == 0


def test_what_would_stop_a_training_is_a_finding(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "val" / "cat").rename(folder / "val" / "cow")
    (folder / "train" / "bare").mkdir()
    out = tmp_path / "out"
    assert run(["data", "check", str(folder), "--output", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "only in train/: bare, cat; only in val/: cow\n" in printed
    assert printed.count("\na training would stop: ") == 2
    written = json.loads((out / "check.json").read_text())
    assert len(written["obstacles"]) == 2 and written["num_pictures"] == {"train": 6, "val": 6}
    assert run(["data", "check", str(folder), "--strict"]) == 2
    assert run(["data", "shards", str(folder), str(tmp_path / "packed")]) == 2


def test_names_cannot_command_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = ("red\x1b[31m", "turn\u202e", "two\nlines", "[bold]tame")
    write_photos(tmp_path, classes=names, count=2)
    for name in names:
        (tmp_path / name / f"{name}.txt").touch()
        (tmp_path / name / f"{name}.jpg").write_text("not a picture")
    assert run(["data", "check", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "\x1b" not in printed and "\u202e" not in printed
    for shown in (r"red\x1b[31m", r"turn\u202e", r"two\nlines", "[bold]tame"):
        assert printed.count(shown) >= 3, shown  # as a class, as an unreadable picture and as what is left out


def test_shards_are_packed_and_read_by_the_other_verb(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "packed"
    assert run(["data", "shards", str(folder), str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "output": str(out), "num_shards": 2, "num_train": 6, "num_val": 6, "num_classes": 2,
    }  # fmt: skip
    shutil.rmtree(folder)
    assert run(["data", "check", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["num_pictures"] == {"train": 6, "val": 6}
    assert run(["data", "shards", str(out), str(out)]) == 2
    assert "is there already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["check", "nowhere"], "error: no such folder: nowhere"),
        (["check", ""], "error: an empty name stands for no data"),
        (["check", "nowhere", "--seed", "-1"], "error: seed must be at least 0, got -1"),
        (["check", "cifar9:x"], "error: unknown data set 'cifar9'"),
        (["shards", "nowhere", "out", "--shard-megabytes", "0"], "error: --shard-megabytes must be at least 1"),
    ],
)
def test_what_is_wrong_is_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["data", *arguments]) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.startswith(message) and len(printed.err.splitlines()) == 1
