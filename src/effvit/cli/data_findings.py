"""Tables of findings, for the checks of every kind of data set."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

    from effvit.data.check import Duplicates, PicturesReport

    R = TypeVar("R", bound=PicturesReport)

_MAX_ROWS = 10
_MAX_COPIES = 4


def show_report(
    report: R,
    *,
    folder: Path | None,
    write_sheet: Callable[[Path, R], None],
    tables: Callable[[R], Group],
    verdict: Callable[[R], str],
    as_json: bool,
) -> None:
    """Write check.json and contact_sheet.png if there is a folder, and print the report.

    Args:
        report: What was found.
        folder: Where to; None for neither.
        write_sheet: Draws the contact sheet.
        tables: The report for people.
        verdict: Its last lines.
        as_json: Whether programs read it.
    """
    from effvit.cli.render import emit, out, say
    from effvit.files import write_json

    if folder is not None:
        write_json(folder / "check.json", report.to_dict())
        write_sheet(folder / "contact_sheet.png", report)
        say(f"check.json and contact_sheet.png are in {folder}")
    if as_json:
        emit(report.to_dict(), str, as_json)
    else:
        out().print(tables(report))
        print(verdict(report))


def class_table(columns: Sequence[str], rows: Sequence[Sequence[object]], ends: str) -> Table:
    """A row a class, its name first; of many those at both ends.

    Args:
        columns: Their titles.
        rows: In the order of their numbers.
        ends: What the first and the last are, such as "the smallest and the largest".
    """
    from rich.table import Table

    from effvit.cli.render import cell

    table = Table(*columns, title_justify="left", caption_justify="left")
    shown = rows if len(rows) <= 2 * _MAX_ROWS else [*rows[:_MAX_ROWS], *rows[-_MAX_ROWS:]]
    for index, (name, *numbers) in enumerate(shown):
        if len(shown) < len(rows) and index == _MAX_ROWS:
            table.add_row("...", *[""] * len(numbers))
        table.add_row(cell(name), *map(str, numbers))
    if len(shown) < len(rows):
        table.caption = f"{ends} of {len(rows)} classes; all with --json"
    return table


def extent_text(extent: Mapping[str, float]) -> str:
    """Least, median and largest."""
    return f"{extent['min']} .. {extent['median']:.0f} .. {extent['max']}"


def add_kinds(table: Table, values: Mapping[str, Any]) -> None:
    """Rows of the pictures' file and pixel formats."""
    for name in ("formats", "modes"):
        table.add_row(name, ", ".join(f"{kind} {count}" for kind, count in values[name].items()))


def obstacle_lines(obstacles: Sequence[str]) -> str:
    """What would stop a training, a line each."""
    from effvit.data.samples import one_line

    return "".join(f"a training would stop: {one_line(obstacle)}\n" for obstacle in obstacles)


def copies_text(report: PicturesReport) -> str:
    """How many groups of copies, and of pictures that look alike."""
    exact = sum(group.kind == "exact" for group in report.duplicates)
    return f"{exact} groups of exact and {len(report.duplicates) - exact} of near duplicates"


def findings(title: str, rows: list[tuple[Sequence[str], str]]) -> Table | str:
    """A table of findings, each some names and a reason, cut where it would fill the screen; empty text for none."""
    from rich.table import Table

    from effvit.cli.render import cell

    if not rows:
        return ""
    table = Table(title, f"{len(rows)}", caption_justify="left")
    for names, reason in rows[:_MAX_ROWS]:
        table.add_row("\n".join(map(cell, names)), cell(reason))
    if len(rows) > _MAX_ROWS:
        table.caption = f"{len(rows) - _MAX_ROWS} more with --json"
    return table


def duplicates_row(group: Duplicates) -> tuple[list[str], str]:
    """The names of pictures that are the same, and in what way."""
    words = [group.kind, *(["leak"] if group.leaks else []), *(["contradicting labels"] if group.contradicts else [])]
    names = [_with_part(picture.part, picture.name) for picture in group.pictures[:_MAX_COPIES]]
    rest = len(group.pictures) - len(names)
    return [*names, *([f"and {rest} more"] if rest else [])], ", ".join(words)


def _with_part(part: str, name: str) -> str:
    """A picture's name and its part, where the name does not begin with it."""
    return name if name.startswith(part) else f"{name} ({part})"
