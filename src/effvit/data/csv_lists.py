"""CSV lists: a row a picture, with its path and its label.

The first row names the columns: one of `PATH_COLUMNS`, one of `LABEL_COLUMNS`, and if there is one of
`SPLIT_COLUMNS` it says which part a picture belongs to. Comma, semicolon and tab separate; quotes and
a byte order mark, as spreadsheets write them, are understood. Paths are relative to the list, or to a
folder `images/` beside it.
Labels are names, or numbers of the names in a column of `NAME_COLUMNS` or in a `classes.txt` beside the list.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from effvit.data.class_folders import VAL_FOLDER_NAMES
from effvit.data.class_lists import number_labels, read_class_list
from effvit.data.samples import Sample, Skipped, SourcePictures, listed, one_line, source_pictures
from effvit.errors import DataError

PATH_COLUMNS = ("path", "file", "filename", "file_name", "filepath", "file_path", "image", "image_path")
LABEL_COLUMNS = ("label", "class", "target", "category", "index", "class_id")
NAME_COLUMNS = ("class_name", "label_name", "name")
SPLIT_COLUMNS = ("split", "part", "subset")
MAX_MISSING_SHARE = 0.01
"""Share of the listed files that may be missing; more stops, because the list is then for another place."""

_TRAIN_WORDS = ("train", "training")
_DELIMITERS = (",", ";", "\t")


class _Row(NamedTuple):
    path: Path
    label: str
    part: str


def is_list(source: Path) -> bool:
    """Whether a source is named like a CSV list."""
    return source.suffix.lower() in (".csv", ".tsv") and not source.is_dir()


def read_list(source: Path) -> SourcePictures:
    """The pictures of a CSV list.

    A row that repeats another is skipped and so is a missing file; both are listed.

    Raises:
        DataError: If the list cannot be read, lacks a column, gives a file two labels or two parts, or more
            than one file and more than 1 % are missing.
    """
    rows = _read_rows(source)
    kept, skipped = _without_repetition(rows, source)
    missing = [row.path for row in kept if not row.path.is_file()]
    if len(missing) > max(1, MAX_MISSING_SHARE * len(kept)) or len(missing) == len(kept):
        raise DataError(
            f"{one_line(source)}: {len(missing)} of {len(kept)} listed files are missing (allowed: 1, or"
            f" {MAX_MISSING_SHARE:.0%}): {listed(missing)}; paths are relative to the list's folder"
        )
    gone = set(missing)
    skipped += [Skipped(path, "listed, but there is no such file") for path in missing]
    kept = [row for row in kept if row.path not in gone]
    names, targets = number_labels([row.label for row in kept], read_class_list(source.parent), source)
    by_part: dict[str, list[Sample]] = {}
    unused = _unused_parts({row.part for row in kept})
    for row, target in zip(kept, targets, strict=True):
        if row.part in unused:
            skipped.append(Skipped(row.path, f"listed for {row.part}, and there is another part for validation"))
        else:
            part = "val" if row.part in VAL_FOLDER_NAMES else row.part
            by_part.setdefault(part, []).append(Sample(row.path, target))
    return source_pictures(source.parent, names, by_part, skipped)


def _read_rows(source: Path) -> list[_Row]:
    try:
        text = source.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"cannot read list {one_line(source)}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"list {one_line(source)} is not UTF-8; save it as CSV UTF-8") from error
    heading = text.partition("\n")[0]
    delimiter = max(_DELIMITERS, key=heading.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
    try:
        table = [[cell.strip() for cell in row] for row in reader]
    except csv.Error as error:
        raise DataError(f"list {one_line(source)}: {error}") from error
    columns = [name.lower() for name in table[0]] if table else []
    path = _find_column(columns, PATH_COLUMNS, "a file's path", source)
    named = _position(columns, NAME_COLUMNS)
    label = named if named is not None else _find_column(columns, LABEL_COLUMNS, "its label", source)
    split = _position(columns, SPLIT_COLUMNS)
    rows = []
    for number, cells in enumerate(table[1:], start=2):
        if not any(cells):
            continue
        if len(cells) <= max(path, label, split or 0) or not cells[path] or not cells[label]:
            raise DataError(f"{one_line(source)}: row {number} has no path, label or split: {one_line(cells)}")
        part = "all" if split is None else _part(cells[split], number, source)
        rows.append(_Row(Path(cells[path]), cells[label], part))
    if not rows:
        raise DataError(f"list {one_line(source)} has no rows")
    folder = _folder_of_pictures(source, rows[0].path)
    return [row._replace(path=folder / row.path) for row in rows]


def _folder_of_pictures(source: Path, first: Path) -> Path:
    """Where paths are relative to: the list's folder, or `images/` in it if that is where the first file lies."""
    inner = source.parent / "images"
    return inner if not (source.parent / first).exists() and (inner / first).exists() else source.parent


def _position(columns: Sequence[str], names: Sequence[str]) -> int | None:
    return next((columns.index(name) for name in names if name in columns), None)


def _find_column(columns: Sequence[str], names: Sequence[str], what: str, source: Path) -> int:
    position = _position(columns, names)
    if position is None:
        raise DataError(
            f"list {one_line(source)} has no column for {what}: its first row must name one of {', '.join(names)}; it"
            f" has {listed(columns)}"
        )
    return position


def _part(word: str, number: int, source: Path) -> str:
    """`train`, or the word for validation as it stands."""
    word = word.lower()
    if word in _TRAIN_WORDS:
        return "train"
    if word in VAL_FOLDER_NAMES:
        return word
    allowed = ", ".join((*_TRAIN_WORDS, *VAL_FOLDER_NAMES))
    raise DataError(f"{one_line(source)}: row {number} has split {word!r}; allowed: {allowed}")


def _unused_parts(parts: set[str]) -> list[str]:
    """Words for validation after the first that is used: `test` beside `val`."""
    return [word for word in VAL_FOLDER_NAMES if word in parts][1:]


def _without_repetition(rows: Sequence[_Row], source: Path) -> tuple[list[_Row], list[Skipped]]:
    first: dict[Path, _Row] = {}
    skipped = []
    for row in rows:
        other = first.setdefault(row.path, row)
        if other is row:
            continue
        if other != row:
            what = "labels" if other.label != row.label else "parts"
            values = (other.label, row.label) if other.label != row.label else (other.part, row.part)
            raise DataError(
                f"{one_line(source)} gives {one_line(row.path)} two {what}: {values[0]!r} and {values[1]!r}"
            )
        skipped.append(Skipped(row.path, "listed twice"))
    return list(first.values()), skipped
