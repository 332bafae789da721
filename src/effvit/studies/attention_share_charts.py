"""The pictures of Figure 3: accuracy and memory-bound share over the share of attention, a panel for each family."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import TYPE_CHECKING

from effvit.analysis.ratios.families import find_family
from effvit.figures import SERIES, panels
from effvit.studies.attention_share import Point, ShareStudy

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAPER_BEST = (20, 40)
"""Percent of attention at which the paper found its best accuracy (Sec. 2.1)."""


def draw_accuracy(study: ShareStudy) -> Figure:
    """Accuracy over the share of attention: the mean over the seeds as a line, each training as a dot."""
    return _draw(study, "top-1 %", lambda point: [100 * top1 for top1 in point.top1.values()])


def draw_memory(study: ShareStudy) -> Figure:
    """Memory-bound share of the time over the share of attention; the baseline as a dashed line."""
    figure = _draw(study, "memory-bound share of run time, %", lambda point: [100 * point.memory.share])
    for panel, name in zip(figure.axes, study.speeds, strict=True):
        share = 100 * study.baselines[name][1].share
        panel.axhline(share, color="#777777", linewidth=0.9, linestyle=":")
        place = {"xycoords": ("axes fraction", "data"), "ha": "right", "va": "bottom"}
        panel.annotate("baseline", (1, share), fontsize=8, color="#777777", **place)  # type: ignore[arg-type]
    return figure


def _draw(study: ShareStudy, label: str, values_of: Callable[[Point], list[float]]) -> Figure:
    figure, axes = panels(len(study.speeds), width=4.4, height=3.6)
    for panel, name in zip(axes, study.speeds, strict=True):
        family = find_family(name)
        panel.axvspan(*PAPER_BEST, color="#d99a2b", alpha=0.12, linewidth=0)
        panel.axvline(100 * family.num_attention / family.num_layers, color="#777777", linewidth=0.9, linestyle="--")
        curves = [(curve, points) for curve, points in study.curves() if curve.baseline.family == name]
        for colour, (curve, points) in zip(SERIES, curves, strict=False):
            known = [(100 * point.share, values) for point in points if (values := values_of(point))]
            means = [statistics.fmean(values) for _, values in known]
            panel.plot([share for share, _ in known], means, "o-", color=colour, label=f"{curve.speed:g}x the speed")
            for share, values in known:
                if len(values) > 1:
                    panel.plot([share] * len(values), values, ".", color=colour, alpha=0.5, markersize=5)
        panel.set(title=family.label, xlabel="attention layers, % of all", xlim=(-4, 104))
        panel.legend(frameon=False, fontsize=8)
    axes[0].set_ylabel(label)
    return figure
