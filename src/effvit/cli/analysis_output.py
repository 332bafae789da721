"""What the verbs of the analysis do with a report: show it, and write it where it was asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from effvit.cli.render import emit, say
from effvit.errors import ConfigError, RunError
from effvit.files import output_folder, read_json

if TYPE_CHECKING:
    from effvit.analysis.report import Report


_WRITTEN = ("record.json", "report.md", "page.html", "weights")
"""What verbs of the analysis write under these names; pictures have names of their own."""


@contextmanager
def report_folder(output: Path | None, *, models: Sequence[str] = (), data: str | None = None) -> Iterator[Path | None]:
    """The folder of a report, made and tried before any work; nothing of anybody else's is written over.

    Args:
        output: The folder; None for none.
        models: What is analysed: no report goes into a network's own folder.
        data: The pictures: no report goes among them.

    Raises:
        ConfigError: If the folder holds what is analysed, a run, or files that no report has written.
        RunError: If it cannot be written.
    """
    if output is None:
        yield None
        return
    place = output.resolve()
    if any(Path(model).is_dir() and Path(model).resolve() == place for model in models):
        raise ConfigError(f"--output {output} is the model's own folder; give another")
    if data is not None and Path(data).is_dir() and place.is_relative_to(Path(data).resolve()):
        raise ConfigError(f"--output {output} lies among the pictures of {data}; give another folder")
    if (output / "run.json").exists():
        raise ConfigError(f"--output {output} is a run folder; give another")
    there = [name for name in _WRITTEN if (output / name).exists()]
    if there and not _is_report(output):
        raise ConfigError(f"--output {output} holds {there[0]}, which no report here has written; give another folder")
    with output_folder(output) as folder:
        yield folder


def _is_report(folder: Path) -> bool:
    try:
        record = read_json(folder / "record.json")
    except RunError:
        return False
    return isinstance(record, dict) and "analysis" in record


def show(report: Report, *, output: Path | None, as_json: bool) -> None:
    """Write a report into a folder if one was asked for, then print it, as JSON or as text.

    Args:
        report: What to show.
        output: Folder for `record.json`, `report.md`, the pictures and `page.html`; None for none. Take it through
            `report_folder` before long work, so that a place that may not or cannot be written is told at once.
        as_json: Whether to print the record.
    """
    from effvit.analysis.report import as_text, write_report
    from effvit.files import make_output_folder

    if output is not None:
        names = write_report(report, make_output_folder(output))
        say(f"{', '.join(names)} are in {output}")
    emit(report.record, lambda _: as_text(report), as_json)
