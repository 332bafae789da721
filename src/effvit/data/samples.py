"""Labelled pictures, wherever they lie: each a file of its own, or a stretch of a tar shard."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, NoReturn

from effvit.errors import DataError

_INVISIBLE = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Unicode's categories of control and format signs, surrogates, and line and paragraph separators."""
_MAX_NAMES_IN_MESSAGE = 5


class Sample(NamedTuple):
    """One labelled picture."""

    path: Path
    """The picture's file, or the shard it lies in."""
    target: int
    """Class index, a position in the class names."""
    member: str = ""
    """Name within the shard; empty for a file of its own."""
    offset: int = 0
    """Where the picture begins in the shard, in bytes."""
    num_bytes: int = 0
    """Length in the shard, in bytes; 0 for a file of its own."""

    @property
    def name(self) -> str:
        """The picture for a reader: its path, or `shard.tar/member`."""
        return f"{self.path}/{self.member}" if self.member else str(self.path)


class Skipped(NamedTuple):
    """A file or folder that was found but is not used."""

    path: Path
    reason: str


@dataclass(frozen=True)
class ClassFolders:
    """Labelled pictures to evaluate on, sorted by class."""

    root: Path
    class_names: tuple[str, ...]
    samples: tuple[Sample, ...]
    skipped: tuple[Skipped, ...]


@dataclass(frozen=True)
class PictureData:
    """Training and validation pictures of one source."""

    root: Path
    """The folder that paths are written down relative to."""
    class_names: tuple[str, ...]
    train: tuple[Sample, ...]
    val: tuple[Sample, ...]
    split: str
    """`folders`: root has train/ and val/; `given`: the source names its parts in another way; `seeded`: it has
    none, part of each class was held out."""
    skipped: tuple[Skipped, ...] = ()


@dataclass(frozen=True)
class SourcePictures:
    """What a source holds, before it is decided what is trained on."""

    root: Path
    class_names: tuple[str, ...]
    """The source's classes in its own order, which the targets point into."""
    parts: Mapping[str, Sequence[Sample]]
    """`train` and `val` where the source names its parts, else one part, `all`."""
    skipped: tuple[Skipped, ...] = ()


def source_pictures(
    root: Path, class_names: Sequence[str], by_part: Mapping[str, Sequence[Sample]], skipped: Sequence[Skipped]
) -> SourcePictures:
    """Pictures sorted by class: those of `train` and `val` if there are both, else all in one part."""
    if {"train", "val"} <= by_part.keys():
        parts = {name: sorted(by_part[name], key=lambda sample: sample.target) for name in ("train", "val")}
    else:
        everything = [sample for samples in by_part.values() for sample in samples]
        parts = {"all": sorted(everything, key=lambda sample: sample.target)}
    return SourcePictures(root, tuple(class_names), parts, tuple(skipped))


def refuse(obstacle: str) -> NoReturn:
    """What becomes of an obstacle to a training unless a caller wants to go on: a `DataError`."""
    raise DataError(obstacle)


def listed(names: Sequence[object]) -> str:
    """Names for a message in one line, cut where they would fill the screen."""
    shown = ", ".join(map(one_line, names[:_MAX_NAMES_IN_MESSAGE])) or "none"
    rest = len(names) - _MAX_NAMES_IN_MESSAGE
    return f"{shown} and {rest} more" if rest > 0 else shown


def one_line(name: object) -> str:
    """A file's name as it can stand in a message: what would break or turn the line is written as an escape.

    File names may hold newlines, terminal commands, right-to-left overrides and bytes that are no UTF-8 (which
    Python carries as surrogates, and no terminal and no JSON file takes). Scripts and emoji stay as they are.
    """
    text = str(name)
    if text.isascii() and text.isprintable():
        return text
    return "".join(_escaped(sign) if unicodedata.category(sign) in _INVISIBLE else sign for sign in text)


def is_unicode(name: object) -> bool:
    """Whether a file's name is UTF-8, so that JSON and CSV files can hold it."""
    return not any("\ud800" <= sign <= "\udfff" for sign in str(name))


def _escaped(sign: str) -> str:
    joins_letters = sign in "\u200c\u200d"  # parts of words in Persian and in Indian scripts, and of emoji
    return sign if joins_letters else sign.encode("unicode_escape").decode("ascii")
