"""Names of classes where pictures come with labels of their own: in shards and in CSV lists."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from effvit.data.samples import listed
from effvit.errors import DataError

LIST_NAMES = ("classes.txt", "classes.json")
"""Files beside the shards or the CSV file that name the classes in the order of their numbers."""


def read_class_list(folder: Path) -> tuple[str, ...] | None:
    """The names in `classes.txt` (one a line) or `classes.json` (a list, or number -> name); None without either.

    Raises:
        DataError: If the file cannot be read, is empty, or names a class twice.
    """
    path = next((folder / name for name in LIST_NAMES if (folder / name).is_file()), None)
    if path is None:
        return None
    try:
        text = path.read_text(encoding="utf-8-sig")
        names = _names_in_json(text) if path.suffix == ".json" else [line.strip() for line in text.splitlines()]
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, KeyError) as error:
        raise DataError(f"{path} must be UTF-8 and hold a list of names, or names by number from 0") from error
    names = [unicodedata.normalize("NFC", name) for name in names if name]
    twice = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
    if twice or not names:
        raise DataError(f"{path} names {'these classes twice: ' + listed(twice) if twice else 'no class'}")
    return tuple(names)


def _names_in_json(text: str) -> list[str]:
    values = json.loads(text)
    if isinstance(values, dict):
        values = [values[str(number)] for number in range(len(values))]
    if not isinstance(values, list) or not all(isinstance(name, str) for name in values):
        raise ValueError(text)
    return values


def number_labels(
    labels: Sequence[str], names: tuple[str, ...] | None, where: Path
) -> tuple[tuple[str, ...], list[int]]:
    """Classes and targets of labels, which may be names or numbers.

    With a list of names, labels are these names, or else their numbers from 0. Without one, the labels
    that occur are the names, sorted: as numbers if all are.

    Args:
        labels: One a picture.
        names: What `read_class_list` gives.
        where: The source, for messages.

    Returns:
        The class names, and one position in them for each label.

    Raises:
        DataError: If a label is neither a listed name nor a number of one.
    """
    labels = [unicodedata.normalize("NFC", label) for label in labels]
    found = set(labels)
    all_numbers = all(label.isdecimal() for label in found)
    if names is None:
        names = tuple(sorted(found, key=lambda label: (int(label) if all_numbers else 0, label)))
    position = {name: index for index, name in enumerate(names)}
    if all_numbers and not found <= position.keys():
        position = {label: int(label) for label in found if int(label) < len(names)}
    unknown = sorted(found - position.keys())
    if unknown:
        raise DataError(f"{where}: labels that are not among the {len(names)} listed classes: {listed(unknown)}")
    return names, [position[label] for label in labels]
