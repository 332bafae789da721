"""Every command and every line of Python in the README does what it says, in order, in an empty folder."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY
from helpers import write_photos

from effvit.cli.main import run
from effvit.cli.render import models_markdown
from effvit.model.variants import PUBLISHED

README = (REPOSITORY / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


COMMANDS = [line for block in blocks("sh") for line in block.splitlines()]


def test_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    for part in ("train", "val"):
        write_photos(tmp_path / "photos" / part, classes=("cat", "dog"), count=4)
    write_photos(tmp_path / "folder", classes=("mixed",), count=2)
    (tmp_path / "photos" / "val" / "cat" / "0.png").rename(tmp_path / "some.jpg")
    for line in COMMANDS:
        program, *arguments = shlex.split(line)
        if program == "make":
            continue
        assert program == "effvit"
        assert run(arguments) == 0, f"{line}\n{capsys.readouterr().err}"
    output = capsys.readouterr().out
    assert "efficientvit_m5" in output and "some.jpg" in output and "mobilenetv3_large_100" in output
    assert (tmp_path / "runs/efficientvit_m0-1/model.onnx").is_file()


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
