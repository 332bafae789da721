"""Costs as a report: what each model needs, which classes of operators move the bytes, where along the network."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence

from effvit.analysis.cost import Cost, Costs
from effvit.analysis.cost_charts import bytes_by_class, bytes_chart, parts_chart
from effvit.analysis.cost_parts import Part, parts
from effvit.analysis.report import Chart, Report, Table
from effvit.environment import environment
from effvit.errors import ConfigError
from effvit.operators import CLASSES, PRODUCTS, class_of

_NAMED = 3
"""How many of the largest a sentence names."""
_NUM_STAGES = 8
"""A network is cut once into so many parts or few more, which are its stages."""
_WEIGHTY = 0.1
"""How large the weights must be, over the bytes moved, to be worth a sentence."""


def costs_report(models: Mapping[str, Costs], *, command: str = "") -> Report:
    """Say what models cost.

    Args:
        models: Label to costs, see `count_costs`.
        command: The command as typed, for the record.

    Raises:
        ConfigError: If there is no model.
    """
    if not models:
        raise ConfigError("a report of costs needs at least one model")
    tables = [_models_table(models), _classes_table(models)]
    charts = [
        Chart(
            name="bytes",
            title="Bytes by class of operators",
            caption="What each class reads and writes, were nothing fused and nothing kept in a cache.",
            draw=functools.partial(bytes_chart, models),
        )
    ]
    for number, (label, costs) in enumerate(models.items(), 1):
        stages, modules = parts(costs, max_rows=_NUM_STAGES), parts(costs)
        tables.append(_parts_table(f"{label}, by stage", costs, stages))
        if modules != stages:
            tables.append(_parts_table(f"{label}, by module", costs, modules))
        tables.append(_operators_table(label, costs))
        charts.append(
            Chart(
                name=f"parts-{number}",
                title=f"Work and memory along {label}",
                caption="Where the share of the bytes is well above the share of the MACs, memory is waited for first.",
                draw=functools.partial(parts_chart, costs),
            )
        )
    return Report(
        kind="costs",
        title="What the models cost",
        conditions=_conditions(models.values()),
        findings=tuple(finding for label, costs in models.items() for finding in findings(label, costs)),
        tables=tuple(tables),
        charts=tuple(charts),
        record={
            "analysis": "costs",
            "command": command,
            "environment": environment(),
            "models": [
                {"label": label, **costs.to_dict(), "bytes_by_class": bytes_by_class(costs)}
                for label, costs in models.items()
            ],
        },
    )


def findings(label: str, costs: Costs) -> list[str]:
    """What stands out in the costs of one model, in sentences; what was not counted among them."""
    total = costs.total()
    moved = max(total.bytes_moved, 1)
    others = {kind: count for kind, count in bytes_by_class(costs).items() if kind != PRODUCTS and count}
    said = [
        f"{_millions(total.num_macs)} M MACs and {_millions(total.bytes_moved)} MB moved, {total.intensity:.1f} MACs "
        f"per byte; {_percent(sum(others.values()), moved)} % of the bytes are moved by operators that multiply "
        "nothing" + (f" ({_largest(others, moved)})" if others else "")
    ]
    depthwise = [call for call in costs.calls if call.is_depthwise]
    if depthwise and total.num_macs:
        macs, bytes_moved = (sum(getattr(call, name) for call in depthwise) for name in ("num_macs", "bytes_moved"))
        said.append(
            f"depth-wise convolutions do {_percent(macs, total.num_macs)} % of the MACs and move "
            f"{_percent(bytes_moved, moved)} % of the bytes"
        )
    weights = costs.num_params * costs.tensor_type.itemsize
    if _WEIGHTY * moved <= weights <= moved:  # more than is moved are not all read
        said.append(
            f"the weights take {_millions(weights)} MB, {_percent(weights, moved)} % of what is moved; "
            "a larger batch reads them once"
        )
    rows = {part.label: part.cost.bytes_moved for part in parts(costs)}
    if len(rows) > 1:
        said.append(f"most bytes are moved in {_largest(rows, moved)}")
    if costs.uncounted:
        names = ", ".join(f"{name} ({count})" for name, count in sorted(costs.uncounted.items()))
        said.append(f"NOT COUNTED, as they may multiply and no formula is known: {names}")
    if costs.reason:
        said.append(f"shapes alone were not enough, it ran on real tensors ({costs.traced_on}): {costs.reason}")
    return [f"{label}: {sentence.removesuffix('.')}." for sentence in said]


def _conditions(models: Iterable[Costs]) -> str:
    models = list(models)
    sizes = ", ".join(dict.fromkeys(f"{costs.input_size[1]} x {costs.input_size[2]}" for costs in models))
    batches = ", ".join(dict.fromkeys(str(costs.batch_size) for costs in models))
    dtypes = ", ".join(dict.fromkeys(costs.dtype for costs in models))
    return (
        f"Batch {batches}, {sizes} pixels, {dtypes}, evaluation mode; counted, not measured. Everything but the "
        "parameters is for the whole batch. MACs are those of convolutions, matrix products and attention; bytes are "
        "the operands and results of every operator, each once, nothing fused and nothing kept in a cache."
    )


def _models_table(models: Mapping[str, Costs]) -> Table:
    rows = []
    for label, costs in models.items():
        total = costs.total()
        rows.append(
            (
                label,
                f"{total.num_params / 1e6:.2f}",
                _millions(total.num_macs),
                f"{total.num_activations / 1e6:.2f}",
                _millions(total.bytes_read),
                _millions(total.bytes_written),
                f"{total.intensity:.1f}",
                str(total.num_calls - total.num_views),
                str(total.num_views),
                str(total.num_uncounted),
            )
        )
    columns = ("model", "params M", "MACs M", "activations M", "MB read", "MB written", "MACs/byte", "calls", "views")
    return Table(
        title="Models",
        columns=(*columns, "not counted"),
        rows=tuple(rows),
        caption="Calls of operators; views, which move nothing, apart. Activations: results of products, as in fvcore.",
    )


def _classes_table(models: Mapping[str, Costs]) -> Table:
    moved = {label: bytes_by_class(costs) for label, costs in models.items()}
    used = [kind for kind in CLASSES if any(counts[kind] for counts in moved.values())]
    return Table(
        title="Bytes by class of operators, percent",
        columns=("model", *used),
        rows=tuple(
            (label, *(_percent(counts[kind], max(sum(counts.values()), 1)) for kind in used))
            for label, counts in moved.items()
        ),
    )


def _parts_table(title: str, costs: Costs, rows: Sequence[Part]) -> Table:
    total = costs.total()
    return Table(
        title=title,
        columns=("module", "kind", "params", "MACs M", "MACs %", "MB moved", "bytes %", "MACs/byte", "calls"),
        rows=tuple(
            (
                part.label,
                part.cost.kind,
                "" if part.is_rest else f"{part.cost.num_params:,}",
                *_work(part.cost, total),
                str(part.cost.num_calls - part.cost.num_views),
            )
            for part in rows
        ),
        caption="Every call stands in one row; `(itself)` is what a module calls beside the modules in it.",
        num_text_columns=2,
    )


def _operators_table(label: str, costs: Costs) -> Table:
    total = costs.total()
    rows = [row for row in costs.by_operator() if row.num_views < row.num_calls]
    return Table(
        title=f"{label}, by operator",
        columns=("operator", "class", "calls", "MACs M", "MACs %", "MB moved", "bytes %", "MACs/byte"),
        rows=tuple(
            (
                row.name + " (not counted)" * bool(row.num_uncounted),
                PRODUCTS if row.num_macs else class_of(row.name),
                str(row.num_calls - row.num_views),
                *_work(row, total),
            )
            for row in rows
        ),
        caption=f"{total.num_views:,} further calls move nothing: views, and memory set aside.",
        num_text_columns=2,
    )


def _work(row: Cost, total: Cost) -> tuple[str, ...]:
    """MACs, their share, megabytes, their share, and MACs per byte."""
    return (
        _millions(row.num_macs),
        _percent(row.num_macs, max(total.num_macs, 1)),
        _millions(row.bytes_moved),
        _percent(row.bytes_moved, max(total.bytes_moved, 1)),
        f"{row.intensity:.1f}",
    )


def _largest(counts: Mapping[str, int], total: int) -> str:
    """The largest with their shares: `a 30 %, b 20 %`."""
    ranked = sorted(counts, key=lambda name: -counts[name])[:_NAMED]
    return ", ".join(f"{name} {_percent(counts[name], total)} %" for name in ranked)


def _millions(count: int) -> str:
    return f"{count / 1e6:,.1f}"


def _percent(part: int, total: int) -> str:
    return f"{100 * part / total:.1f}"
