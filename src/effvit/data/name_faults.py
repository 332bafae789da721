"""Names that will be trouble: on another system, in a table, or because two cannot be told apart."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Protocol

from effvit.data.samples import Sample, one_line

_FORBIDDEN_ON_WINDOWS = '<>:"|?*\\'
_SUFFIXES_BY_FORMAT = {
    "JPEG": {".jpg", ".jpeg", ".jpe", ".jfif"},
    "MPO": {".jpg", ".jpeg"},
    "PNG": {".png"},
    "GIF": {".gif"},
    "WEBP": {".webp"},
    "BMP": {".bmp"},
    "TIFF": {".tif", ".tiff"},
    "AVIF": {".avif"},
    "PPM": {".ppm", ".pgm", ".pbm"},
}
"""Suffixes that say what the content is, by Pillow's name of the format."""


@dataclass(frozen=True)
class NameFault:
    """A name, and what is the trouble with it."""

    name: str
    reason: str


class _Facts(Protocol):
    @property
    def format(self) -> str: ...


class _Named(Protocol):
    """What is asked of a picture here."""

    @property
    def name(self) -> str: ...
    @property
    def sample(self) -> Sample: ...
    @property
    def facts(self) -> _Facts: ...


def class_name_faults(class_names: Sequence[str]) -> list[NameFault]:
    """Classes whose names differ by case alone, have blanks around them or signs nobody sees."""
    return [*_same_but_for_case(class_names), *(fault for name in class_names for fault in _hidden_signs(name))]


def file_name_faults(pictures: Iterable[_Named]) -> list[NameFault]:
    """Files whose names cannot be copied to every system, or say another format than the file has."""
    pictures = list(pictures)
    faults = _same_but_for_case([picture.name for picture in pictures])
    for picture in pictures:
        path = PurePath(picture.sample.member or picture.sample.path.name)
        faults += [NameFault(picture.name, fault.reason) for fault in _hidden_signs(path.name)]
        forbidden = "".join(sign for sign in _FORBIDDEN_ON_WINDOWS if sign in path.name)
        if forbidden:
            faults.append(NameFault(picture.name, f"Windows allows no {forbidden} in names"))
        suffixes = _SUFFIXES_BY_FORMAT.get(picture.facts.format)
        if suffixes is not None and path.suffix.lower() not in suffixes:
            faults.append(NameFault(picture.name, f"it is a {picture.facts.format} file"))
    return faults


def _same_but_for_case(names: Sequence[str]) -> list[NameFault]:
    first: dict[str, str] = {}
    faults = []
    for name in names:
        other = first.setdefault(name.casefold(), name)
        if other != name:
            faults.append(NameFault(name, f"differs from {other} by case alone: one name on macOS and Windows"))
    return faults


def _hidden_signs(name: str) -> list[NameFault]:
    faults = []
    if name != name.strip():
        faults.append(NameFault(one_line(name), "blanks before or after it"))
    if one_line(name) != name:
        faults.append(NameFault(one_line(name), "signs that nobody sees, or that turn or break the line"))
    return faults
