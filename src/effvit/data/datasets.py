"""Folders of classes: what is there, what is left out and why, and how it is split."""

from __future__ import annotations

import random
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from effvit.data.pictures import is_picture_name, walk_files
from effvit.data.samples import Sample
from effvit.errors import ConfigError, DataError

VAL_FOLDER_NAMES = ("val", "validation", "valid", "test")
"""Folders beside `train/` that are taken for validation; the first that exists."""

_MAX_NAMES_IN_MESSAGE = 5


class Skipped(NamedTuple):
    """A file or folder that was found but is not used."""

    path: Path
    reason: str


@dataclass(frozen=True)
class ClassFolders:
    """The pictures of one folder of class folders, sorted by class and path."""

    root: Path
    class_names: tuple[str, ...]
    samples: tuple[Sample, ...]
    skipped: tuple[Skipped, ...]


@dataclass(frozen=True)
class PictureData:
    """Training and validation pictures of one data folder."""

    root: Path
    class_names: tuple[str, ...]
    train: tuple[Sample, ...]
    val: tuple[Sample, ...]
    split: str
    """`folders`: root has train/ and val/; `seeded`: root has class folders, part of each was held out."""
    skipped: tuple[Skipped, ...] = ()


def find_data(root: Path | str, *, val_fraction: float = 0.2, seed: int = 0) -> PictureData:
    """Find training and validation pictures below `root`.

    Either `root/train/CLASS/...` and `root/val/CLASS/...` (or validation/, valid/, test/), or
    `root/CLASS/...`, of which a share of every class is held out. The held-out share of a class
    depends on the seed, the class and its file names only: not on where the folder lies, nor on
    the other classes.

    Args:
        root: The data folder.
        val_fraction: Share of each class, in (0, 1), that is held out where root has no val folder;
            at least one picture.
        seed: Seed of that choice.

    Raises:
        DataError: If the folder cannot be used for training; the message says what is missing.
        ConfigError: If val_fraction is out of range.
    """
    if not 0 < val_fraction < 1:
        raise ConfigError(f"val_fraction must be above 0 and below 1, got {val_fraction}")
    root = Path(root)
    folders = [folder.name for folder in _subfolders(root)]
    by_lower_case = {name.lower(): name for name in folders}
    val_names = [by_lower_case[name] for name in VAL_FOLDER_NAMES if name in by_lower_case]
    train_name = by_lower_case.get("train")
    if train_name and val_names:
        return _given_split(root, train_name, val_names[0], folders)
    if train_name and _holds_class_folders(root / train_name):
        raise DataError(
            f"{root} has {train_name}/ with class folders but no {'/, '.join(VAL_FOLDER_NAMES)}/ beside it: add one,"
            f" or give {root / train_name} itself to have {val_fraction:.0%} of each class held out"
        )
    return _seeded_split(root, val_fraction, seed)


def find_samples(root: Path | str, class_names: Sequence[str] | None = None) -> ClassFolders:
    """Find the pictures of a folder of class folders.

    Args:
        root: Folder with one folder a class; pictures may lie deeper in it.
        class_names: The classes of a trained network, whose order gives the targets. Every folder must be
            one of them, and some may be missing. None takes the folders themselves, sorted, and wants
            pictures in each.

    Raises:
        DataError: If there is no picture, a class is unknown, or (without class_names) a class is empty.
    """
    root = Path(root)
    by_class, skipped = _pictures_by_class(root)
    if class_names is None:
        empty = [name for name, pictures in by_class.items() if not pictures]
        if empty:
            raise DataError(f"class folders without pictures in {root}: {_names(empty)}")
        class_names = sorted(by_class)
    else:
        unknown = sorted(set(by_class) - set(class_names))
        if unknown:
            hint = "; did you mean one of its parts?" if {"train", *VAL_FOLDER_NAMES} & set(unknown) else ""
            raise DataError(
                f"{root} has {len(unknown)} class folders the network does not know: {_names(unknown)}{hint} "
                f"(its {len(class_names)} classes: {_names(class_names)})"
            )
    samples = tuple(Sample(path, target) for target, name in enumerate(class_names) for path in by_class.get(name, []))
    if not samples:
        raise DataError(f"no pictures in {root}: expected {root / 'CLASS' / 'picture.jpg'}")
    return ClassFolders(root, tuple(class_names), samples, tuple(skipped))


