"""What a study keeps in JSON files, each with the settings it was made with, so that nothing is taken for another."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from effvit.errors import RunError
from effvit.files import read_json


def as_json(value: Any) -> Any:
    """As it would be read back: tuples are lists, keys are text."""
    return json.loads(json.dumps(value))


def read_kept(path: Path, settings: Any) -> dict[str, Any] | None:
    """What was found with these settings before; None if nothing was.

    Args:
        path: The file.
        settings: What decides the result, as `as_json` gives it.

    Raises:
        RunError: If it was found with other settings, or the file cannot be read.
    """
    if not path.is_file():
        return None
    kept: dict[str, Any] = read_json(path)
    if kept.get("settings") != settings:
        raise RunError(f"{path} was found with other settings: give another folder, or remove that file")
    return kept


def read_same(path: Path, settings: Any) -> dict[str, Any] | None:
    """`read_kept` for measurements that are made anew where settings differ, such as more networks: then None too.

    Raises:
        RunError: If the file cannot be read.
    """
    kept: dict[str, Any] = read_json(path) if path.is_file() else {}
    return kept if kept.get("settings") == settings else None
