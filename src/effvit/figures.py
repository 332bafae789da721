"""The look of all charts, and how one gets into an HTML page."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import XAxis, YAxis
    from matplotlib.figure import Figure

OURS = "#c23b22"
THEIRS = "#44546a"
SERIES = ("#c23b22", "#2f6690", "#d99a2b", "#5b8e55", "#7a5195", "#44546a", "#9c6644", "#3d9a9a")
"""Colours of lines and dots that stand for different things, in order."""


def panels(count: int, *, width: float, height: float) -> tuple[Figure, Sequence[Axes]]:
    """A figure with panels side by side, in the look of all charts here.

    Args:
        count: Panels.
        width: Of one panel, in inches.
        height: Of the figure, in inches.
    """
    from matplotlib.figure import Figure  # slow to import; the object, as pyplot would keep global state

    figure = Figure(figsize=(width * count, height), layout="constrained")
    axes: Sequence[Axes] = figure.subplots(1, count, squeeze=False)[0]
    for panel in axes:
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(color="#e6e6e6", linewidth=0.6)
        panel.set_axisbelow(True)
    return figure, axes


def as_svg(figure: Figure) -> str:
    """The figure as an `<svg>` element: texts stay texts, so that they can be searched and the page stays small."""
    import matplotlib

    buffer = io.StringIO()
    # A fixed salt and no date: the same record gives the same page.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "effvit"}):
        figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    text = buffer.getvalue()
    return text[text.index("<svg") :]


_TICKS = ((3.0, (1.0,)), (1.5, (1.0, 2.0, 5.0)), (0.0, (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)))
"""Decades above which an axis has these ticks in each; with more of them their labels run together."""


def plain_log_ticks(axis: XAxis | YAxis) -> None:
    """Label a logarithmic axis with 1, 1.5, 2, 3, 5, 7, 10 ... as plain numbers instead of powers.

    Over 1.5 decades 1, 2, 5, 10 ... are left, over 3 decades the powers of ten.

    Args:
        axis: Of a panel, logarithmic and with everything drawn: its range decides.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = sorted(axis.get_view_interval())
    decades = math.log10(high / low) if low > 0 else 0.0
    axis.set_major_locator(LogLocator(subs=next(ticks for least, ticks in _TICKS if decades >= least)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axis.set_minor_formatter(NullFormatter())