def _given_split(root: Path, train_name: str, val_name: str, folders: list[str]) -> PictureData:
    train, val = find_samples(root / train_name), find_samples(root / val_name)
    if train.class_names != val.class_names:
        only_train = sorted(set(train.class_names) - set(val.class_names))
        only_val = sorted(set(val.class_names) - set(train.class_names))
        raise DataError(
            f"{train_name}/ and {val_name}/ of {root} have different classes: "
            f"only in {train_name}/: {_names(only_train)}; only in {val_name}/: {_names(only_val)}"
        )
    _check_several_classes(train)
    unused = [
        Skipped(root / name, f"not {train_name}/ or {val_name}/")
        for name in folders
        if name not in (train_name, val_name)
    ]
    skipped = (*train.skipped, *val.skipped, *unused)
    return PictureData(root, train.class_names, train.samples, val.samples, "folders", skipped)


def _holds_class_folders(folder: Path) -> bool:
    """Whether a folder is itself made of folders and not of pictures: then it is no class."""
    entries = [path for path in folder.iterdir() if not path.name.startswith(".")]
    return any(path.is_dir() for path in entries) and not any(is_picture_name(path) for path in entries)


def _seeded_split(root: Path, val_fraction: float, seed: int) -> PictureData:
    found = find_samples(root)
    _check_several_classes(found)
    by_target: dict[int, list[Sample]] = {}
    for sample in found.samples:
        by_target.setdefault(sample.target, []).append(sample)
    single = [found.class_names[target] for target, samples in by_target.items() if len(samples) == 1]
    if single:
        raise DataError(
            f"classes with a single picture cannot be split into training and validation: {_names(single)} in {root}"
        )
    train: list[Sample] = []
    val: list[Sample] = []
    for target, samples in by_target.items():
        num_val = min(max(round(len(samples) * val_fraction), 1), len(samples) - 1)
        # Not one generator for all: a class that is added later must not move the others' pictures.
        draw = random.Random(f"{seed}/{found.class_names[target]}")
        held_out = set(draw.sample(range(len(samples)), num_val))
        for position, sample in enumerate(samples):
            (val if position in held_out else train).append(sample)
    return PictureData(root, found.class_names, tuple(train), tuple(val), "seeded", found.skipped)


def _pictures_by_class(root: Path) -> tuple[dict[str, list[Path]], list[Skipped]]:
    """Picture files by class name, and what else lies there.

    Names are compared in Unicode's composed form, because macOS writes the accents of the same name
    in another one, and data sets travel.
    """
    by_class: dict[str, list[Path]] = {}
    skipped = [
        Skipped(path, "outside any class folder")
        for path in sorted(root.iterdir() if root.is_dir() else [])
        if not path.is_dir() and not path.name.startswith(".")
    ]
    for folder in _subfolders(root):
        pictures = by_class.setdefault(unicodedata.normalize("NFC", folder.name), [])
        for path in walk_files(folder):
            if not is_picture_name(path):
                skipped.append(Skipped(path, f"not a picture ({path.suffix or 'no suffix'})"))
            elif not path.exists():
                skipped.append(Skipped(path, "broken link"))
            else:
                pictures.append(path)
    return by_class, skipped


def _subfolders(root: Path) -> list[Path]:
    """The visible folders in root, sorted; DataError if there are none or root is no folder."""
    if not root.exists():
        raise DataError(f"no such folder: {root}")
    if not root.is_dir():
        raise DataError(f"not a folder: {root}")
    try:
        entries = sorted(path for path in root.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise DataError(f"cannot read folder {root}: {error.strerror or error}") from error
    folders = [path for path in entries if path.is_dir()]
    if not folders:
        holds = f"it holds {len(entries)} files and no class folder" if entries else "it is empty"
        raise DataError(f"no pictures in {root}: {holds}; expected {root / 'CLASS' / 'picture.jpg'}")
    return folders


def _check_several_classes(found: ClassFolders) -> None:
    if len(found.class_names) < 2:
        raise DataError(f"{found.root} has one class, {found.class_names[0]!r}; training needs at least 2")


def _names(names: Sequence[str]) -> str:
    """A list for a message, cut where it would fill the screen."""
    shown = ", ".join(names[:_MAX_NAMES_IN_MESSAGE]) or "none"
    rest = len(names) - _MAX_NAMES_IN_MESSAGE
    return f"{shown} and {rest} more" if rest > 0 else shown
