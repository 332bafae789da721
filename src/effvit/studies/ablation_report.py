"""An ablation study in words and tables, beside the paper's numbers, with what it can and cannot show."""

from __future__ import annotations

import statistics
from collections.abc import Iterator

from effvit.analysis.ablations import BASE
from effvit.analysis.report import Chart, Report, Table, counted
from effvit.analysis.scaling import Match
from effvit.environment import machine
from effvit.studies.ablation import AblationStudy, Version
from effvit.studies.ablation_charts import draw_figure7, draw_table6
from effvit.studies.ablation_speed import Speed, control
from effvit.studies.ablation_statistics import Chance, chance, compared, difference, rank_correlation

_FEWEST_ROWS = 6
"""Rows below which an order says nothing."""


def ablation_report(study: AblationStudy) -> Report:
    """Everything that is said of a study.

    Args:
        study: From `study_ablations`.
    """
    points = any(version.ablation.axis for version in study.versions)
    tables = [_cost_table(study)]
    if study.budget is not None:
        tables.insert(0, _accuracy_table(study))
    charts = []
    if study.budget is not None or study.speeds is not None:
        caption = (
            "Filled dots: the row at the base's measured speed; rings: at the base's widths; grey: the paper's. "
            "All are relative to row 1."
        )
        charts.append(
            Chart(name="table6", title="Table 6, row by row", caption=caption, draw=lambda: draw_table6(study))
        )
    if points and study.budget is not None:
        caption = "Top-1 over the base's, in points; the vertical line is the base."
        charts.append(Chart(name="figure7", title="Figure 7", caption=caption, draw=lambda: draw_figure7(study)))
    return Report(
        kind="ablations",
        title=f"Ablations of {study.base.name}",
        conditions=_conditions(study),
        findings=tuple(_findings(study)),
        tables=tuple(tables),
        charts=tuple(charts),
        record=study.to_dict(),
    )


def _conditions(study: AblationStudy) -> str:
    height, width = study.base.image_size
    measured_on = study.speed_records.get("eager", {}).get("environment") or study.environment
    parts = [machine(dict(measured_on)), f"{height} x {width} pixels"]
    parts.append(f"{study.base.num_classes} classes" if study.budget is None else str(study.budget))
    how = study.speed_settings
    if study.speeds is not None:
        threads = "1 thread" if how.num_threads == 1 else f"{how.num_threads} threads"
        clock = f"{how.clock_of(how.device)} time"
        parts.append(f"speed on {how.device}, batch {how.batch_size}, {threads}, float32, {clock}")
    return "; ".join(parts)


def _findings(study: AblationStudy) -> Iterator[str]:
    limit = chance(study)
    if limit is not None:
        yield from _accuracy_findings(study, limit)
    elif study.budget is None:
        yield "Nothing was trained: accuracy needs pictures."
    if study.speeds is not None:
        yield from _speed_findings(study)
    failed = [result for result in study.trained if result.failure is not None]
    for result in failed:
        yield f"The training of {result.name} with seed {result.seed} failed: {result.failure}."
    for key, reason in study.matches.items():
        if isinstance(reason, str):
            yield f"Row {key} could not be brought to the base's speed: {reason}."
    if study.budget is not None:
        yield _scale(study)


def _accuracy_findings(study: AblationStudy, limit: Chance) -> Iterator[str]:
    scores = list(study.top1(study.base_version).values())
    spread = f" (± {100 * statistics.stdev(scores):.1f} between seeds)" if len(scores) > 1 else ""
    seeds = (
        "; with one seed, the spread between trainings is not known and comes on top"
        if limit.seeds is None
        else f", {limit.seeds:.1f} from the spread between seeds"
    )
    yield (
        f"Row 1 reaches {statistics.fmean(scores):.1%}{spread}. Differences up to {limit.limit:.1f} points can be"
        f" chance (standard errors: at most {limit.sampling:.1f} from the choice of the pictures{seeds}); even so, of"
        f" twenty comparisons one goes beyond that without a reason. {_too_small(study, limit)}"
    )
    differences = compared(study)
    for rescaled, words in ((True, "At the base's speed"), (False, "At the base's widths")):
        own = [(version, found) for version, found in differences if version.rescaled is rescaled]
        if not own:
            continue
        clear = [(version.ablation, found.mean) for version, found in own if abs(found.mean) > limit.limit]
        listed = ", ".join(f"{row.key} ({row.text}) {mean:+.1f}" for row, mean in clear)
        agreeing = sum((mean > 0) == (row.reported_points > 0) for row, mean in clear)
        rows = f"{len(clear)} of {len(own)} rows" if len(own) > 1 else "the one row"
        verb = "differs" if len(clear) == 1 else "differ"
        verdict = (
            f"{rows} {verb} by more than chance does: {listed}; {agreeing} of"
            f" {len(clear)} in the direction the paper reports"
            if clear
            else f"none of {len(own)} rows differs by more than chance does"
            if len(own) > 1
            else "the one row does not differ by more than chance does"
        )
        yield f"{words} {verdict}."
        order = rank_correlation([found.mean for _, found in own], [v.ablation.reported_points for v, _ in own])
        if order is not None and len(own) >= _FEWEST_ROWS:
            yield (
                f"{words} the rows' order agrees with the paper's by a rank correlation of {order:+.2f}"
                f" (1: the same order, 0: none; {len(own)} rows)."
            )


