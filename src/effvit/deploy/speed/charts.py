"""Pictures of a benchmark record, as matplotlib figures and as SVG that can stand in an HTML page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from effvit.deploy.speed.records import Row, Shares
from effvit.deploy.speed.sources import TIMM_PREFIX
from effvit.figures import OURS, SERIES, THEIRS, plain_log_ticks
from effvit.figures import panels as new_panels
from effvit.model.variants import VARIANTS
from effvit.operators import CLASS_COLOURS, CLASSES, ELEMENTWISE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.transforms import Bbox

_LABEL_PLACES = ((4, 3), (4, -8), (-4, 3), (-4, -8), (4, 11), (4, -16), (-4, 11), (-4, -16))
"""Points right and up of a mark where its label may stand; the first that is free is taken."""


def accuracy_against_speed(rows: Sequence[Row]) -> Figure:
    """Published accuracy over measured speed, one panel per batch size, with the front of those nobody beats in both.

    Args:
        rows: Of one runtime and precision, all with `top1`.
    """
    sizes = sorted({row.batch_size for row in rows})
    figure, panels = new_panels(len(sizes), width=6.0, height=4.6)
    for panel, size in zip(panels, sizes, strict=True):
        shown = [row for row in rows if row.batch_size == size]
        points = [(row.images_per_second, row.top1 or 0.0) for row in shown]
        front = pareto_front(points)
        panel.plot(*zip(*(points[index] for index in front), strict=True), color="#bbbbbb", zorder=1, linewidth=1.2)
        for index, row in enumerate(shown):
            ours = is_ours(row.model)
            panel.scatter(
                *points[index],
                s=34,
                color=OURS if ours else THEIRS,
                edgecolors="black" if index in front else "none",
                linewidths=0.8,
                zorder=2,
            )
        panel.set_xscale("log")
        plain_log_ticks(panel.xaxis)
        panel.set_title(f"batch {size}", fontsize=10)
        panel.set_xlabel("images per second")
        panel.set_ylabel("ImageNet-1k top-1, %, as published")
        panel.margins(x=0.08, y=0.08)
        for row, point in zip(shown, points, strict=True):
            panel.annotate(
                short_name(row.model),
                point,
                xytext=_LABEL_PLACES[0],
                textcoords="offset points",
                fontsize=7,
                color=OURS if is_ours(row.model) else THEIRS,
            )
    _part_labels(figure, panels)
    return figure


def _part_labels(figure: Figure, panels: Sequence[Axes]) -> None:
    """Give each label the first place around its point that no label before it has taken, and no panel's edge cuts."""
    figure.draw_without_rendering()  # only now it is known where everything is
    for panel in panels:
        taken: list[Bbox] = []
        for label in panel.texts:
            boxes = []
            for place in _LABEL_PLACES:
                label.xyann = place  # type: ignore[attr-defined]  # an Annotation, listed as a Text
                label.set_horizontalalignment("left" if place[0] > 0 else "right")
                boxes.append(label.get_window_extent())
                if boxes[-1].x1 <= panel.bbox.x1 and not boxes[-1].count_overlaps(taken):
                    break
            taken.append(boxes[-1])


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the points that no other point equals or beats in both coordinates, largest first coordinate first."""
    front: list[int] = []
    best = float("-inf")
    for index in sorted(range(len(points)), key=lambda i: (-points[i][0], -points[i][1])):
        if points[index][1] > best:
            front.append(index)
            best = points[index][1]
    return front


def dots(rows: Sequence[Row], series: Callable[[Row], str], *, label: str) -> Figure:
    """Milliseconds per picture, a line per model and a dot per series, bars over the quartiles.

    Args:
        rows: One per model and series.
        series: What the colour of a row tells, such as its runtime.
        label: Heading of the legend.
    """
    models = list(dict.fromkeys(row.model for row in rows))
    names = list(dict.fromkeys(series(row) for row in rows))
    figure, (panel,) = new_panels(1, width=8.6, height=1.3 + 0.27 * len(models))
    for row in rows:
        y = models.index(row.model)
        middle, low, high = (
            value / row.batch_size
            for value in (row.timing.latency_ms, row.timing.latency_ms_p25, row.timing.latency_ms_p75)
        )
        colour = SERIES[names.index(series(row)) % len(SERIES)]
        panel.plot([low, high], [y, y], color=colour, linewidth=2.5, alpha=0.35, solid_capstyle="butt")
        panel.plot([middle], [y], marker="o", markersize=5.5, color=colour, linestyle="none")
    for index, name in enumerate(names):
        panel.plot([], [], marker="o", markersize=5.5, color=SERIES[index % len(SERIES)], linestyle="none", label=name)
    panel.legend(title=label, fontsize=8, title_fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    panel.set_xscale("log")
    plain_log_ticks(panel.xaxis)
    _model_axis(panel, models)
    panel.set_xlabel("milliseconds per picture")
    return figure


def breakdown(shares: Sequence[Shares]) -> Figure:
    """Where the time goes: a stacked bar per row."""
    labels = [f"{short_name(s.model)}  {s.runtime}, {s.precision}, batch {s.batch_size}" for s in shares]
    figure, (panel,) = new_panels(1, width=9.2, height=1.3 + 0.3 * len(shares))
    starts = [0.0] * len(shares)
    # Older records know other classes; none of their time is left out.
    for kind in dict.fromkeys([*CLASSES, *(name for s in shares for name in s.shares)]):
        values = [100 * s.shares.get(kind, 0.0) for s in shares]
        if not any(values):
            continue
        bars = panel.barh(
            range(len(shares)),
            values,
            left=starts,
            color=CLASS_COLOURS.get(kind, CLASS_COLOURS[ELEMENTWISE]),
            label=kind,
            height=0.7,
        )
        texts = [f"{value:.0f}" if value >= 4 else "" for value in values]
        panel.bar_label(bars, labels=texts, label_type="center", fontsize=7, color="white")
        starts = [start + value for start, value in zip(starts, values, strict=True)]
    panel.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    panel.set_yticks(range(len(shares)), labels, fontsize=8)
    panel.invert_yaxis()
    panel.set_xlim(0, 100)
    panel.set_xlabel("% of the time of all operators")
    return figure


def is_ours(model: str) -> bool:
    """Whether a row's name is that of one of our variants, in whatever form."""
    return model.partition("@")[0] in VARIANTS


def short_name(model: str) -> str:
    """`efficientvit_m0` -> `M0`, `timm/efficientvit_m0` -> `timm's M0`; others as they are."""
    name, at, form = model.removeprefix(TIMM_PREFIX).partition("@")
    if name in VARIANTS:
        name = name.removeprefix("efficientvit_").upper()
        name = f"timm's {name}" if model.startswith(TIMM_PREFIX) else name
    return name + at + form


def _model_axis(panel: Axes, models: Sequence[str]) -> None:
    panel.set_yticks(range(len(models)), [short_name(model) for model in models], fontsize=8)
    for text, model in zip(panel.get_yticklabels(), models, strict=True):
        text.set_color(OURS if is_ours(model) else "black")
    panel.invert_yaxis()
    panel.margins(y=0.6 / max(1, len(models)))
