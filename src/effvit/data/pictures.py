"""One picture: from any file Pillow can decode to upright, 8-bit RGB; and finding picture files."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from effvit.errors import DataError

PICTURE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".avif", ".bmp", ".gif", ".tif", ".tiff", ".ppm"}
)
"""File names that count as pictures when a folder is searched, in lower case."""

_SIXTEEN_BIT_MODES = ("I", "I;16", "I;16B", "I;16L", "I;16N")
_SIXTEEN_TO_EIGHT_BIT = 257  # 65535 / 255: white stays white


def read_picture(path: Path | str) -> Image.Image:
    """Decode a picture to what a person sees in a viewer: upright (EXIF), RGB, 8 bit.

    Transparency is laid on white, 16-bit greyscale is scaled (Pillow's own conversion clips it to
    white), CMYK and palettes are converted; of an animation the first frame is taken.

    Args:
        path: A picture file.

    Returns:
        Picture of mode RGB.

    Raises:
        DataError: If the file is missing, truncated, not a picture, or has no fixed value range.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns about odd metadata of pictures that decode well
            with Image.open(path) as picture:
                picture.load()
                return _to_rgb(ImageOps.exif_transpose(picture))
    except Exception as error:  # a decoder can raise almost anything on a damaged file
        raise DataError(f"cannot read picture {path}: {_reason(error)}") from error


def list_pictures(paths: Iterable[Path | str]) -> list[Path]:
    """Collect the pictures of files and folders, for prediction.

    A file that was named is kept whatever its suffix is, because it was asked for; a folder gives
    the picture files below it, sorted, hidden ones left out. A picture named twice is listed once.

    Raises:
        DataError: If a path does not exist, or a folder has no picture.
    """
    pictures: dict[Path, None] = {}
    for path in map(Path, paths):
        if path.is_dir():
            found = [file for file in walk_files(path) if is_picture_name(file)]
            if not found:
                raise DataError(f"no pictures in {path} (suffixes: {' '.join(sorted(PICTURE_SUFFIXES))})")
            pictures.update(dict.fromkeys(found))
        elif path.exists():
            pictures[path] = None
        else:
            raise DataError(f"no such file or folder: {path}")
    return list(pictures)


def is_picture_name(path: Path) -> bool:
    """Whether a file name ends like a picture, in upper or lower case."""
    return path.suffix.lower() in PICTURE_SUFFIXES


def walk_files(folder: Path, _above: tuple[Path, ...] = ()) -> Iterator[Path]:
    """All files below a folder, sorted by name, links followed once, hidden files and folders left out.

    Raises:
        DataError: If a folder cannot be read.
    """
    real = folder.resolve()
    if real in _above:  # a link back up would never end
        return
    try:
        with os.scandir(folder) as listing:  # knows files from folders without a system call for each
            entries = sorted(listing, key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(f"cannot read folder {folder}: {error.strerror or error}") from error
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from walk_files(folder / entry.name, (*_above, real))
        else:
            yield folder / entry.name


def _to_rgb(picture: Image.Image) -> Image.Image:
    if picture.mode == "F":
        raise DataError("its values are floating point, which has no black and white; save it with 8 or 16 bit")
    if picture.mode in _SIXTEEN_BIT_MODES:
        picture = _sixteen_to_eight_bit(picture)
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture)
    return picture.convert("RGB")


def _sixteen_to_eight_bit(picture: Image.Image) -> Image.Image:
    values = np.asarray(picture)
    if values.min() < 0 or values.max() > np.iinfo(np.uint16).max:
        raise DataError(f"its values reach {values.min()}..{values.max()}; allowed are 8 and 16 bit")
    return Image.fromarray(np.rint(values / _SIXTEEN_TO_EIGHT_BIT).astype(np.uint8))


def _reason(error: Exception) -> str:
    """One line without the path, which the caller names already."""
    if isinstance(error, UnidentifiedImageError):
        return "not a picture"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split()) or type(error).__name__
