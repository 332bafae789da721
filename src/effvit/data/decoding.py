"""Pictures for training, fast: JPEG files are decoded only when it is known how much of them is wanted.

What comes out is what `pictures.read_sample` reads, without a copy of the whole picture; and a crop much larger than
the network's input is decoded at 1/2, 1/4 or 1/8 of its size, which JPEG's blocks allow at a fraction of the time.
Evaluation does not come here: published accuracies assume every pixel of the full picture.

torchvision's own decoder would be a quarter faster, but is deprecated (torchvision 0.29).
"""

from __future__ import annotations

import io
import warnings
from typing import NamedTuple

import numpy as np
import torch
from PIL import ExifTags, Image
from torch import Tensor

from effvit.data.pictures import read_sample, sample_bytes
from effvit.data.samples import Sample

_SHRINKS = (8, 4, 2)
"""What JPEG decoders can divide a picture's sides by, see `PIL.Image.Image.draft`."""

_SPARE = 2
"""A shrunk crop keeps at least this many times the pixels of the input along each side, for the resize to filter:
with 1 the decoder's plain means over blocks would be all the filtering there is."""


class UndecodedJpeg(NamedTuple):
    """A JPEG of upright, 8-bit colour or grey, of which only the head was read."""

    sample: Sample
    head: Image.Image
    """Pillow's view of it; `head.size` is (width, height)."""

    def decode(self, shrink: int) -> Image.Image:
        """The picture with its sides divided by 1, 2, 4 or 8, colour or grey; can be had once.

        Raises:
            DataError: If it is damaged.
        """
        try:
            if shrink > 1:
                self.head.draft("", (self.head.width // shrink, self.head.height // shrink))
            self.head.load()
        except Exception:  # a decoder can raise almost anything on a damaged file
            return read_sample(self.sample)  # says what is wrong with it
        return self.head


def open_for_training(sample: Sample) -> Image.Image | UndecodedJpeg:
    """A picture as `read_sample` gives it, or one that is decoded later, if that gives the same.

    Raises:
        DataError: As `read_sample`.
    """
    content = sample_bytes(sample)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # `read_sample` knows what to make of each
        try:
            head = Image.open(io.BytesIO(content))
            upright = head.getexif().get(ExifTags.Base.Orientation, 1) == 1
        except Exception:  # a decoder can raise almost anything on a damaged file
            return read_sample(sample)
    is_plain = head.format in ("JPEG", "MPO") and head.mode in ("RGB", "L") and upright
    is_bomb = Image.MAX_IMAGE_PIXELS is not None and head.width * head.height > Image.MAX_IMAGE_PIXELS
    return UndecodedJpeg(sample, head) if is_plain and not is_bomb else read_sample(sample)


def cut(picture: Image.Image | UndecodedJpeg, box: tuple[int, int, int, int], size: tuple[int, int]) -> Tensor:
    """A rectangle of a picture, with no more pixels than a resize to `size` can use.

    Args:
        picture: RGB if it is decoded.
        box: Top, left, height and width of the rectangle, in pixels of the full picture.
        size: Height and width it will be resized to.

    Returns:
        uint8, (3, H, W), where H and W are the box's or, of large JPEG files, a half, quarter or eighth of it.

    Raises:
        DataError: If the picture turns out to be damaged.
    """
    top, left, height, width = box
    if isinstance(picture, Image.Image):
        return to_tensor(picture.crop((left, top, left + width, top + height)))
    full_width = picture.head.width
    decoded = picture.decode(_shrink_for(height, width, size))
    shrink = round(full_width / decoded.width)  # the decoder rounds up the number of pixels, not their size
    left, right = round(left / shrink), round((left + width) / shrink)
    top, bottom = round(top / shrink), round((top + height) / shrink)
    wanted = decoded.crop((left, top, right, bottom))
    return to_tensor(wanted if wanted.mode == "RGB" else wanted.convert("RGB"))  # a convert copies in any case


def to_tensor(picture: Image.Image) -> Tensor:
    """An RGB picture as uint8, (3, H, W), channels innermost in memory: where Pillow has them already."""
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)  # (H, W, 3) -> (3, H, W)


def to_picture(pixels: Tensor) -> Image.Image:
    """The inverse of `to_tensor`."""
    return Image.fromarray(np.ascontiguousarray(pixels.permute(1, 2, 0).numpy()))  # (3, H, W) -> (H, W, 3)


def planar(pixels: Tensor) -> Tensor:
    """The same with each channel in one piece of memory, copied by NumPy: three times as fast as torch's copy."""
    return torch.from_numpy(np.ascontiguousarray(pixels.numpy()))


def _shrink_for(height: int, width: int, size: tuple[int, int]) -> int:
    """The most a crop's sides can be divided by, so that enough pixels are left for `size`."""
    spare = min(height / size[0], width / size[1]) / _SPARE
    return next((shrink for shrink in _SHRINKS if shrink <= spare), 1)
