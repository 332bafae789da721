"""What a record says of its machine: enough to judge, nothing that is private."""

from __future__ import annotations

import json
import platform
import re
import socket
import subprocess
from pathlib import Path

import pytest

import effvit
from effvit import environment as module
from effvit.environment import environment


def test_it_names_machine_and_versions() -> None:
    values = environment()
    assert values["versions"]["effvit"] == effvit.__version__
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", values["date"])
    assert values["cpu"] and values["cores_usable"] >= 1 and values["torch_threads"] >= 1


def test_it_names_no_host_and_no_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "release", lambda: "6.8.0-31-secret-vendor")
    for place in (platform, socket):
        monkeypatch.setattr(place, "node" if place is platform else "gethostname", lambda: "secret-host")
    values = environment()
    text = json.dumps(values)
    assert "secret" not in text
    assert values["os"].endswith(" 6.8.0")
    assert str(Path.home()) not in text
    assert str(Path(effvit.__file__).parent) not in text


def test_the_commit_is_that_of_the_measured_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "src" / "effvit" / "environment.py"
    source.parent.mkdir(parents=True)
    source.write_text("measured\n")
    monkeypatch.setattr(module, "__file__", str(source))
    assert environment()["commit"] is None
    assert not environment()["commit_is_exact"]

    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=test", "-c", "user.email=test@localhost", "-c", "core.hooksPath=/dev/null"]
        command = ["git", "-C", str(tmp_path), *identity, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    git("init", "-q")
    git("add", ".")
    git("commit", "-q", "-m", "first")
    values = environment()
    assert values["commit"] == git("rev-parse", "HEAD")
    assert values["commit_is_exact"]
    (tmp_path / "notes.txt").write_text("a record written beside the code changes nothing\n")
    assert environment()["commit_is_exact"]
    source.write_text("changed\n")
    assert not environment()["commit_is_exact"]


def test_an_installed_package_takes_no_one_elses_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A virtual environment inside some other project's checkout.
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    installed = tmp_path / ".venv" / "lib" / "python3" / "site-packages" / "effvit" / "environment.py"
    installed.parent.mkdir(parents=True)
    monkeypatch.setattr(module, "__file__", str(installed))
    assert environment()["commit"] is None
