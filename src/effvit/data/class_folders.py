"""Folders of classes: what is there, and what is left out and why."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path

from effvit.data.pictures import is_picture_name, walk_files
from effvit.data.samples import ClassFolders, Sample, Skipped, SourcePictures, is_unicode, listed, one_line, refuse
from effvit.errors import DataError

VAL_FOLDER_NAMES = ("val", "validation", "valid", "test")
"""Folders beside `train/` that are taken for validation; the first that exists."""


def read_class_folders(root: Path, on_obstacle: Callable[[str], None] = refuse) -> SourcePictures:
    """The pictures of `root/train/CLASS/` and `root/val/CLASS/`, or of `root/CLASS/` as one part.

    Args:
        root: The folder.
        on_obstacle: See `datasets.find_data`; the pictures that are there are given after it.

    Raises:
        DataError: If the folder cannot be used for training; the message says what is missing.
    """
    folders = [folder.name for folder in _subfolders(root)]
    train_name, val_name = _part_names(folders)
    if train_name and val_name:
        return _given_split(root, train_name, val_name, folders, on_obstacle)
    if train_name and _holds_class_folders(root / train_name):
        on_obstacle(
            f"{root} has {train_name}/ with class folders but no {'/, '.join(VAL_FOLDER_NAMES)}/ beside it: add one,"
            f" or give {root / train_name} itself to have a share of each class held out"
        )
        train = find_in_class_folders(root / train_name, on_obstacle=on_obstacle)
        skipped = (*train.skipped, *_unused(root, folders, (train_name,)))
        return SourcePictures(root, train.class_names, {"train": train.samples, "val": ()}, skipped)
    found = find_in_class_folders(root, on_obstacle=on_obstacle)
    return SourcePictures(root, found.class_names, {"all": found.samples}, found.skipped)


def find_validation_folder(root: Path, class_names: Sequence[str] | None) -> Path | None:
    """`root/val`, or what it is called, of a folder with both parts; None without them, or if they are the classes."""
    train_name, val_name = _part_names([folder.name for folder in _subfolders(root)])
    if not train_name or not val_name or {train_name, val_name} <= set(class_names or ()):
        return None
    return root / val_name


def find_in_class_folders(
    root: Path, class_names: Sequence[str] | None = None, on_obstacle: Callable[[str], None] = refuse
) -> ClassFolders:
    """The pictures of one folder of class folders; see `datasets`."""
    by_class, skipped = _pictures_by_class(root)
    if class_names is None:
        empty = [name for name, pictures in by_class.items() if not pictures]
        if empty:
            on_obstacle(f"class folders without pictures in {root}: {listed(empty)}")
        class_names = sorted(by_class)
    else:
        unknown = sorted(set(by_class) - set(class_names))
        if unknown:
            parts = [name for name in unknown if name.lower() in ("train", *VAL_FOLDER_NAMES)]
            hint = f"; did you mean {root / parts[-1]}?" if parts else ""
            raise DataError(
                f"{root} has {len(unknown)} class folders the network does not know: {listed(unknown)}{hint} "
                f"(its {len(class_names)} classes: {listed(class_names)})"
            )
    samples = tuple(Sample(path, target) for target, name in enumerate(class_names) for path in by_class.get(name, []))
    if not samples:
        raise DataError(f"no pictures in {root}: expected {root / 'CLASS' / 'picture.jpg'}")
    return ClassFolders(root, tuple(class_names), samples, tuple(skipped))


def _part_names(folders: Sequence[str]) -> tuple[str, str]:
    """What the training and the validation folder are called; empty for one that is not there."""
    by_lower_case = {name.lower(): name for name in folders}
    val_names = [by_lower_case[name] for name in VAL_FOLDER_NAMES if name in by_lower_case]
    return by_lower_case.get("train", ""), (val_names or [""])[0]


def _given_split(
    root: Path, train_name: str, val_name: str, folders: list[str], on_obstacle: Callable[[str], None]
) -> SourcePictures:
    train = find_in_class_folders(root / train_name, on_obstacle=on_obstacle)
    val = find_in_class_folders(root / val_name, on_obstacle=on_obstacle)
    only_in = {
        train_name: sorted(set(train.class_names) - set(val.class_names)),
        val_name: sorted(set(val.class_names) - set(train.class_names)),
    }
    if any(only_in.values()):
        differences = [f"only in {part}/: {listed(names)}" for part, names in only_in.items() if names]
        on_obstacle(f"{train_name}/ and {val_name}/ of {root} have different classes: {'; '.join(differences)}")
    names = sorted({*train.class_names, *val.class_names})
    parts = {"train": _among(names, train), "val": _among(names, val)}
    skipped = (*train.skipped, *val.skipped, *_unused(root, folders, (train_name, val_name)))
    return SourcePictures(root, tuple(names), parts, skipped)


def _among(names: Sequence[str], found: ClassFolders) -> tuple[Sample, ...]:
    """The pictures of a part, numbered by the classes of both."""
    position = {name: index for index, name in enumerate(names)}
    return tuple(sample._replace(target=position[found.class_names[sample.target]]) for sample in found.samples)


def _unused(root: Path, folders: Sequence[str], parts: Sequence[str]) -> list[Skipped]:
    reason = f"not {'/ or '.join(parts)}/"
    return [Skipped(root / name, reason) for name in folders if name not in parts]


def _holds_class_folders(folder: Path) -> bool:
    """Whether a folder is itself made of folders and not of pictures: then it is no class."""
    entries = [path for path in folder.iterdir() if not path.name.startswith(".")]
    return any(path.is_dir() for path in entries) and not any(is_picture_name(path) for path in entries)


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
        if not is_unicode(folder):
            raise DataError(f"the class folder {one_line(folder)} has a name that is not UTF-8; rename it")
        pictures = by_class.setdefault(unicodedata.normalize("NFC", folder.name), [])
        for path in walk_files(folder):
            reason = _reason_to_skip(path)
            if reason:
                skipped.append(Skipped(path, reason))
            else:
                pictures.append(path)
    return by_class, skipped


def _reason_to_skip(path: Path) -> str:
    """Why a file is no picture to train on, as far as its name and kind tell; empty if it may be one."""
    if not is_picture_name(path):
        return f"not a picture ({path.suffix or 'no suffix'})"
    if not is_unicode(path):
        return "its name is not UTF-8, so no list of pictures can hold it; rename it"
    if not path.is_file():
        return "neither a file nor a folder" if path.exists() else "broken link"
    return ""


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
