"""The house: imports go one way, rooms stay small, only the command line prints."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY

SOURCE = REPOSITORY / "src" / "effvit"
FILES = sorted(SOURCE.rglob("*.py"))
STEPS = (
    {
        *("device", "errors", "files", "preprocessing", "sections", "environment", "timing", "__init__"),
        *("page_style", "figures", "operators", "silence"),
    },
    {"data", "model"},
    {"train", "analysis", "deploy"},
    {"serve", "search", "detection", "studies"},
    {"cli"},
    {"__main__"},
)


def room(path: Path) -> str:
    part = path.relative_to(SOURCE).parts[0]
    return part.removesuffix(".py")


def step(name: str) -> int:
    return next(index for index, rooms in enumerate(STEPS) if name in rooms)


def imported_rooms(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "effvit":
            parts = node.module.split(".")
            found |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names} & room_names()
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("effvit.")}
    return found


def room_names() -> set[str]:
    return {room(path) for path in FILES}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_go_one_way(path: Path) -> None:
    own = room(path)
    if own == "__init__":
        return  # the public names are resolved lazily
    for other in imported_rooms(path) - {own, "__init__"}:
        if step(own) == 0:
            assert step(other) == 0, f"{own} imports {other}"
        else:
            assert step(other) < step(own), f"{own} imports {other}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_rooms_are_small_and_print_nothing(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= 300
    if room(path) != "cli":
        calls = [node.func for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)]
        assert not any(isinstance(call, ast.Name) and call.id == "print" for call in calls)


def test_a_wrong_arrow_would_be_seen(tmp_path: Path) -> None:
    (tmp_path / "x.py").write_text("import effvit.cli.main\nfrom effvit.train import loop\nfrom effvit import deploy\n")
    assert imported_rooms(tmp_path / "x.py") == {"cli", "train", "deploy"}


@pytest.mark.parametrize("module", ["effvit", "effvit.model.config", "effvit.model.variants", "effvit.cli.main"])
def test_light_modules_do_not_import_torch(module: str) -> None:
    code = f"import {module}, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
