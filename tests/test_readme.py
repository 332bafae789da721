"""Every command and every line of Python in the README does what it says, in order, in an empty folder."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from coco_files import coco, image, thing, write_coco
from conftest import REPOSITORY
from helpers import write_photos
from profiles import PEAKS

from effvit.cli.main import run
from effvit.cli.render import models_markdown
from effvit.model.variants import PUBLISHED

README = (REPOSITORY / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


COMMANDS = [line for block in blocks("sh") for line in block.splitlines()]


SMALLER = {"efficientvit_m0": "efficientvit_tiny", "mobilenetv3_large_100": "mobilenetv3_small_050"}
LESS = {
    "train": ["--image-size", "32"],
    "benchmark": ["--batch", "1", "--rounds", "1", "--seconds", "0.01", "--image-size", "32"],
    "profile": ["--rounds", "1", "--image-size", "32"],
    "analyze ratios": ["--shares", "0,100"],
    "analyze ablations": ["efficientvit_tiny"],
    "detect train": ["--image-size", "32"],
    "detect benchmark": ["--rounds", "1", "--seconds", "0.01", "--image-size", "32"],
}
"""What a verb is given besides, so that it has less to do."""


SLOW = ["detect", "export"]
"""Traces a detector for three quarters of a minute, however small; tests/detection/test_export.py has quick tests."""


def shortened(line: str) -> str:
    """The same verbs and flags with small networks and pictures, one epoch and one round."""
    for name, smaller in SMALLER.items():
        line = line.replace(name, smaller)
    line = re.sub(r"--epochs \d+", "--epochs 1", line)
    words = line.split()
    verb = " ".join(words[1:3] if words[1] in ("data", "detect", "analyze") else words[1:2])
    return " ".join([line, *([] if "--cost-only" in words else LESS.get(verb, []))])


# As they are written they train and measure for minutes. Shortened, each of them still runs, in its order, but for one.
@pytest.mark.parametrize("literally", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_commands(
    literally: bool,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if not literally:
        request.getfixturevalue("undrawn")
        monkeypatch.setattr("effvit.analysis.profiling.profiler.measure_peaks", lambda *_: PEAKS)
        monkeypatch.setattr("effvit.analysis.profiling.profiler._PASSES", (2, 2))
    monkeypatch.chdir(tmp_path)
    for part in ("train", "val"):
        write_photos(tmp_path / "photos" / part, classes=("cat", "dog"), count=4)
    write_photos(tmp_path / "folder", classes=("mixed",), count=2)
    (tmp_path / "photos" / "val" / "cat" / "0.png").rename(tmp_path / "some.jpg")
    cells = [thing(number, number, category_id=(1, 7)[number % 2]) for number in range(1, 7)]
    write_coco(tmp_path / "cells", coco([image(number) for number in range(1, 7)], cells)).rename("cells.json")
    for line in COMMANDS:
        program, *arguments = shlex.split(line if literally else shortened(line))
        if program == "make" or (not literally and arguments[:2] == SLOW):
            continue
        assert program == "effvit"
        assert run(arguments) == 0, f"{line}\n{capsys.readouterr().err}"
    output = capsys.readouterr().out
    model, peer = ("efficientvit_m0", "mobilenetv3_large_100") if literally else SMALLER.values()
    assert "efficientvit_m5" in output and "some.jpg" in output and peer in output
    assert (tmp_path / f"runs/{model}-1/model.onnx").is_file()


@pytest.mark.parametrize("line", [line for line in COMMANDS if line.startswith("make")])
def test_make_targets(line: str) -> None:
    """What they would run; the demo itself runs in test_cli.py, and these tests are `make test`."""
    done = subprocess.run([*line.split(), "--dry-run"], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert ("effvit demo" if "demo" in line else "pytest") in done.stdout


def test_python(tmp_path: Path) -> None:
    code = "import warnings; warnings.simplefilter('error')\n" + "\n".join(blocks("python"))
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "weights" / "model.safetensors").is_file()


def test_table_is_the_generated_one() -> None:
    assert models_markdown([{"name": name, **vars(facts)} for name, facts in PUBLISHED.items()]) in README


def test_file_map_and_links_exist() -> None:
    for line in "".join(blocks("text")).splitlines():
        for name in line.split("  ")[0].split(","):
            assert (REPOSITORY / name.strip()).exists(), name
    for target in re.findall(r"\]\(([^)]+)\)", README) + re.findall(r"`(docs/[^`]+|[A-Z]+(?:\.\w+)?)`", README):
        assert target.startswith("http") or target.isupper() or (REPOSITORY / target).exists(), target
