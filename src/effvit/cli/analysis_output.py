"""What the verbs of the analysis do with a report: show it, and write it where it was asked for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from effvit.cli.render import emit, say

if TYPE_CHECKING:
    from effvit.analysis.report import Report


def show(report: Report, *, output: Path | None, as_json: bool) -> None:
    """Write a report into a folder if one was asked for, then print it, as JSON or as text.

    Args:
        report: What to show.
        output: Folder for `record.json`, `report.md`, the pictures and `page.html`; None for none. Take it through
            `effvit.files.output_folder` before long work, so that a place that cannot be written is told at once.
        as_json: Whether to print the record.
    """
    from effvit.analysis.report import as_text, write_report
    from effvit.files import make_output_folder

    if output is not None:
        names = write_report(report, make_output_folder(output))
        say(f"{', '.join(names)} are in {output}")
    emit(report.record, lambda _: as_text(report), as_json)
