"""Pictures of costs: bytes by class of operators, work and memory along a network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from effvit.analysis.cost import Costs
from effvit.analysis.cost_parts import parts
from effvit.figures import OURS, THEIRS, panels
from effvit.operators import CLASS_COLOURS, CLASSES, PRODUCTS, class_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LABELLED = 4.0
"""Percent from which on a part of a bar carries its number."""


def bytes_by_class(costs: Costs) -> dict[str, int]:
    """Bytes read and written by each class of operators, in the order of charts; what multiplies is a product."""
    moved = dict.fromkeys(CLASSES, 0)
    for call in costs.calls:
        moved[PRODUCTS if call.num_macs else class_of(call.operator)] += call.bytes_moved
    return moved


def bytes_chart(models: Mapping[str, Costs]) -> Figure:
    """Shares of the bytes by class, a bar for each model; beside it MACs and megabytes of a picture."""
    figure, (left, right) = panels(2, width=6.2, height=1.7 + 0.4 * len(models))
    places = range(len(models))
    moved = [bytes_by_class(costs) for costs in models.values()]
    starts = [0.0] * len(models)
    for kind in CLASSES:
        values = [100 * counts[kind] / max(sum(counts.values()), 1) for counts in moved]
        if any(values):
            bars = left.barh(places, values, left=starts, height=0.7, label=kind, color=CLASS_COLOURS[kind])
            texts = [f"{value:.0f}" if value >= _LABELLED else "" for value in values]
            left.bar_label(bars, labels=texts, label_type="center", fontsize=7, color="white")
            starts = [start + value for start, value in zip(starts, values, strict=True)]
    left.set_xlim(0, 100)
    left.set_xlabel("% of the bytes moved")
    left.set_yticks(places, list(models), fontsize=8)
    if any(starts):
        left.legend(fontsize=7, frameon=False, ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    megabytes = [costs.bytes_moved / costs.batch_size / 1e6 for costs in models.values()]
    bars = right.barh(places, megabytes, height=0.7, color=THEIRS)
    texts = [
        f"{value:.3g} MB, {costs.num_macs / costs.batch_size / 1e6:,.0f} M MACs"
        for value, costs in zip(megabytes, models.values(), strict=True)
    ]
    right.bar_label(bars, labels=texts, fontsize=7, padding=3)
    right.set_yticks(places, [""] * len(models))
    right.set_xlabel("MB moved per picture")
    right.margins(x=0.35)
    for panel in (left, right):
        panel.invert_yaxis()
        panel.grid(visible=False, axis="y")
    return figure


def parts_chart(costs: Costs) -> Figure:
    """Shares of MACs and of bytes of each part, in the order of execution."""
    rows, total = parts(costs), costs.total()
    figure, (panel,) = panels(1, width=7.5, height=1.2 + 0.26 * len(rows))
    places = range(len(rows))
    for offset, label, colour, values in (
        (-0.2, "MACs", THEIRS, [100 * row.cost.num_macs / max(total.num_macs, 1) for row in rows]),
        (0.2, "bytes moved", OURS, [100 * row.cost.bytes_moved / max(total.bytes_moved, 1) for row in rows]),
    ):
        panel.barh([place + offset for place in places], values, height=0.38, label=label, color=colour)
    panel.set_yticks(places, [row.label for row in rows], fontsize=7)
    panel.invert_yaxis()
    panel.grid(visible=False, axis="y")
    panel.set_xlabel("% of the network")
    if rows:
        panel.legend(fontsize=8, frameon=False)
    return figure
