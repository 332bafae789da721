"""`effvit` as a person or a program runs it, inside this process."""

from __future__ import annotations

import json
from typing import Any

import pytest

from effvit.cli.main import run


def result(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> Any:
    """What a verb that must succeed gives with `--json`."""
    capsys.readouterr()
    assert run([*arguments, "--json"]) == 0, capsys.readouterr().err
    return json.loads(capsys.readouterr().out)


def one_line(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Run what must fail: exit code 2, nothing on stdout, one line on stderr, which is returned."""
    capsys.readouterr()
    assert run(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ") and captured.err.count("\n") == 1, captured.err
    return captured.err
