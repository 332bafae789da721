"""Pictures of a plan: the ratios of Fig. 5, and what each saving costs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from effvit.analysis.pruning.knobs import KIND_NAMES
from effvit.analysis.pruning.plan import Plan
from effvit.figures import OURS, SERIES, panels

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_BEFORE = "#b8b8b8"
RATIO_KINDS = ("qk", "value", "ffn", "merge")
"""Kinds that are told as a ratio to the width of the layer around them, as in Fig. 5."""
_SHOWN = {"qk": "Q/K", "value": "V", "ffn": "FFN", "width": "width"}


def ratios_by_place(plan: Plan) -> Figure:
    """A panel for each kind of channels: ratio to the width around them, before and after, over the places.

    The stages' widths, where they can change, are against the full ones.
    """
    kinds = [kind for kind in _SHOWN if any(knob.kind == kind for knob in plan.knobs)]
    kinds = kinds or sorted({knob.kind for knob in plan.knobs})
    most = max(sum(knob.kind == kind for knob in plan.knobs) for kind in kinds)
    figure, axes = panels(len(kinds), width=max(2.6, min(4.0, 12 / len(kinds))), height=1.6 + 0.24 * most)
    for panel, kind in zip(axes, kinds, strict=True):
        knobs = [knob for knob in plan.knobs if knob.kind == kind]
        for row, knob in enumerate(knobs):
            alone = kind not in RATIO_KINDS  # against its own full size
            around, channels = plan.surroundings[knob.name], knob.size * knob.heads
            before = channels / (channels if alone else knob.width)
            after = plan.sizes[knob.name] * around.heads / (channels if alone else around.width)
            panel.barh(row, before, height=0.72, color=_BEFORE, label="full" if row == 0 else None)
            panel.barh(row, after, height=0.36, color=OURS, label="pruned" if row == 0 else None)
            panel.annotate(
                f"{after:.2f}",
                (max(before, after), row),
                xytext=(3, 0),
                textcoords="offset points",
                fontsize=7,
                va="center",
            )
        panel.set_yticks(range(len(knobs)), [knob.place for knob in knobs], fontsize=7)
        panel.invert_yaxis()
        panel.margins(x=0.14)
        panel.set_title(_SHOWN.get(kind, KIND_NAMES[kind]), fontsize=10)
        panel.set_xlabel("of the full one" if kind not in RATIO_KINDS else "channels / width", fontsize=8)
        panel.tick_params(axis="x", labelsize=8)
        panel.grid(visible=False, axis="y")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    return figure


def importance_over_cost(plan: Plan) -> Figure:
    """Share of all importance lost over what the network takes, a dot per step in the colour of its kind."""
    figure, (panel,) = panels(1, width=6.4, height=3.8)
    of_params = plan.limit.kind == "params"
    kinds = {knob.name: knob.kind for knob in plan.knobs}
    total = plan.total_importance or 1.0
    points = [
        (step.cost.params if of_params else step.cost.macs, 100 * step.lost / total, kinds.get(step.knob, ""))
        for step in plan.steps
    ]
    panel.plot([x / 1e6 for x, _, _ in points], [y for _, y, _ in points], color="#d0d0d0", linewidth=1, zorder=1)
    for colour, kind in zip(SERIES, KIND_NAMES, strict=True):
        chosen = [(x / 1e6, y) for x, y, own in points if own == kind]
        if chosen:
            panel.scatter(
                [x for x, _ in chosen], [y for _, y in chosen], s=10, color=colour, label=KIND_NAMES[kind], zorder=2
            )
    panel.invert_xaxis()
    panel.set_xlabel("million parameters" if of_params else "million MACs")
    panel.set_ylabel("importance lost, % of all")
    if len(points) > 1:
        panel.legend(fontsize=8, frameon=False)
    return figure