def _too_small(study: AblationStudy, limit: Chance) -> str:
    """How many of the paper's own differences could not be seen here."""
    rows = {v.ablation.key: v.ablation for v in study.versions if v.ablation.key != BASE.key}
    small = sum(abs(row.reported_points) <= limit.limit for row in rows.values())
    return f"Of the paper's own differences {small} of {len(rows)} are no larger."


def _speed_findings(study: AblationStudy) -> Iterator[str]:
    speeds = study.speeds
    assert speeds is not None
    others = [version for version in study.versions if version.ablation.key != BASE.key]
    plain = [(v, speeds.eager[v.config.name]) for v in others if not v.rescaled and v.config.name in speeds.eager]
    if plain:
        slowest, fastest = (choose(plain, key=lambda entry: entry[1].over_base.median) for choose in (min, max))
        least, most = (
            f"{speed.over_base.median:.2f} (row {version.ablation.key})" for version, speed in (slowest, fastest)
        )
        rows, span = ("the rows run", f"{least} to {most}") if len(plain) > 1 else ("the row runs", least)
        yield (
            f"At the base's widths {rows} at {span} times its speed in torch: their accuracies are those of networks"
            " of different speed. The paper's all lie within 6 %."
        )
    matches = {key: match for key, match in study.matches.items() if isinstance(match, Match)}
    if matches:
        worst = max(matches.values(), key=lambda match: abs(match.achieved - 1))
        which = "the furthest from it" if len(matches) > 1 else "it"
        found = f"{which} was off by {abs(worst.achieved - 1):.1%} when its widths were found"
        scaled = [(v, speeds.eager[v.config.name]) for v in others if v.rescaled and v.config.name in speeds.eager]
        if scaled:  # measured at length and beside everybody: what counts
            version, speed = max(scaled, key=lambda entry: abs(entry[1].over_base.median - 1))
            which = f"row {version.ablation.key} is, at" if len(matches) > 1 else "it runs at"
            found += f"; measured beside all others, {which} {speed.over_base.median:.3f}"
        was = "was" if len(matches) == 1 else "were"
        yield f"{counted(len(matches), 'row')} {was} brought to the base's speed by width; {found}."
    known = [
        (speeds.onnx[v.config.name].over_base.median, v.ablation.reported.onnx_images_per_second)
        for v in others
        if v.rescaled and v.config.name in speeds.onnx and v.ablation.reported.onnx_images_per_second is not None
    ]
    order = rank_correlation([own for own, _ in known], [theirs for _, theirs in known if theirs is not None])
    if order is not None and len(known) >= _FEWEST_ROWS:
        yield (
            f"In ONNX Runtime the rescaled rows' order of speed agrees with the paper's by a rank correlation of"
            f" {order:+.2f} ({len(known)} rows)."
        )
    for what, reason in speeds.missing.items():
        yield f"Not measured: {what}: {reason}."


def _scale(study: AblationStudy) -> str:
    """What numbers of this scale cannot show."""
    assert study.budget is not None
    num_seen = study.budget.config.epochs * len(study.budget.data.train)
    maps = ", ".join(f"{height} x {width}" for height, width in study.base.map_sizes())
    whole = all(window >= max(size) for window, size in zip(study.base.windows(), study.base.map_sizes(), strict=True))
    windows = ", none of which is cut into windows" if whole else ""
    return (
        "What this cannot show: the paper trained on 1.28 million pictures of 224 x 224, by others' reading for 100"
        f" epochs; here a network sees {counted(num_seen, 'picture')} in all. Rows that learn faster at the start"
        f" look better than they would end, and attention works on maps of {maps}{windows}."
        " Large losses can be believed, small differences and the order of near rows cannot."
    )


