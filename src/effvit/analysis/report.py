"""What an analysis found, in one form for the terminal, files and the page: sentences, tables, charts, a record."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from effvit.data.drawing import save_figure
from effvit.files import write_json, write_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DOTS_PER_INCH = 130


def counted(count: int, what: str) -> str:
    """`1 row`, `2 rows`, `1,280 pictures`."""
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"


@dataclass(frozen=True, kw_only=True)
class Table:
    """Cells that are texts already: units and digits are the maker's choice."""

    title: str
    """Heading."""
    columns: tuple[str, ...]
    """Heading of each column."""
    rows: tuple[tuple[str, ...], ...]
    """Cells, as many a row as there are columns."""
    caption: str = ""
    """How to read it."""
    num_text_columns: int = 1
    """How many columns hold words, from the left; numbers stand at the right of theirs."""


@dataclass(frozen=True, kw_only=True)
class Chart:
    """One picture."""

    name: str
    """Stem of its file."""
    title: str
    """Heading."""
    caption: str
    """How to read it."""
    draw: Callable[[], Figure]
    """Draws it; called only when it is written."""
    is_picture: bool = False
    """Whether it shows photos, which a page takes as pixels rather than as lines."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """Everything that is said of a result."""

    kind: str
    """Which analysis, as in its verb: `profile`, `heads`."""
    title: str
    """Heading of the page."""
    conditions: str
    """What a reader must know to judge the numbers, in one line."""
    findings: tuple[str, ...] = ()
    """What was found, a statement each, the most important first."""
    tables: tuple[Table, ...] = ()
    """The numbers."""
    charts: tuple[Chart, ...] = ()
    """The pictures."""
    record: dict[str, Any]
    """Plain values for JSON: all numbers unrounded, `command` and `environment`."""


def write_report(report: Report, folder: Path) -> list[str]:
    """Write a report into a folder that is there, each file atomically; the names of the files.

    `record.json` for programs, `report.md` with sentences and tables, a PNG for each chart, and `page.html`,
    which needs nothing from elsewhere.

    Raises:
        RunError: If the place cannot be written.
    """
    from effvit.analysis.page import page

    write_json(folder / "record.json", report.record)
    write_text(folder / "report.md", as_text(report, level=1))
    figures = [chart.draw() for chart in report.charts]
    for chart, figure in zip(report.charts, figures, strict=True):
        save_figure(figure, folder / f"{chart.name}.png", dpi=_DOTS_PER_INCH)
    write_text(folder / "page.html", page(report, figures))
    return ["record.json", "report.md", *(f"{chart.name}.png" for chart in report.charts), "page.html"]


def as_text(report: Report, *, level: int = 2) -> str:
    """Findings and tables as Markdown, which a terminal shows as well.

    Args:
        report: What to say.
        level: Of the first heading.
    """
    mark = "#" * level
    lines = [f"{mark} {report.title}", "", report.conditions]
    if report.findings:
        lines += ["", *(f"- {finding}" for finding in report.findings)]
    for table in report.tables:
        lines += ["", f"{mark}# {table.title}", "", *_markdown(table)]
        if table.caption:
            lines += ["", table.caption]
    return "\n".join(lines) + "\n"


def _markdown(table: Table) -> list[str]:
    """A Markdown table, its columns as wide as their widest cell so that it reads as plain text."""
    cells = [table.columns, *table.rows]
    widths = [max(3, *(len(_escaped(row[index])) for row in cells)) for index in range(len(table.columns))]

    def line(row: tuple[str, ...]) -> str:
        padded = (
            _escaped(cell).ljust(width) if index < table.num_text_columns else _escaped(cell).rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        return f"| {' | '.join(padded)} |"

    rules = ("-" * w if i < table.num_text_columns else "-" * (w - 1) + ":" for i, w in enumerate(widths))
    return [line(table.columns), f"| {' | '.join(rules)} |", *map(line, table.rows)]


def _escaped(cell: str) -> str:
    return cell.replace("|", "\\|")
