"""A benchmark record as one HTML page that needs nothing else: no scripts, no fonts, no pictures from elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from effvit.deploy.speed.charts import accuracy_against_speed, breakdown, dots, is_ours
from effvit.deploy.speed.page_template import TEMPLATE
from effvit.deploy.speed.published_accuracy import published_accuracy
from effvit.deploy.speed.records import CONTROL, Record, Row
from effvit.deploy.speed.report import conditions, markdown_table, missing_text, save_plot, spread_text
from effvit.figures import as_svg
from effvit.files import write_json, write_text

_MIN_POINTS = 3
"""Fewer models say nothing about a front."""


@dataclass(frozen=True)
class Chart:
    """One picture of the page."""

    title: str
    """Heading."""
    caption: str
    """How to read it."""
    svg: str
    """The picture."""


def write_report(record: Record, folder: Path) -> list[str]:
    """Write a record as JSON, table, picture and page into a folder that is there; the names of the files.

    Raises:
        RunError: If the place cannot be written.
    """
    write_json(folder / "record.json", record.to_dict())
    write_text(folder / "table.md", markdown_table(record))
    save_plot(record, folder / "plot.png")
    write_text(folder / "page.html", page(record))
    return ["record.json", "table.md", "plot.png", "page.html"]


def page(record: Record) -> str:
    """The page as HTML."""
    import jinja2

    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    return environment.from_string(TEMPLATE).render(
        conditions=conditions(record),
        command=record.command,
        protocol=record.protocol,
        environment=record.environment,
        charts=list(charts(record)),
        rows=[_cells(row) for row in record.rows],
        controls=[row for row in record.rows if row.is_control],
        missing=[missing_text(missing) for missing in record.missing],
        sources=_sources(record.rows),
    )


def charts(record: Record) -> Iterator[Chart]:
    """The pictures that a record has enough rows for."""
    rows = [row for row in record.rows if not row.is_control]
    yield from _accuracy_charts(rows)
    yield from _dot_charts(rows)
    if record.shares:
        yield Chart(
            "Where the time goes",
            "Share of the time of all operators, as the runtime's own profiler tells it. Profiling costs time"
            " itself, more for small operators.",
            as_svg(breakdown(record.shares)),
        )


def _accuracy_charts(rows: Sequence[Row]) -> Iterator[Chart]:
    """In float32 alone: what number formats do to accuracy was not measured here."""
    for runtime in dict.fromkeys(row.runtime for row in rows):
        shown = [row for row in rows if row.runtime == runtime and row.precision == "fp32" and row.top1 is not None]
        if len({row.model for row in shown}) >= _MIN_POINTS:
            yield Chart(
                f"Speed against accuracy: {runtime}, fp32",
                "Up and to the right is better. The line joins the networks that no other beats in both. Accuracy as"
                " published, sources below; speed from this run. Ours in red.",
                as_svg(accuracy_against_speed(shown)),
            )


def _dot_charts(rows: Sequence[Row]) -> Iterator[Chart]:
    """By batch in each runtime and precision, by runtime and by precision at each batch: where there is a choice."""
    caption = "Dots are medians, bars the quartiles. To the left is faster."
    for runtime, precision in dict.fromkeys((row.runtime, row.precision) for row in rows):
        shown = [row for row in rows if (row.runtime, row.precision) == (runtime, precision)]
        if len({row.batch_size for row in shown}) > 1:
            figure = dots(shown, lambda row: f"{row.batch_size}", label="batch")
            yield Chart(f"Latency by batch: {runtime}, {precision}", caption, as_svg(figure))
    for size, precision in dict.fromkeys((row.batch_size, row.precision) for row in rows):
        shown = [row for row in rows if (row.batch_size, row.precision) == (size, precision)]
        if len({row.runtime for row in shown}) > 1:
            figure = dots(shown, lambda row: row.runtime, label="runtime")
            yield Chart(f"Latency by runtime: batch {size}, {precision}", caption, as_svg(figure))
    for size, runtime in dict.fromkeys((row.batch_size, row.runtime) for row in rows):
        shown = [row for row in rows if (row.batch_size, row.runtime) == (size, runtime)]
        if len({row.precision for row in shown}) > 1:
            figure = dots(shown, lambda row: row.precision, label="precision")
            yield Chart(f"Latency by precision: batch {size}, {runtime}", caption, as_svg(figure))


def _cells(row: Row) -> dict[str, Any]:
    timing = row.timing
    return {
        "batch": row.batch_size,
        "model": row.model + ("" if timing.stable else " (unstable)"),
        "kind": "control" if row.is_control else "ours" if is_ours(row.model) else "",
        "runtime": row.runtime,
        "precision": row.precision,
        "form": row.form,
        "tried": _tried(row),
        "size": f"{row.image_size[0]} x {row.image_size[1]}",
        "params": "" if row.num_params is None else f"{row.num_params / 1e6:.2f}",
        "top1": "" if row.top1 is None else f"{row.top1:.1f}",
        "ms": f"{timing.latency_ms:.2f}",
        "quartiles": f"{timing.latency_ms_p25:.2f}-{timing.latency_ms_p75:.2f}",
        "cpu_ms": f"{timing.cpu_ms:.2f}",
        "speed": f"{row.images_per_second:,.0f}",
        "memory": "" if row.peak_memory_mib is None else f"{row.peak_memory_mib:.0f}",
        "energy": "" if timing.joules is None else f"{1e3 * timing.joules / row.batch_size:.1f}",
        "relative": spread_text(row.relative),
    }


def _tried(row: Row) -> str:
    """The forms that took part in the trial and their times, and those that could not."""
    times = [f"{text}: {milliseconds:.2f} ms" for text, milliseconds in (row.tried_ms or {}).items()]
    return "; ".join([*times, *(f"{text}: {reason}" for text, reason in row.failed.items())])


def _sources(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Where the accuracies come from, one entry per network."""
    found = {}
    for row in rows:
        published = published_accuracy(row.model.removeprefix(CONTROL), row.image_size)
        if row.top1 is not None and published is not None:
            found[row.model.removeprefix(CONTROL)] = published
    return [{"model": model, **vars(published)} for model, published in found.items()]
