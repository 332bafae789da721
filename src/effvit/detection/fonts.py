"""Fonts for names in any script, for texts that are drawn into photos."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from pathlib import Path

from PIL import ImageFont

from effvit.data.drawing import WORLD_FONTS


def font_for(texts: Iterable[str], size: int) -> ImageFont.FreeTypeFont:
    """The installed font that knows most of the signs of some texts, at a size in pixels.

    DejaVu Sans, which comes with matplotlib and knows Latin, Greek, Cyrillic, Hebrew and Arabic letters, is always
    there. A sign that no installed font knows is drawn as a box.
    """
    return ImageFont.truetype(font_file(texts), size)


def font_file(texts: Iterable[str]) -> Path:
    """The file of that font."""
    signs = frozenset(ord(sign) for text in texts for sign in text if not sign.isspace())
    return max(_files(), key=lambda file: len(signs & _known(file)))  # the first of equals


@functools.cache
def _files() -> tuple[Path, ...]:
    from matplotlib import font_manager

    found = []
    for name in WORLD_FONTS:
        for font in font_manager.fontManager.ttflist:
            if font.name == name and font.weight in (400, "normal", "regular", "book") and font.style == "normal":
                found.append(Path(font.fname))
                break
    return tuple(found)


@functools.lru_cache(maxsize=8)
def _known(file: Path) -> frozenset[int]:
    from matplotlib.ft2font import FT2Font

    return frozenset(FT2Font(str(file)).get_charmap())
