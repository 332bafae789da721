"""A plan in words, tables and charts: what is cut where, and why there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from effvit.analysis.pruning.charts import RATIO_KINDS, importance_over_cost, ratios_by_place
from effvit.analysis.pruning.importance import Importance
from effvit.analysis.pruning.knobs import KIND_NAMES, Knob
from effvit.analysis.pruning.plan import Plan
from effvit.analysis.report import Chart, Report, Table

if TYPE_CHECKING:
    from effvit.analysis.pruning.plan import Spent

HOW_SCORED = (
    "Importance is the change of the loss without a channel to first order: gradient x weight summed with its sign over"
    " the weights that read the channel (for Q/K and V, over the affine map behind what computes it), absolute per"
    " batch, averaged over batches, in evaluation mode."
)


class Trial(NamedTuple):
    """How the full and the pruned network do on held-out pictures, before any fine-tuning."""

    full: tuple[float, float, int]
    """Mean loss, top-1 as a share, pictures."""
    pruned: tuple[float, float, int]
    """The same."""


def pruning_report(
    plan: Plan,
    found: Importance,
    *,
    label: str,
    weights: str,
    conditions: str,
    record: Mapping[str, Any],
    trial: Trial | None = None,
) -> Report:
    """Everything that is to be said of a plan.

    Args:
        plan: What to remove.
        found: The scores it rests on.
        label: What the network is called.
        weights: Where its weights come from.
        conditions: Pictures, batch size, size: what the scores were found with.
        record: `command`, `environment` and what else belongs into the record.
        trial: How both networks do on held-out pictures.
    """
    charts = [
        Chart(
            name="ratios",
            title="What stays, place by place",
            caption="Channels over the width of the layer around them, as in Fig. 5: grey before, red after. Q/K and V"
            " over all heads together.",
            draw=lambda: ratios_by_place(plan),
        ),
        Chart(
            name="importance",
            title="What each saving costs",
            caption="Each point is one step of the plan: what is lost of all importance against what the network takes"
            " after it. Colours are kinds of channels. The steeper, the dearer.",
            draw=lambda: importance_over_cost(plan),
        ),
    ]
    return Report(
        kind="prune",
        title=f"What {label} could do without",
        conditions=conditions,
        findings=tuple(_findings(plan, weights, trial)),
        tables=(_totals(plan), _places(plan), _kinds(plan)),
        charts=tuple(charts),
        record={
            **record,
            "analysis": "prune",
            "model": label,
            "weights": weights,
            "scores": {
                "num_batches": found.num_batches,
                "num_pictures": found.num_pictures,
                "loss": found.loss,
                "by_knob": {name: values.tolist() for name, values in found.scores.items()},
            },
            "plan": plan.to_dict(),
            "before_fine_tuning": None
            if trial is None
            else {
                name: dict(zip(("loss", "top1", "num_pictures"), values, strict=True))
                for name, values in trial._asdict().items()
            },
        },
    )


def _findings(plan: Plan, weights: str, trial: Trial | None) -> list[str]:
    lost = plan.steps[-1].lost / plan.total_importance if plan.total_importance else 0.0
    lines = [
        f"The plan meets {plan.limit}: {_millions(plan.full_cost.macs)} -> {_millions(plan.cost.macs)} M MACs"
        f" ({plan.cost.macs / plan.full_cost.macs:.1%}), {_millions(plan.full_cost.params)} ->"
        f" {_millions(plan.cost.params)} M parameters ({plan.cost.params / plan.full_cost.params:.1%}), with {lost:.2%}"
        " of all importance lost."
    ]
    if plan.latency_ms is not None:
        lines.append(
            f"Measured in turns: {plan.latency_ms[1]:.3g} ms for the full network, {plan.latency_ms[0]:.3g} ms for the"
            f" pruned one ({plan.latency_ms[0] / plan.latency_ms[1]:.1%})."
        )
    if trial is not None:
        lines.append(
            f"Before any fine-tuning, on {trial.full[2]} held-out pictures: top-1 {trial.full[1]:.1%} ->"
            f" {trial.pruned[1]:.1%}, loss {trial.full[0]:.3f} -> {trial.pruned[0]:.3f}."
        )
    by_kind = _by_kind(plan)
    saved = plan.full_cost.macs - plan.cost.macs
    kind = max(by_kind, key=lambda name: by_kind[name][0])
    lines.append(
        f"Most is saved in {KIND_NAMES[kind]}: {by_kind[kind][0] / saved:.0%} of the saved MACs for"
        f" {_share(by_kind[kind][1], plan.steps[-1].lost)} of the lost importance."
        if saved
        else "No multiply-adds are saved."
    )
    cut = [(knob, plan.sizes[knob.name] / knob.size) for knob in plan.knobs if plan.sizes[knob.name] < knob.size]
    for knob, share in sorted(cut, key=lambda pair: pair[1])[:3]:
        lines.append(
            f"{knob.place}: {KIND_NAMES[knob.kind]} {knob.size} -> {plan.sizes[knob.name]} ({share:.0%} stay)."
            + (" It is at the smallest size allowed." if knob.below(plan.sizes[knob.name]) is None else "")
        )
    whole = [knob for knob in plan.knobs if plan.sizes[knob.name] == knob.size]
    could = [knob for knob in whole if knob.below(knob.size) is not None]
    if could:
        lines.append(f"Left whole, because a step there would have lost more: {_counted(could, plan)}.")
    if fixed := [knob for knob in whole if knob.below(knob.size) is None]:
        lines.append(f"Left whole, because they are as small as a step or the least share: {_counted(fixed, plan)}.")
    lines += [f"Not pruned, since it could not be exact: {reason}." for reason in plan.left_alone]
    if weights == "random":
        lines.append("The weights are random: the scores say nothing about a trained network.")
    lines.append(HOW_SCORED)
    lines.append("Scores are first order: they say little about large cuts. Fine-tune, and evaluate, what is left.")
    return lines


def _counted(knobs: Sequence[Knob], plan: Plan) -> str:
    """Kinds of some knobs, with how many there are of how many in all."""
    counts, every = Counter(knob.kind for knob in knobs), Counter(knob.kind for knob in plan.knobs)
    return ", ".join(f"{KIND_NAMES[kind]} ({counts[kind]} of {every[kind]} places)" for kind in counts)


def _totals(plan: Plan) -> Table:
    rows = [
        (
            "MACs, M",
            _millions(plan.full_cost.macs),
            _millions(plan.cost.macs),
            _left(plan.cost.macs, plan.full_cost.macs),
        ),
        (
            "parameters, M",
            _millions(plan.full_cost.params),
            _millions(plan.cost.params),
            _left(plan.cost.params, plan.full_cost.params),
        ),
    ]
    if plan.latency_ms is not None:
        pruned, full = plan.latency_ms
        rows.append(("latency, ms", f"{full:.3g}", f"{pruned:.3g}", _left(pruned, full)))
    return Table(title="The whole network", columns=("", "full", "pruned", "stays"), rows=tuple(rows))


def _places(plan: Plan) -> Table:
    spent = plan.spent()
    rows = []
    for knob in plan.knobs:
        size, cost, around = plan.sizes[knob.name], spent[knob.name], plan.surroundings[knob.name]
        rows.append(
            (
                knob.place,
                KIND_NAMES[knob.kind],
                _times(knob.size, knob.heads),
                _times(size, around.heads),
                f"{size / knob.size:.0%}",
                f"{knob.size * knob.heads / knob.width:.2f}" if knob.kind in RATIO_KINDS else "",
                f"{size * around.heads / around.width:.2f}" if knob.kind in RATIO_KINDS else "",
                f"{cost.macs / 1e6:.3g}",
                _share(cost.lost, plan.total_importance, 2) if cost.lost else "0",
            )
        )
    columns = (
        "place", "what", "full", "pruned", "stays", "ratio before", "after", "saves M MACs", "loses importance",
    )  # fmt: skip
    return Table(
        title="What is cut where",
        columns=columns,
        rows=tuple(rows),
        caption="Channels per head x heads where there are heads. Ratios are channels over the width of the layer"
        " around them, as in Fig. 5; a width that shrinks raises them. Importance as a share of all.",
        num_text_columns=2,
    )


def _kinds(plan: Plan) -> Table:
    saved, lost = plan.full_cost.macs - plan.cost.macs, plan.steps[-1].lost
    rows = []
    for kind, (macs, gone, kept, size) in _by_kind(plan).items():
        rows.append(
            (KIND_NAMES[kind], f"{kept / size:.0%}", f"{macs / 1e6:.3g}", _share(macs, saved), _share(gone, lost))
        )
    return Table(
        title="What is cut, by kind",
        columns=("what", "channels that stay", "saves M MACs", "of the saving", "of the loss"),
        rows=tuple(rows),
        caption="The loss of importance is what the plan pays for the saving: where its share is below the saving's,"
        " the network had more than it used.",
    )


def _by_kind(plan: Plan) -> dict[str, tuple[int, float, int, int]]:
    """Kind -> MACs saved, importance lost, channels kept, channels in all."""
    spent: dict[str, Spent] = plan.spent()
    result: dict[str, tuple[int, float, int, int]] = {}
    for knob in plan.knobs:
        macs, lost, kept, size = result.get(knob.kind, (0, 0.0, 0, 0))
        result[knob.kind] = (
            macs + spent[knob.name].macs,
            lost + spent[knob.name].lost,
            kept + plan.sizes[knob.name] * plan.surroundings[knob.name].heads,
            size + knob.size * knob.heads,
        )
    return result


def _times(size: int, heads: int) -> str:
    return f"{size} x {heads}" if heads > 1 else str(size)


def _millions(number: int) -> str:
    return f"{number / 1e6:.4g}"


def _left(after: float, before: float) -> str:
    return f"{after / before:.1%}"


def _share(part: float, whole: float, digits: int = 0) -> str:
    return f"{part / whole:.{digits}%}" if whole else "-"
