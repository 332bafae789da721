"""The study of Figure 3 in words and tables, beside what the paper says, with what it can and cannot show."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator

from effvit.analysis.ratios.families import find_family
from effvit.analysis.report import Chart, Report, Table
from effvit.analysis.speed_meter import clock_for
from effvit.environment import machine
from effvit.studies.attention_share import Point, ShareStudy
from effvit.studies.attention_share_charts import PAPER_BEST, draw_accuracy, draw_memory
from effvit.studies.attention_share_curves import Curve
from effvit.studies.chance import CERTAINTY, sampling_variance

_PAPER_MEMORY = {("swin_tiny", 1.25): (20, 44.26)}
"""Family and speed -> percent of attention and the memory-bound percent the paper reports there (Sec. 2.1)."""


def share_report(study: ShareStudy) -> Report:
    """Everything that is said of a study.

    Args:
        study: From `study_attention_share`.
    """
    where = (
        f"Dashed: the share of the network as its authors made it; shaded: where the paper's networks were best,"
        f" {PAPER_BEST[0]} to {PAPER_BEST[1]} %."
    )
    charts = []
    if any(point.top1 for point in study.points):
        title = "Accuracy at equal speed over the share of attention"
        charts.append(Chart(name="accuracy", title=title, caption=where, draw=lambda: draw_accuracy(study)))
    caption = f"{where} Dotted: the baseline. Memory-bound: moving data, element-wise, normalisation, softmax."
    title = "Memory-bound share of the time over the share of attention"
    charts.append(Chart(name="memory", title=title, caption=caption, draw=lambda: draw_memory(study)))
    families = " and ".join(find_family(name).label for name in study.speeds)
    return Report(
        kind="ratios",
        title=f"How much attention: {families}",
        conditions=_conditions(study),
        findings=tuple(_findings(study)),
        tables=tuple(_table(study, curve, points) for curve, points in study.curves()),
        charts=tuple(charts),
        record=study.to_dict(),
    )


def _conditions(study: ShareStudy) -> str:
    how = study.speed_settings
    height, width = study.points[0].member.network.image_size
    machines = dict.fromkeys(machine(dict(found.environment)) for found in study.speeds.values())  # that measured
    parts = [*machines, f"{height} x {width} pixels"]
    if study.budget is not None:
        parts.append(str(study.budget))
    threads = "1 thread" if how.num_threads == 1 else f"{how.num_threads} threads"
    parts.append(
        f"speed on {how.device}, batch {how.batch_size}, {threads}, float32,"
        f" {clock_for(how.device, how.num_threads)} time, eager, attention step by step; ours in the deploy form"
    )
    return "; ".join(parts)


def _findings(study: ShareStudy) -> Iterator[str]:
    for curve, points in study.curves():
        yield from _accuracy(study, curve, points)
    for curve, points in study.curves():
        yield from _memory(curve, points)
    for name, found in study.speeds.items():
        worst = max((abs(member.achieved - 1) for member in found.members), default=0.0)
        yield (
            f"{find_family(name).label}: measured together, {found.builds} builds or more of {found.rounds} rounds,"
            f" every network has its speed within {worst:.1%}; the baseline against itself has"
            f" {found.control.median:.3f}x."
        )
    for point in study.points:
        for result in point.trained:
            if result.failure is not None:
                yield f"The training of {result.name} with seed {result.seed} failed: {result.failure}."
    if study.budget is None:
        yield "Nothing was trained: speed and memory alone. Accuracy needs pictures."
    else:
        yield (
            f"The paper trained on 1.28 million pictures of 1000 classes; {len(study.budget.data.train)} pictures from"
            " scratch favour whatever needs the fewest examples, which attention does not. What carries over is the"
            " method and the memory-bound shares; the best share has to be found on your data and machine."
        )


def _accuracy(study: ShareStudy, curve: Curve, points: list[Point]) -> Iterator[str]:
    means = {point.share: statistics.fmean(point.top1.values()) for point in points if point.top1}
    if len(means) < 2 or study.budget is None:
        return
    order = sorted(means, key=lambda share: -means[share])
    best, ahead = order[0], 100 * (means[order[0]] - means[order[1]])
    limit = _limit(points, means[best], len(study.budget.data.val))
    behind = [share for share in order[1:] if 100 * (means[best] - means[share]) > limit]
    level = [share for share in order if share not in behind]
    name = f"{find_family(curve.baseline.family).label} at {curve.speed:g}x"
    yield (
        f"{name}: best with {best:.0%} attention, {means[best]:.1%}, {ahead:.1f} points ahead of {order[1]:.0%}."
        f" Differences up to {limit:.1f} points can be chance"
        + (" (of the pictures alone: with one seed the spread between trainings is not known)" if _one(points) else "")
        + (
            f", so {_listed(level)} cannot be told apart."
            if len(level) > 1
            else "; the others are behind by more than that."
        )
    )
    if len(points) > 2:
        usual = curve.baseline.share
        nearest = min(means, key=lambda share: abs(share - usual))
        yield (
            f"{name}: the usual share is {usual:.0%}; the nearest here, {nearest:.0%}, reaches {means[nearest]:.1%}."
            f" The paper found 20 to 40 % best on ImageNet."
        )


def _listed(shares: list[float]) -> str:
    """`0%, 42% and 100%`: in order, and not as a range, for one between them may be behind."""
    names = [f"{share:.0%}" for share in sorted(shares)]
    return f"{', '.join(names[:-1])} and {names[-1]}"


def _one(points: list[Point]) -> bool:
    return all(len(point.top1) < 2 for point in points)


def _limit(points: list[Point], top1: float, num_pictures: int) -> float:
    """Points by which two networks can differ by chance: of the pictures, and between seeds where it is known."""
    spreads = [statistics.variance(point.top1.values()) / len(point.top1) for point in points if len(point.top1) > 1]
    seeds = 2 * statistics.fmean(spreads) if spreads else 0.0
    return 100 * CERTAINTY * math.sqrt(sampling_variance(top1, num_pictures) + seeds)


def _memory(curve: Curve, points: list[Point]) -> Iterator[str]:
    if len(points) < 2:
        return
    least, most = points[0], points[-1]
    text = (
        f"{find_family(curve.baseline.family).label} at {curve.speed:g}x: memory-bound operators take"
        f" {most.memory.share:.1%} of the time with {most.share:.0%} attention and {least.memory.share:.1%} with"
        f" {least.share:.0%}"
    )
    known = _PAPER_MEMORY.get((curve.baseline.family, curve.speed))
    if known is not None:
        nearest = min(points, key=lambda point: abs(100 * point.share - known[0]))
        text += (
            f"; {nearest.memory.share:.1%} with {nearest.share:.0%}, where the paper has {known[1]} % on its machine"
        )
    yield text + "."


def _table(study: ShareStudy, curve: Curve, points: list[Point]) -> Table:
    family = find_family(curve.baseline.family)
    cost, memory = study.baselines[family.name]
    columns = ["layers", "attention %", "width", "inside %", "params M", "MACs M", "speed", "memory-bound %"]
    rows = [
        [
            f"baseline, {curve.baseline.layers}",
            f"{100 * curve.baseline.share:.0f}",
            str(curve.baseline.width),
            str(curve.baseline.inner),
            f"{cost.num_params / 1e6:.2f}",
            f"{cost.num_macs / 1e6:.1f}",
            "1",
            f"{100 * memory.share:.1f}",
        ]
    ]
    for point in points:
        network, speed = point.member.network, point.member.speed
        rows.append(
            [
                network.layers,
                f"{100 * point.share:.0f}",
                str(network.width),
                str(network.inner),
                f"{point.cost.num_params / 1e6:.2f}",
                f"{point.cost.num_macs / 1e6:.1f}",
                f"{speed.median:.3f} ({speed.p25:.3f}-{speed.p75:.3f})",
                f"{100 * point.memory.share:.1f}",
            ]
        )
    if study.budget is not None:
        columns.append("top-1 %")
        accuracies = [[100 * top1 for top1 in point.top1.values()] for point in points]
        rows[0].append("")
        for row, values in zip(rows[1:], accuracies, strict=True):
            spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
            row.append(f"{statistics.fmean(values):.1f}{spread}" if values else "failed")
    return Table(
        title=f"{family.label} at {curve.speed:g} times the speed",
        columns=tuple(columns),
        rows=tuple(map(tuple, rows)),
        caption=(
            f"Layers: A attention, F feed-forward. Width: {family.width_is}; inside: hidden channels and heads, over"
            " what follows from the width. Speed: over the baseline's, all measured together: median and quartiles over"
            " builds of the network."
        ),
    )
