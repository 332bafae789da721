"""The pictures of an ablation study: Table 6 as dots, Figure 7 as curves, each beside the paper's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from effvit.analysis.ablations import BASE, BASE_ON_AXIS, Ablation
from effvit.figures import OURS, THEIRS, panels
from effvit.studies.ablation import AblationStudy, Version
from effvit.studies.ablation_speed import Speed
from effvit.studies.ablation_statistics import chance, difference

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Value = Callable[[Version], float | None]


def draw_table6(study: AblationStudy) -> Figure:
    """A line for each row: accuracy over the base's, and speed, as far as they are known."""
    columns: list[tuple[str, float, Value, Callable[[Ablation], float | None]]] = []
    if study.budget is not None:
        columns.append(("top-1 over row 1, points", 0.0, lambda v: _points(study, v), lambda row: row.reported_points))
    speeds = study.speeds
    if speeds is not None:
        eager, onnx = speeds.eager, speeds.onnx
        columns.append(("speed in torch over row 1", 1.0, lambda v: _over(eager, v), _reported_v100))
        columns.append(("speed in ONNX Runtime over row 1", 1.0, lambda v: _over(onnx, v), _reported_onnx))
    rows = list({version.ablation.key: version.ablation for version in study.versions}.values())
    rows = [row for row in rows if row.key != BASE.key]
    figure, axes = panels(len(columns), width=4.6, height=1.4 + 0.3 * len(rows))
    places = {row.key: -index for index, row in enumerate(rows)}
    for index, (label, base, ours, reported) in enumerate(columns):
        panel = axes[index]
        panel.axvline(base, color="black", linewidth=0.8)
        if index == 0 and study.budget is not None and (limit := chance(study)) is not None:
            panel.axvspan(-limit.limit, limit.limit, color=OURS, alpha=0.08, linewidth=0, label="chance alone")
        _dots(panel, study.versions, places, ours, rows, reported)
        panel.set(xlabel=label, yticks=list(places.values()), ylim=(-len(rows) + 0.4, 0.6))
        panel.set_yticklabels(
            [row.text if row.axis else f"{row.text}  {row.key}" for row in rows] if index == 0 else []
        )
        if index == 0:
            figure.legend(*panel.get_legend_handles_labels(), loc="outside upper center", ncols=4, frameon=False)
    return figure


def _dots(
    panel: Axes,
    versions: Sequence[Version],
    places: dict[str, int],
    ours: Value,
    rows: Sequence[Ablation],
    reported: Callable[[Ablation], float | None],
) -> None:
    theirs = [(value, places[row.key]) for row in rows if (value := reported(row)) is not None]
    panel.plot(*_columns(theirs), "D", color=THEIRS, markersize=5, label="the paper")
    for rescaled, label in ((False, "at the base's widths"), (True, "at the base's speed")):
        own = [v for v in versions if v.rescaled is rescaled and v.ablation.key in places]
        found = [(value, places[v.ablation.key]) for v in own if (value := ours(v)) is not None]
        fill = OURS if rescaled else "none"
        panel.plot(*_columns(found), "o", color=OURS, markerfacecolor=fill, markersize=7, label=label)


def draw_figure7(study: AblationStudy) -> Figure:
    """Top-1 over the base's along each axis, ours and the paper's."""
    axes_there = [axis for axis in BASE_ON_AXIS if any(v.ablation.axis == axis for v in study.versions)]
    figure, axes = panels(len(axes_there), width=4.6, height=3.6)
    for panel, axis in zip(axes, axes_there, strict=True):
        on_axis = [version for version in study.versions if version.ablation.axis == axis]
        points = {version.ablation.value: version.ablation.reported_points for version in on_axis}
        theirs = sorted([*points.items(), (BASE_ON_AXIS[axis], 0.0)])
        panel.plot(*_columns(theirs), "D-", color=THEIRS, markersize=5, label="the paper")
        for rescaled, label, style in ((False, "at the base's widths", "--"), (True, "at the base's speed", "-")):
            found = [
                (version.ablation.value, value)
                for version in on_axis
                if version.rescaled is rescaled and (value := _points(study, version)) is not None
            ]
            if found:
                fill = OURS if rescaled else "none"
                ours = sorted([*found, (BASE_ON_AXIS[axis], 0.0)])
                panel.plot(*_columns(ours), "o", linestyle=style, color=OURS, markerfacecolor=fill, label=label)
        if (limit := chance(study)) is not None:
            panel.axhspan(-limit.limit, limit.limit, color=OURS, alpha=0.08, linewidth=0, label="chance alone")
        panel.axvline(BASE_ON_AXIS[axis], color="black", linewidth=0.8)
        panel.set(xlabel=axis, ylabel="top-1 over row 1, points")
        if axis.startswith("Q"):
            ticks = [value for value, _ in theirs]
            panel.set_xscale("log", base=2)
            panel.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=4, frameon=False)
    return figure


def _points(study: AblationStudy, version: Version) -> float | None:
    found = difference(study, version)
    return None if found is None else found.mean


def _over(speeds: dict[str, Speed], version: Version) -> float | None:
    speed = speeds.get(version.config.name)
    return None if speed is None else speed.over_base.median


def _reported_v100(ablation: Ablation) -> float | None:
    own, base = ablation.reported.v100_images_per_second, BASE.reported.v100_images_per_second
    return None if own is None or base is None else own / base


def _reported_onnx(ablation: Ablation) -> float | None:
    own, base = ablation.reported.onnx_images_per_second, BASE.reported.onnx_images_per_second
    return None if own is None or base is None else own / base


def _columns(pairs: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [first for first, _ in pairs], [second for _, second in pairs]
