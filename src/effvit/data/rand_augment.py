"""RandAugment by timm, as its `create_transform` sets it up."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, cast

from PIL import Image
from timm.data import auto_augment
from timm.data.transforms import str_to_pil_interp

from effvit.errors import ConfigError, first_line
from effvit.preprocessing import Preprocessing

_WORDS = re.compile(r"rand(-(m\d+|n\d+|p[\d.]+|mstd[\d.]+|mmax\d+|inc[01]|tweights))*")
"""What timm knows; of other words it leaves out some without a sound."""


def rand_augment(words: str, preprocessing: Preprocessing) -> Callable[[Image.Image], Image.Image]:
    """Some operations drawn from timm's list, on an RGB picture; draws from Python's and NumPy's global generators.

    Args:
        words: timm's, such as `rand-m9-mstd0.5-inc1`.
        preprocessing: Its mean fills what is moved in, its interpolation is that of rotations and shears.

    Raises:
        ConfigError: If timm does not understand the words.

    Source: arXiv:1909.13719.
    """
    if not _WORDS.fullmatch(words):
        raise ConfigError(_not_understood(words, "known are m, n, p, mstd, mmax, inc with a number, and tweights"))
    settings = {
        "img_mean": tuple(min(255, round(255 * mean)) for mean in preprocessing.mean),
        "interpolation": str_to_pil_interp(preprocessing.interpolation),  # type: ignore[no-untyped-call]
    }
    try:
        augment = auto_augment.rand_augment_transform(words, settings)
    except (AssertionError, KeyError, ValueError) as error:
        raise ConfigError(_not_understood(words, first_line(error))) from error
    mend_posterize(augment)
    return cast(Callable[[Image.Image], Image.Image], augment)


def _not_understood(words: str, reason: str) -> str:
    return (
        f"augmentation: timm does not understand rand_augment {words!r} ({reason}); an example is rand-m9-mstd0.5-inc1"
    )


def mend_posterize(augment: auto_augment.RandAugment) -> None:
    """Let posterising to no bits at all give black, in place.

    At full strength timm asks for it, which Pillow before 13 did and Pillow 13 refuses: with `m9-mstd0.5-inc1`, one
    picture in about 700 would end a training.
    """
    for operation in augment.ops:
        if operation.aug_fn is auto_augment.posterize:
            operation.aug_fn = _posterize


def _posterize(picture: Image.Image, bits: int, **settings: Any) -> Image.Image:
    if bits == 0:
        return Image.new(picture.mode, picture.size)
    return cast(Image.Image, auto_augment.posterize(picture, bits, **settings))  # type: ignore[no-untyped-call]
