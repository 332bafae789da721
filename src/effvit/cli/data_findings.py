"""Tables of findings, for the checks of every kind of data set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

    from effvit.data.check import Duplicates

MAX_ROWS = 10
_MAX_COPIES = 4


def findings(title: str, rows: list[tuple[Sequence[str], str]]) -> Table | str:
    """A table of findings, each some names and a reason, cut where it would fill the screen; empty text for none."""
    from rich.table import Table

    from effvit.cli.render import cell

    if not rows:
        return ""
    table = Table(title, f"{len(rows)}", caption_justify="left")
    for names, reason in rows[:MAX_ROWS]:
        table.add_row("\n".join(map(cell, names)), cell(reason))
    if len(rows) > MAX_ROWS:
        table.caption = f"{len(rows) - MAX_ROWS} more with --json"
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
