"""A benchmark of detectors for people: a Markdown table and a chart of where each one's time goes."""

from __future__ import annotations

from pathlib import Path

from effvit.deploy.speed.records import Row
from effvit.deploy.speed.report import conditions, missing_text, spread_text
from effvit.detection.benchmark import DetectionRecord
from effvit.detection.speed_work import PARTS
from effvit.figures import SERIES, panels
from effvit.files import atomic_path, write_json, write_text

_HEADER = (
    "| detector | runtime | form | network sees | params | boxes in NMS | found | ms (quartiles) | CPU ms"
    " | time / first (quartiles) | picture | backbone | neck | heads and NMS |",
    "| --- | --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
)


def write_speed_report(record: DetectionRecord, folder: Path) -> list[str]:
    """Write a record as JSON, table and chart into a folder that is there; the names of the files.

    Raises:
        RunError: If the place cannot be written.
    """
    write_json(folder / "record.json", record.to_dict())
    write_text(folder / "table.md", speed_table(record))
    save_chart(record, folder / "plot.png")
    return ["record.json", "table.md", "plot.png"]


def speed_table(record: DetectionRecord) -> str:
    """The rows as Markdown, the conditions above and what is missing below.

    The four last columns are milliseconds of each part, measured by itself, one after the other.
    """
    inner = record.record
    size = inner.protocol.image_size or (0, 0)
    lines = [
        f"{conditions(inner)}; one picture of {size[0]}x{size[1]} per call, from pixels to boxes; random detectors with"
        f" {record.num_boxes} boxes in the last non-maximum suppression",
        "",
        *_HEADER,
        *(_table_row(record, row) for row in inner.rows),
    ]
    if inner.missing:
        lines += ["", "Not measured:", "", *(f"- {missing_text(missing)}" for missing in inner.missing)]
    return "\n".join(lines) + "\n"


def save_chart(record: DetectionRecord, path: Path | str) -> None:
    """A bar per row, as long as its latency; in torch, cut into the parts by their shares.

    Raises:
        RunError: If the place cannot be written.
    """
    rows = [row for row in record.record.rows if not row.is_control]
    figure, (panel,) = panels(1, width=10.0, height=1.6 + 0.5 * len(rows))
    names = [f"{row.model}\n{row.runtime}, {row.form}" for row in rows]
    for place, row in enumerate(rows):
        work, start = record.work_of(row), 0.0
        parts = work.parts_ms if work is not None and work.parts_ms is not None else {"all": 1.0}
        total = sum(parts.values())
        for name, value in parts.items():
            width = row.timing.latency_ms * value / total
            colour = SERIES[PARTS.index(name)] if name in PARTS else SERIES[5]
            panel.barh([place], [width], left=[start], color=colour, height=0.65)
            start += width
        panel.text(start, place, f" {row.timing.latency_ms:,.1f}", va="center", fontsize=8)
    for index, name in enumerate(PARTS):
        panel.barh([0], [0], color=SERIES[index], label=name)
    if any(row.runtime != "torch" for row in rows):
        panel.barh([0], [0], color=SERIES[5], label="all (ONNX Runtime)")
    panel.legend(fontsize=8, frameon=False)
    panel.set_yticks(range(len(rows)), names, fontsize=8)
    panel.invert_yaxis()
    panel.margins(x=0.12)
    panel.set_xlabel("milliseconds per picture")
    figure.suptitle(conditions(record.record), fontsize=7)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=150)


def _table_row(record: DetectionRecord, row: Row) -> str:
    timing, work = row.timing, record.work_of(row)
    seen = "" if work is None or work.network_size is None else "{}x{}".format(*work.network_size)
    parts = {} if work is None or work.parts_ms is None else work.parts_ms
    cells = (
        row.model if timing.stable else f"{row.model} (unstable)",
        row.runtime,
        row.form,
        seen,
        "" if row.num_params is None else f"{row.num_params / 1e6:.2f} M",
        "" if work is None or work.num_boxes is None else f"{work.num_boxes}",
        "" if work is None else f"{work.num_detections}",
        f"{timing.latency_ms:.1f} ({timing.latency_ms_p25:.1f}-{timing.latency_ms_p75:.1f})",
        f"{timing.cpu_ms:.1f}",
        spread_text(row.relative),
        *(f"{parts[name]:.1f}" if name in parts else "" for name in PARTS),
    )
    return f"| {' | '.join(cells)} |"
