"""Benchmark records for people: a Markdown table and a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from effvit.deploy.speed.compare import Comparison
from effvit.deploy.speed.records import Missing, Protocol, Record, Row
from effvit.environment import machine
from effvit.files import atomic_path
from effvit.timing import Spread

_HEADER = (
    "| batch | model | runtime | precision | form | size | params | top-1 | ms (quartiles) | CPU ms | images/s | MiB"
    " | time / first (quartiles) |",
    "| ---: | --- | --- | --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
)


def markdown_table(record: Record) -> str:
    """A table of the rows, with the protocol and the machine in one line above it, and below it what is missing.

    The control is the first model a second time: its distance from 1 in the last column is the noise.
    """
    lines = [conditions(record), "", *_HEADER, *map(_table_row, record.rows)]
    if record.missing:
        lines += ["", "Not measured:", "", *(f"- {missing_text(missing)}" for missing in record.missing)]
    return "\n".join(lines) + "\n"


def missing_text(missing: Missing) -> str:
    """What could not be measured and why, in one line."""
    batch = "" if missing.batch_size is None else f", batch {missing.batch_size}"
    return f"{missing.model} in {missing.runtime}, {missing.precision}{batch}: {missing.reason}"


def comparison_table(comparison: Comparison) -> str:
    """Two records beside each other, as Markdown."""
    lines = [
        *(f"note: {warning}" for warning in comparison.warnings),
        "",
        "| batch | model | runtime | precision | before ms | after ms | after / before (quartiles) | |",
        "| ---: | --- | --- | --- | ---: | ---: | ---: | --- |",
    ]
    for change in comparison.changes:
        verdict = "noise"
        if change.is_beyond_noise:
            verdict = "slower" if change.ratio.median > 1 else "faster"
        cells = (
            f"{change.batch_size}",
            change.model,
            change.runtime,
            change.precision,
            f"{change.before_ms:.2f}",
            f"{change.after_ms:.2f}",
            spread_text(change.ratio),
            verdict,
        )
        lines.append(f"| {' | '.join(cells)} |")
    for title, names in (("first", comparison.only_before), ("second", comparison.only_after)):
        lines += ["", f"Only in the {title}:", "", *(f"- {name}" for name in names)] if names else []
    return "\n".join(lines) + "\n"


def spread_text(spread: Spread) -> str:
    """Median and quartiles of a ratio: `1.250 (1.200-1.300)`."""
    return f"{spread.median:.3f} ({spread.p25:.3f}-{spread.p75:.3f})"


def conditions(record: Record) -> str:
    """What a reader must know to judge the numbers, in one line."""
    protocol = record.protocol
    on = "" if protocol.device == "cpu" else f" {record.environment['accelerator'] or ''}"
    threads = "1 thread" if protocol.num_threads == 1 else f"{protocol.num_threads} threads"
    pinned = ", pinned" if protocol.pinned_cores else ""
    return f"{machine(record.environment)}; {protocol.device}{on}, {threads}{pinned}; {_how(protocol)}"


def _how(protocol: Protocol) -> str:
    if protocol.name == "paper":
        return (
            f"the paper's protocol: means over {protocol.min_round_seconds:g} s after {protocol.warmup_seconds:g} s of"
            " warm-up, one model after the other"
        )
    return f"medians of {protocol.rounds} interleaved rounds of about {protocol.min_round_seconds:g} s"


def save_plot(record: Record, path: Path | str) -> None:
    """Draw pictures per second of each model, one panel per batch size, whiskers over the quartiles.

    Args:
        record: What to draw; the control is drawn too, in grey.
        path: Picture to write; its ending chooses the format.

    Raises:
        RunError: If the place cannot be written.
    """
    from matplotlib.figure import Figure  # slow to import; the object, as pyplot would keep global state

    sizes = sorted({row.batch_size for row in record.rows})
    num_bars = max(sum(row.batch_size == size for row in record.rows) for size in sizes)
    figure = Figure(figsize=(5.2 * len(sizes) + 1, 0.45 * num_bars + 1.6), layout="constrained")
    panels = figure.subplots(1, len(sizes), squeeze=False)[0]
    for panel, size in zip(panels, sizes, strict=True):
        _draw(panel, [row for row in record.rows if row.batch_size == size])
        panel.set_title(f"batch {size}")
        panel.set_xlabel("images per second")
    figure.suptitle(conditions(record), fontsize=7)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=150)


def _draw(panel: Any, rows: list[Row]) -> None:
    speeds = [row.images_per_second for row in rows]
    # The quartile of the longer time is the one of the lower speed.
    below = [s - row.batch_size / row.timing.latency_ms_p75 * 1e3 for s, row in zip(speeds, rows, strict=True)]
    above = [row.batch_size / row.timing.latency_ms_p25 * 1e3 - s for s, row in zip(speeds, rows, strict=True)]
    colours = ["#b0b0b0" if row.is_control else "#3b75af" for row in rows]
    bars = panel.barh([_name(row) for row in rows], speeds, xerr=[below, above], color=colours, capsize=2)
    panel.bar_label(bars, labels=[f"{speed:,.0f}" for speed in speeds], padding=4, fontsize=8)
    panel.invert_yaxis()
    panel.margins(x=0.15)
    panel.spines[["top", "right"]].set_visible(False)


def _table_row(row: Row) -> str:
    timing = row.timing
    cells = (
        f"{row.batch_size}",
        row.model if timing.stable else f"{row.model} (unstable)",
        row.runtime,
        row.precision,
        row.form,
        f"{row.image_size[0]}x{row.image_size[1]}",
        "" if row.num_params is None else f"{row.num_params / 1e6:.2f} M",
        "" if row.top1 is None else f"{row.top1:.1f}",
        f"{timing.latency_ms:.2f} ({timing.latency_ms_p25:.2f}-{timing.latency_ms_p75:.2f})",
        f"{timing.cpu_ms:.2f}",
        f"{row.images_per_second:,.0f}",
        "" if row.peak_memory_mib is None else f"{row.peak_memory_mib:.0f}",
        spread_text(row.relative),
    )
    return f"| {' | '.join(cells)} |"


def _name(row: Row) -> str:
    return f"{row.model}\n{row.runtime}, {row.precision}"
