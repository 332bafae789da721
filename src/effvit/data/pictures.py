"""One picture: from any file Pillow can decode to upright, 8-bit RGB; and finding picture files.

docs/data.md lists what becomes of every untidy kind of file.
"""

from __future__ import annotations

import io
import os
import stat
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from effvit.data.samples import Sample, one_line
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
    white), CMYK and palettes are converted; of an animation the first frame is taken. What counts is
    the content: a PNG named .jpg is read.

    Args:
        path: A picture file.

    Returns:
        Picture of mode RGB.

    Raises:
        DataError: If the file is missing, truncated, not a picture, has no fixed value range, or has more
            pixels than Pillow takes for safe (`PIL.Image.MAX_IMAGE_PIXELS`, 89 million unless a caller sets
            it): a file of some kilobytes can unpack to more memory than the machine has.
    """
    return read_sample(Sample(Path(path), target=0))


def read_sample(sample: Sample) -> Image.Image:
    """`read_picture` for a sample, which may lie in a shard.

    Raises:
        DataError: As `read_picture`, and if the shard is shorter than the sample says.
    """
    content = sample_bytes(sample)
    try:
        with open_picture(content) as picture:
            return to_rgb(picture)
    except Exception as error:  # a decoder can raise almost anything on a damaged file
        raise _unreadable(sample, error) from error


def sample_bytes(sample: Sample) -> bytes:
    """The picture's file as it was saved, from its own file or from its stretch of a shard.

    Raises:
        DataError: If there is no such file, it is no regular file (reading a named pipe would wait for ever),
            it cannot be read, or the shard ends before the sample does.
    """
    try:
        kind = sample.path.stat().st_mode
        if not stat.S_ISREG(kind):
            raise DataError(f"it is a {'folder' if stat.S_ISDIR(kind) else 'pipe or device'}, not a file")
        with sample.path.open("rb") as file:
            if not sample.member:
                return file.read()
            file.seek(sample.offset)
            content = file.read(sample.num_bytes)
        if len(content) < sample.num_bytes:
            raise DataError(f"the shard ends {sample.num_bytes - len(content)} bytes before the picture does")
        return content
    except (OSError, DataError) as error:
        raise _unreadable(sample, error) from error


@contextmanager
def open_picture(content: bytes) -> Iterator[Image.Image]:
    """A picture file's content as Pillow sees it, decoded, in the mode and orientation it was saved in.

    Raises:
        DataError: If there is no content.
        Exception: Whatever Pillow raises on a damaged file; what it only warns of as too large is raised too.
    """
    if not content:
        raise DataError("the file is empty")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns about odd metadata of pictures that decode well
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(io.BytesIO(content)) as picture:
            picture.load()
            yield picture


def to_rgb(picture: Image.Image) -> Image.Image:
    """An opened picture as a viewer shows it; see `read_picture`.

    Raises:
        DataError: If its values have no fixed range.
    """
    picture = ImageOps.exif_transpose(picture)
    if picture.mode == "F":
        raise DataError("its values are floating point, which has no black and white; save it with 8 or 16 bit")
    if picture.mode in _SIXTEEN_BIT_MODES:
        picture = _sixteen_to_eight_bit(picture)
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture)
    return picture.convert("RGB")


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
                raise DataError(f"no pictures in {one_line(path)} (suffixes: {' '.join(sorted(PICTURE_SUFFIXES))})")
            pictures.update(dict.fromkeys(found))
        elif path.exists():
            pictures[path] = None
        else:
            raise DataError(f"no such file or folder: {one_line(path)}")
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
        raise DataError(f"cannot read folder {one_line(folder)}: {error.strerror or error}") from error
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if _is_folder(entry):
            yield from walk_files(folder / entry.name, (*_above, real))
        else:
            yield folder / entry.name


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # links in a circle
        return False


def _sixteen_to_eight_bit(picture: Image.Image) -> Image.Image:
    values = np.asarray(picture)
    if values.min() < 0 or values.max() > np.iinfo(np.uint16).max:
        raise DataError(f"its values reach {values.min()}..{values.max()}; allowed are 8 and 16 bit")
    return Image.fromarray(np.rint(values / _SIXTEEN_TO_EIGHT_BIT).astype(np.uint8))


def _unreadable(sample: Sample, error: Exception) -> DataError:
    return DataError(f"cannot read picture {one_line(sample.name)}: {decoding_fault(error)}")


def decoding_fault(error: Exception) -> str:
    """Why a picture could not be decoded, in one line without its name, which the caller adds."""
    if isinstance(error, UnidentifiedImageError):
        return "not a picture"
    if isinstance(error, (Image.DecompressionBombError, Image.DecompressionBombWarning)):
        return f"it has more than {Image.MAX_IMAGE_PIXELS or 0:,} pixels (PIL.Image.MAX_IMAGE_PIXELS)"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split()) or type(error).__name__