def _accuracy_table(study: AblationStudy) -> Table:
    rows = []
    for ablation in dict.fromkeys(version.ablation.key for version in study.versions):
        plain = _version(study, ablation, rescaled=False)
        scaled = _version(study, ablation, rescaled=True)
        row = plain.ablation if plain is not None else BASE
        paper = row.reported.top1
        reported = "" if row.key == BASE.key else f"{row.reported_points:+.1f}"
        rows.append((row.key, row.text, *_score(study, plain), *_score(study, scaled), f"{paper:.1f}", reported))
    seeds = 1 if study.budget is None else len(study.budget.seeds)
    spread = "; ± is the standard deviation between seeds" if seeds > 1 else ""
    return Table(
        title="Accuracy",
        columns=("row", "change", "top-1 %", "- base", "rescaled %", "- base", "paper %", "- M4"),
        rows=tuple(rows),
        caption=(
            "Top-1 after the last epoch, no epoch chosen; rescaled: the widths scaled to the base's measured speed"
            f"{spread}. The paper's are M4's on ImageNet-1k."
        ),
        num_text_columns=2,
    )


def _score(study: AblationStudy, version: Version | None) -> tuple[str, str]:
    if version is None:
        return "", ""
    scores = [100 * score for score in study.top1(version).values()]
    if not scores:
        return "failed", ""
    spread = f" ± {statistics.stdev(scores):.1f}" if len(scores) > 1 else ""
    found = None if version.ablation.key == BASE.key else difference(study, version)
    return f"{statistics.fmean(scores):.1f}{spread}", "" if found is None else f"{found.mean:+.1f}"


def _cost_table(study: AblationStudy) -> Table:
    speeds, reported = study.speeds, BASE.reported
    rows = []
    for version in study.versions:
        paper = version.ablation.reported
        cells = [
            version.ablation.key,
            version.ablation.text + (", rescaled" if version.rescaled else ""),
            " ".join(str(stage.width) for stage in version.config.stages),
            f"{version.num_params / 1e6:.2f}",
            f"{version.num_macs / 1e6:.1f}",
        ]
        if speeds is not None:
            cells += [
                *_speed(speeds.eager.get(version.config.name), mark=False),
                *_speed(speeds.onnx.get(version.config.name), mark=True),
                _over(paper.v100_images_per_second, reported.v100_images_per_second),
                _over(paper.onnx_images_per_second, reported.onnx_images_per_second),
            ]
        rows.append(tuple(cells))
    columns = ("row", "change", "widths", "params M", "MACs M")
    if speeds is None:
        return Table(title="Cost", columns=columns, rows=tuple(rows), num_text_columns=3)
    measured = ("torch img/s", "/ base", "ONNX img/s", "/ base", "paper V100 / M4", "paper ONNX / M4")
    return Table(
        title="Cost and speed",
        columns=columns + measured,
        rows=tuple(rows),
        caption=(
            "torch: eager, norms folded into the convolutions where they can be, nothing else. ONNX: the deploy form in"
            " ONNX Runtime; * where it does not know the row, with norms folded only, over the base in the same form."
            f" Over 1 is faster.{_noise(study)} The paper's rows were presumably all rescaled."
        ),
        num_text_columns=3,
    )


def _speed(speed: Speed | None, *, mark: bool) -> tuple[str, str]:
    if speed is None:
        return "", ""
    star = " *" if mark and not speed.is_deploy_form else ""
    return f"{speed.images_per_second:.0f}{star}", f"{speed.over_base.median:.2f}"


def _over(value: float | None, base: float | None) -> str:
    return "" if value is None or base is None else f"{value / base:.2f}"


def _noise(study: AblationStudy) -> str:
    """The base against itself, in both runtimes."""
    how = study.speed_settings
    devices = {"eager": how.device, "onnx": "cpu"}
    again = [control(values, how.clock_of(devices[runtime])) for runtime, values in study.speed_records.items()]
    shown = ", ".join(f"{spread.median:.2f} ({spread.p25:.2f}-{spread.p75:.2f})" for spread in again if spread)
    return f" The base measured a second time: {shown}." if shown else ""


def _version(study: AblationStudy, key: str, *, rescaled: bool) -> Version | None:
    found = (v for v in study.versions if v.ablation.key == key and v.rescaled is rescaled)
    return next(found, None)
