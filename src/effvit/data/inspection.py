"""Look at every picture of a data set once: can it be read, what is it, what is it recognised by."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import NamedTuple

import numpy as np
from PIL import ExifTags

from effvit.data.duplicates import Fingerprint, fingerprint
from effvit.data.pictures import decoding_fault, open_picture, sample_bytes, to_rgb
from effvit.data.samples import Sample
from effvit.errors import ConfigError, DataError

_PICTURES_PER_TASK = 64


class PictureFacts(NamedTuple):
    """What one look at a picture tells."""

    fault: str = ""
    """Why it cannot be read, in one line; all else is then empty."""
    format: str = ""
    """Pillow's name of the file format, by content."""
    mode: str = ""
    """Pillow's name of the pixel format it is saved in."""
    width: int = 0
    """In pixels, upright."""
    height: int = 0
    """In pixels, upright."""
    spread: float = 0.0
    """Standard deviation of the grey levels, of 255; 0 for one colour."""
    fingerprint: Fingerprint | None = None
    orientation: int = 1
    """EXIF's number of how the pixels are stored; 1 is upright."""


def inspect_pictures(
    samples: Sequence[Sample], *, num_workers: int = 0, on_picture: Callable[[int, int], None] | None = None
) -> list[PictureFacts]:
    """Decode every picture; what cannot be decoded is told, not raised.

    Args:
        samples: The pictures.
        num_workers: Processes that decode; 0 decodes in this one.
        on_picture: Called with the pictures done and all there are.

    Returns:
        Facts in the order of the samples.

    Raises:
        ConfigError: If num_workers is negative.
    """
    if num_workers < 0:
        raise ConfigError(f"num_workers must be at least 0, got {num_workers}")
    found = []
    for facts in _facts(samples, num_workers):
        found.append(facts)
        if on_picture is not None:
            on_picture(len(found), len(samples))
    return found


def inspect_picture(sample: Sample) -> PictureFacts:
    """The facts of one picture."""
    try:
        content = sample_bytes(sample)
    except DataError as error:
        return PictureFacts(fault=decoding_fault(error.__cause__ if isinstance(error.__cause__, Exception) else error))
    try:
        with open_picture(content) as picture:
            rgb = to_rgb(picture)
            kind = (picture.format or "", picture.mode)
            orientation = picture.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception as error:  # a decoder can raise almost anything on a damaged file
        return PictureFacts(fault=decoding_fault(error))
    spread = float(np.asarray(rgb.convert("L")).std())
    return PictureFacts("", *kind, rgb.width, rgb.height, spread, fingerprint(rgb), orientation)


def _facts(samples: Sequence[Sample], num_workers: int) -> Iterator[PictureFacts]:
    if num_workers == 0:
        yield from map(inspect_picture, samples)
        return
    context = multiprocessing.get_context("spawn")  # a fork would copy whatever threads the caller has, half-way
    with ProcessPoolExecutor(num_workers, mp_context=context) as pool:
        try:
            yield from pool.map(inspect_picture, samples, chunksize=_PICTURES_PER_TASK)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
