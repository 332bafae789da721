"""Write files so that a reader never sees half of one, and say in one line why a place cannot be written."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from effvit.errors import RunError

_MOST_BYTES = 200
"""Of a name that becomes part of a temporary one."""


@contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it onto `path` on success, remove it on failure.

    The temporary name keeps the suffix of `path`, because writers such as matplotlib choose the
    format by it.

    Raises:
        RunError: If the place cannot be written.
    """
    path = Path(path)
    temporary = path.with_name(f".{_short(path.stem)}.{os.getpid()}.partial{path.suffix}")
    try:
        yield temporary
        temporary.replace(path)
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        remove(temporary)


@contextmanager
def atomic_folder(path: Path | str) -> Iterator[Path]:
    """`atomic_path` for a writer that makes a folder, or either: what was at `path` before is replaced whole.

    Yields a temporary name that does not exist yet. A folder cannot be renamed onto another, so the old one
    steps aside first, and comes back if the new one cannot take its place.

    Raises:
        RunError: If the place cannot be written.
    """
    path = Path(path)
    old = path.with_name(f".{_short(path.stem)}.{os.getpid()}.old{path.suffix}")
    try:
        with atomic_path(path) as temporary:
            yield temporary
            if temporary.is_dir() and path.is_dir():
                path.replace(old)
    finally:
        if old.exists() and not path.exists():
            old.replace(path)
        remove(old)


def _short(stem: str) -> str:
    """A name cut so that more can be put around it: names may have 255 bytes, and a letter takes up to 4."""
    return stem if len(os.fsencode(stem)) <= _MOST_BYTES else stem[: _MOST_BYTES // 4]


def remove(path: Path) -> None:
    """Remove a file or a folder with all that is in it; nothing if there is none."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    elif path.parent.is_dir():
        path.unlink(missing_ok=True)


def size_in_bytes(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files)


def write_text(path: Path | str, text: str) -> None:
    """Write UTF-8 text atomically; RunError if the place cannot be written."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path | str, value: Any) -> None:
    """Write a value as indented JSON, atomically; RunError if the place cannot be written."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path | str) -> Any:
    """Read a JSON file; RunError with path and reason if it is missing or damaged."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise RunError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise RunError(f"{path} is not valid JSON: {error}") from error


def make_output_folder(path: Path | str) -> Path:
    """Create a folder for results, and prove by writing that it can be written, before any long work.

    Raises:
        RunError: If the path is a file, or the folder cannot be created or written.
    """
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except FileExistsError as error:
        raise RunError(f"cannot use {path} as output folder: it is a file") from error
    except OSError as error:
        raise RunError(f"cannot write to output folder {path}: {error.strerror or error}") from error
    return path


@contextmanager
def output_folder(path: Path | str) -> Iterator[Path]:
    """`make_output_folder` for work that may still fail: what was made and stayed empty is taken away again."""
    path = Path(path)
    made = [folder for folder in (path, *path.parents) if not folder.exists()]
    folder = make_output_folder(path)
    try:
        yield folder
    except BaseException:
        with suppress(OSError):
            for folder in made:
                folder.rmdir()
        raise


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
