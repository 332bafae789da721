"""Saving figures whose texts are names in any script."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from effvit.data.samples import one_line
from effvit.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_NAME_LENGTH = 28
"""Letters of a name that a figure has room for."""
WORLD_FONTS = (
    "DejaVu Sans", "Noto Sans", "Noto Sans CJK JP", "Noto Sans Arabic", "Noto Sans Devanagari",
    "Arial Unicode MS", "Hiragino Sans", "Microsoft YaHei", "WenQuanYi Micro Hei",
)  # fmt: skip
"""Fonts that between them can write most class names; those installed are used, in this order."""


def save_figure(figure: Figure, path: Path, *, dpi: int, tight: bool = True) -> None:
    """Write a PNG atomically, in fonts that know as many of the class names' scripts as are installed.

    Signs that would turn the text around or that nobody sees are drawn as escapes, as messages have them.

    Args:
        figure: A matplotlib figure.
        path: Where to.
        dpi: Pixels per inch of the figure's size.
        tight: Whether empty margins are cut off.

    Raises:
        RunError: If the place cannot be written.
    """
    from matplotlib.text import Text

    families = _installed_fonts()
    for text in figure.findobj(Text):
        text.set_fontfamily(families)
        text.set_text("\n".join(map(one_line, text.get_text().split("\n"))))
    with atomic_path(path) as temporary, warnings.catch_warnings():
        # A script without an installed font shows as boxes in the picture; the tables have the names.
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from font")
        figure.savefig(temporary, dpi=dpi, bbox_inches="tight" if tight else None)


def shorten(name: str) -> str:
    """A name in one line, cut to `MAX_NAME_LENGTH`, the cut shown."""
    name = one_line(name)
    return name if len(name) <= MAX_NAME_LENGTH else name[: MAX_NAME_LENGTH - 1] + "…"


def _installed_fonts() -> list[str]:
    from matplotlib import font_manager

    installed = {font.name for font in font_manager.fontManager.ttflist}
    return [name for name in WORLD_FONTS if name in installed]
