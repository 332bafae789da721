"""A profile as a report: sentences, tables, pictures, record."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

from effvit.analysis.profiling.causes import CAUSES, COMPUTING
from effvit.analysis.profiling.charts import places_chart, roofline_chart, shares_chart
from effvit.analysis.profiling.findings import costs_of, findings
from effvit.analysis.profiling.places import blocks, stages
from effvit.analysis.profiling.records import (
    MEMORY_CLASSES,
    ModelProfile,
    Operator,
    Profile,
    Sum,
    digits,
    pattern,
    short,
    sum_of,
)
from effvit.analysis.report import Chart, Report, Table
from effvit.environment import environment
from effvit.operators import CLASSES, PRODUCTS

PUBLISHED_PRODUCT_SHARES = {"swin_tiny": 44.9, "deit_tiny": 32.2}
"""Percent of the run time that the paper's Fig. 2 gives to tensor multiplication: start of the name -> share."""
_NUM_LAYERS = 8
"""Kinds of layers told of each model."""
_ALL = 0.999
"""Share of the MACs found from which on nothing is said to be missing."""
_DISTURBED = 1.15
"""Wall over processor time from which on somebody else used the processor."""


def profile_report(profile: Profile, *, command: str = "") -> Report:
    """Say what a profile found.

    Args:
        profile: What `effvit.analysis.profiling.profiler.profile` gave.
        command: The command as typed, for the record.
    """
    published = {model.label: share for model in profile.models if (share := _published(model)) is not None}
    eager = [model for model in profile.models if not model.is_compiled]
    tables = [_shares_table(profile, published), _causes_table(profile)]
    tables += [_layers_table(model, profile.name_of(model)) for model in profile.models]
    tables += [_stages_table(model, profile.name_of(model)) for model in eager]
    tables += [_heads_table(model, profile.name_of(model)) for model in eager if model.heads()]
    charts = [
        Chart(
            name="shares",
            title="Time by class of operators",
            caption="Wall time of a pass, measured without the profiler, divided as the profiler saw it."
            + (" The black mark is the paper's share of products (Fig. 2, a V100)." if published else ""),
            draw=functools.partial(shares_chart, profile, published),
        ),
        Chart(
            name="roofline",
            title="How near the operators come to this machine's limits",
            caption="Left: products by kind, under the measured limits; right: what multiplies nothing. The larger a"
            " mark, the more of the time it takes. Above the line of memory are operands that the caches held.",
            draw=functools.partial(roofline_chart, profile),
        ),
    ]
    for number, model in enumerate(eager, 1):
        charts.append(
            Chart(
                name=f"blocks-{number}",
                title=f"Time along {profile.name_of(model)}",
                caption="From the first to the last part of the network.",
                draw=functools.partial(places_chart, model, blocks(model)),
            )
        )
    return Report(
        kind="profile",
        title="Where the time goes",
        conditions=_conditions(profile),
        findings=findings(profile),
        tables=tuple(tables),
        charts=tuple(charts),
        record={"analysis": "profile", "command": command, "environment": environment(), **_record(profile)},
    )


def _conditions(profile: Profile) -> str:
    first = profile.models[0]
    sizes = list(dict.fromkeys(f"{model.input_size[1]} x {model.input_size[2]}" for model in profile.models))
    threads = f", {profile.num_threads} thread{'s' * (profile.num_threads != 1)}" if profile.device == "cpu" else ""
    form = "compiled by torch.compile" if first.is_compiled else "eager"
    text = (
        f"{profile.device}{threads}, {first.dtype}, {form}, batch {first.batch_size}, {', '.join(sizes)} pixels."
        " Times are the shares that torch's profiler saw, scaled to the wall time measured without it. The machine's"
        f" limits: {profile.peaks.how[:1].lower()}{profile.peaks.how[1:]}"
    )
    disturbed = max(model.timing.latency_ms / model.timing.cpu_ms for model in profile.models)
    if profile.device == "cpu" and disturbed > _DISTURBED:
        text += (
            f" The machine was busy with something else: wall time is up to {disturbed:.1f} times the processor time."
            " Long operators then look longer than they are, and the limits lower: measure again when it is quiet."
        )
    return text


def _published(model: ModelProfile) -> float | None:
    name = short(model.label)
    return next((share for start, share in PUBLISHED_PRODUCT_SHARES.items() if name.startswith(start)), None)


def _record(profile: Profile) -> dict[str, object]:
    record = profile.to_dict()
    for values, model in zip(record["models"], profile.models, strict=True):
        values["published_product_share"] = _published(model)
        for level, rows in (("stages", stages(model)), ("blocks", blocks(model))):
            values[level] = {name: {"ms": sum_of(group).ms, **_by_class(group)} for name, group in rows.items()}
    record["findings"] = list(findings(profile))
    return record


def _by_class(group: Sequence[Operator]) -> dict[str, float]:
    return {kind: ms for kind in CLASSES if (ms := sum(o.ms for o in group if o.kind == kind))}


