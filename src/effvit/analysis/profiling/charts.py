"""Pictures of a profile: shares by class, rooflines, time along the network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from effvit.analysis.profiling.causes import CAUSES, COMPUTING
from effvit.analysis.profiling.records import MEMORY_CLASSES, ModelProfile, Operator, Profile, Sum, sum_of
from effvit.figures import OURS, SERIES, THEIRS, panels, plain_log_ticks
from effvit.operators import CLASS_COLOURS, CLASSES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_IDLE_COLOUR = "#ededed"
_LABELLED = 4.0
"""Percent from which on a part of a bar carries its number."""
_SHOWN = 0.005
"""Share of the operators' time from which on a cost gets a point."""
_MARKERS = dict(zip(sorted(COMPUTING), "os^DvP*X", strict=True))
_NO_OPERATOR = "no operator runs"


def shares_chart(profile: Profile, published: Mapping[str, float]) -> Figure:
    """A stacked bar of each model's wall time by class, beside it the milliseconds of a picture.

    Args:
        profile: The models.
        published: Label to the share of products that the paper has, in percent of all operators.
    """
    models = profile.models
    figure, (left, right) = panels(2, width=6.2, height=1.7 + 0.36 * len(models))
    starts = [0.0] * len(models)
    for kind in (*CLASSES, _NO_OPERATOR):
        values = [100 * _share_of_wall(model, kind) for model in models]
        if not any(values):
            continue
        idle = kind == _NO_OPERATOR
        bars = left.barh(
            range(len(models)),
            values,
            left=starts,
            height=0.7,
            label=kind,
            color=_IDLE_COLOUR if idle else CLASS_COLOURS[kind],
            hatch="////" if idle else None,
            edgecolor="#c4c4c4" if idle else "none",
            linewidth=0,
        )
        texts = [f"{value:.0f}" if value >= _LABELLED else "" for value in values]
        left.bar_label(bars, labels=texts, label_type="center", fontsize=7, color="#555555" if idle else "white")
        starts = [start + value for start, value in zip(starts, values, strict=True)]
    for index, model in enumerate(models):
        if (share := published.get(model.label)) is not None:
            left.plot([share, share], [index - 0.44, index + 0.44], color="black", linewidth=1.6)
            left.annotate("paper", (share, index - 0.4), fontsize=6, ha="center", va="bottom")
    left.set_xlim(0, 100)
    left.set_xlabel("% of the wall time")
    _model_axis(left, profile, named=True)
    left.legend(fontsize=7, frameon=False, ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    colours = [OURS if model.is_ours else THEIRS for model in models]
    per_picture = [model.wall_ms / model.batch_size for model in models]
    bars = right.barh(range(len(models)), per_picture, height=0.7, color=colours)
    right.bar_label(bars, labels=[f"{value:.3g}" for value in per_picture], fontsize=7, padding=3)
    right.set_xlabel(f"milliseconds per picture, batch {models[0].batch_size}")
    right.margins(x=0.12)
    _model_axis(right, profile, named=False)
    return figure


def _share_of_wall(model: ModelProfile, kind: str) -> float:
    if kind == _NO_OPERATOR:
        return model.between_share
    return model.shares[kind] * (1 - model.between_share)


def _model_axis(panel: Axes, profile: Profile, *, named: bool) -> None:
    models = profile.models
    labels = [profile.name_of(model) if named else "" for model in models]
    panel.set_yticks(range(len(models)), labels, fontsize=8)
    for text, model in zip(panel.get_yticklabels(), models, strict=True):
        text.set_color(OURS if model.is_ours else "black")
    panel.set_ylim(len(models) - 0.4, -0.6)


def roofline_chart(profile: Profile) -> Figure:
    """What each kind of product reaches, over its MACs per byte, under this machine's limits; and bytes per second of
    the classes that multiply nothing."""
    peaks = profile.peaks
    figure, (left, right) = panels(2, width=6.2, height=5.2)
    points = [(model, cause, total) for model in profile.models for cause, total in _products(model)]
    low = min([total.intensity for _, _, total in points] + [peaks.ridge]) / 2
    high = max([total.intensity for _, _, total in points] + [peaks.ridge]) * 2
    ceiling = [(x, min(peaks.macs_per_second, x * peaks.bytes_per_second) / 1e9) for x in (low, peaks.ridge, high)]
    left.plot(*zip(*ceiling, strict=True), color="black", linewidth=1.4)
    left.annotate(
        f"{peaks.macs_per_second / 1e9:.3g} GMAC/s", ceiling[2], fontsize=7, ha="right", va="bottom", color="black"
    )
    left.axvline(peaks.ridge, color="#999999", linewidth=0.8, linestyle=":")
    for model, cause, total in points:
        left.scatter(
            total.intensity,
            total.macs_per_second / 1e9,
            s=20 + 500 * total.ms / model.wall_ms,
            marker=_MARKERS[cause],
            color=_colour(profile, model),
            alpha=0.75,
            linewidths=0,
        )
    left.set_xscale("log")
    left.set_yscale("log")
    for axis in (left.xaxis, left.yaxis):
        plain_log_ticks(axis)
    left.set_xlabel("MACs per byte moved")
    left.set_ylabel("GMAC per second")
    for cause in dict.fromkeys(cause for _, cause, _ in points):
        left.scatter([], [], marker=_MARKERS[cause], color="#666666", s=30, label=CAUSES[cause])
    if points:
        left.legend(fontsize=7, frameon=False, loc="lower right")
    for model in profile.models:
        rates = [(kind, total) for kind in MEMORY_CLASSES if (total := _counted(model, kind)).bytes_moved]
        right.scatter(
            [total.bytes_per_second / 1e9 for _, total in rates],
            [MEMORY_CLASSES.index(kind) for kind, _ in rates],
            s=[20 + 500 * total.ms / model.wall_ms for _, total in rates],
            color=_colour(profile, model),
            alpha=0.75,
            linewidths=0,
        )
        right.scatter([], [], s=30, color=_colour(profile, model), label=profile.name_of(model))
    right.axvline(peaks.bytes_per_second / 1e9, color="black", linewidth=1.4)
    right.set_xscale("log")
    plain_log_ticks(right.xaxis)
    right.set_yticks(range(len(MEMORY_CLASSES)), MEMORY_CLASSES, fontsize=8)
    right.set_ylim(len(MEMORY_CLASSES) - 0.5, -0.5)
    right.set_xlabel("GB per second read and written; the line: copying large memory")
    right.legend(fontsize=7, frameon=False, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return figure


def _products(model: ModelProfile) -> list[tuple[str, Sum]]:
    sums = model.by(lambda operator: operator.cause)
    return [
        (cause, total)
        for cause, total in sums.items()
        if cause in COMPUTING and total.num_macs and total.ms >= _SHOWN * model.operators_ms
    ]


def _counted(model: ModelProfile, kind: str) -> Sum:
    return sum_of(o for o in model.operators if o.kind == kind and o.bytes_moved)


def places_chart(model: ModelProfile, rows: Mapping[str, Sequence[Operator]]) -> Figure:
    """Milliseconds of each part of a network, stacked by class.

    Args:
        model: The network.
        rows: Part to its operators, in order.
    """
    figure, (panel,) = panels(1, width=8.6, height=1.3 + 0.24 * len(rows))
    starts = [0.0] * len(rows)
    for kind in CLASSES:
        values = [sum(o.ms for o in group if o.kind == kind) for group in rows.values()]
        if not any(values):
            continue
        panel.barh(range(len(rows)), values, left=starts, height=0.75, color=CLASS_COLOURS[kind], label=kind)
        starts = [start + value for start, value in zip(starts, values, strict=True)]
    panel.set_yticks(range(len(rows)), list(rows), fontsize=7)
    panel.set_ylim(len(rows) - 0.4, -0.6)
    panel.set_xlabel("milliseconds in operators")
    panel.legend(fontsize=7, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


def _colour(profile: Profile, model: ModelProfile) -> str:
    return SERIES[profile.models.index(model) % len(SERIES)]