def _shares_table(profile: Profile, published: Mapping[str, float]) -> Table:
    kinds = [kind for kind in CLASSES if any(model.shares[kind] for model in profile.models)]
    paper = ("paper's products %",) if published else ()
    rows = []
    for model in profile.models:
        row = [profile.name_of(model), f"{model.images_per_second:.1f}", digits(model.wall_ms)]
        row += [_percent(model.shares[kind]) for kind in kinds]
        row += [_percent(model.memory_share), _percent(model.below_ridge_share(profile.peaks))]
        row.append(_percent(model.between_share))
        if published:
            row.append(f"{published[model.label]:.1f}" if model.label in published else "")
        rows.append(tuple(row))
    unclassified = dict.fromkeys(name for model in profile.models for name in model.unclassified)
    lost = [
        f"{_percent(1 - model.found_share)} % of the MACs of {profile.name_of(model)}"
        for model in profile.models
        if model.found_share < _ALL
    ]
    return Table(
        title="Time by class of operators",
        columns=(
            *("model", "images/s", "ms"),
            *(f"{kind} %" for kind in kinds),
            *("memory-bound classes %", "below the ridge %", "no operator %", *paper),
        ),
        rows=tuple(rows),
        caption="Classes are shares of the operators' time and add up to 100. Memory-bound classes, as in the paper:"
        f" {', '.join(MEMORY_CLASSES)}. Below the ridge: operators with fewer than {digits(profile.peaks.ridge)} MACs"
        " per byte, whatever their class. No operator: share of the wall time."
        + (f" Of no class: {', '.join(unclassified)}." if unclassified else "")
        + (f" In kernels that nobody counted: {', '.join(lost)}." if lost else ""),
    )


def _causes_table(profile: Profile) -> Table:
    costs = [costs_of(model) for model in profile.models]
    none = Sum(ms=0, num_calls=0, num_macs=0, bytes_moved=0)

    def shares(cause: str) -> list[float]:
        pairs = zip(costs, profile.models, strict=True)
        return [found.get(cause, none).ms / model.wall_ms for found, model in pairs]

    rows = sorted(((cause, shares(cause)) for cause in CAUSES), key=lambda row: -max(row[1]))
    return Table(
        title="What the time is spent on",
        columns=("% of the wall time", *map(profile.name_of, profile.models)),
        rows=tuple((CAUSES[cause], *map(_percent, values)) for cause, values in rows if max(values) >= 0.0005),
        caption="Each column adds up to 100.",
    )


def _layers_table(model: ModelProfile, name: str) -> Table:
    sums = model.by(lambda operator: (pattern(operator.module), operator.cause))
    largest = sorted(sums.items(), key=lambda item: -item[1].ms)[:_NUM_LAYERS]
    rows = []
    for (module, cause), total in largest:
        rate = digits(total.macs_per_second / 1e9) if cause in COMPUTING and total.num_macs else ""
        moved = digits(total.bytes_per_second / 1e9) if total.bytes_moved else ""
        intensity = f"{total.intensity:.1f}" if total.bytes_moved else ""
        share = _percent(total.ms / model.wall_ms)
        calls = str(total.num_calls or "")
        rows.append((module, CAUSES[cause], calls, digits(total.ms), share, intensity, rate, moved))
    return Table(
        title=f"Largest layers of {name}",
        columns=("where", "what", "calls", "ms", "% of the wall time", "MACs/byte", "GMAC/s", "GB/s"),
        rows=tuple(rows),
        caption="* stands for every number: the same layer of all blocks.",
        num_text_columns=2,
    )


def _stages_table(model: ModelProfile, name: str) -> Table:
    rows = []
    for stage, group in stages(model).items():
        total = sum_of(group)
        moving = sum(o.ms for o in group if o.kind in MEMORY_CLASSES)
        products = [operator for operator in group if operator.kind == PRODUCTS]
        rows.append(
            (
                stage,
                digits(total.ms),
                _percent(total.ms / model.wall_ms),
                _percent(total.num_macs / max(model.num_macs, 1)),
                digits(sum_of(products).macs_per_second / 1e9) if total.num_macs else "",
                _percent(moving / total.ms if total.ms else 0.0),
            )
        )
    return Table(
        title=f"{name} by stage",
        columns=("stage", "ms", "% of the wall time", "% of the MACs", "GMAC/s of products", "memory-bound classes %"),
        rows=tuple(rows),
    )


def _heads_table(model: ModelProfile, name: str) -> Table:
    heads = model.heads()
    blocks_of: dict[str, list[float]] = {}
    for head, total in heads.items():
        blocks_of.setdefault(head.partition(" head ")[0], []).append(total.ms)
    count = max(map(len, blocks_of.values()))
    rows = []
    for block, times in blocks_of.items():
        cells = [digits(time) for time in times] + [""] * (count - len(times))
        parent, _, own = block.rpartition(".")
        attention = parent if parent and not own.isdecimal() else block  # a mixer's windows lie around it, a list not
        whole = sum(o.ms for o in model.operators if f"{o.module}.".startswith(f"{attention}."))
        rows.append((block, *cells, digits(whole)))
    share = sum(total.ms for total in heads.values()) / model.wall_ms
    return Table(
        title=f"Heads of {name}",
        columns=("attention", *(f"head {index + 1} ms" for index in range(count)), "whole attention ms"),
        rows=tuple(rows),
        caption="A head: from the end of the one before it to the end of its own second product. All"
        f" {len(heads)} heads, which run one after the other, take {share:.0%} of the wall time.",
    )


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"
