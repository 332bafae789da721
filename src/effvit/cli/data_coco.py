"""`effvit data check` for a COCO file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from effvit.cli.data_findings import (
    add_kinds,
    class_table,
    copies_text,
    duplicates_row,
    extent_text,
    findings,
    obstacle_lines,
    show_report,
)

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

    from effvit.data.coco_check import CocoReport


def check_file(
    source: Path,
    images: Path | None,
    *,
    split: tuple[float, int],
    workers: int,
    output: Path | None,
    as_json: bool,
) -> bool:
    """Check a COCO file and its pictures, and show what was found.

    Args:
        source: The file.
        images: Folder of the pictures; None for the file's.
        split: Share that a training would hold out, and the seed of that choice.
        workers: Processes that decode.
        output: Folder for check.json and contact_sheet.png; None for neither.
        as_json: Whether programs read it.

    Returns:
        Whether there is something to do before a training: leaks, pictures that are missing, unreadable or of
        another size than the file says, and what would stop it.
    """
    from effvit.cli.render import progress
    from effvit.data.coco import read_coco
    from effvit.data.coco_check import check_coco
    from effvit.data.coco_sheet import write_coco_sheet
    from effvit.files import make_output_folder

    folder = None if output is None else make_output_folder(output)
    obstacles: list[str] = []
    data = read_coco(source, images, on_obstacle=obstacles.append)
    val_fraction, seed = split
    with progress("check") as on_picture:
        report = check_coco(
            data,
            obstacles=obstacles,
            val_fraction=val_fraction,
            seed=seed,
            num_workers=workers,
            on_picture=on_picture,
        )
    show_report(report, folder=folder, write_sheet=write_coco_sheet, tables=_tables, verdict=_verdict, as_json=as_json)
    return bool(report.obstacles or report.leaked or report.unreadable or report.mismatched or data.num_missing)


def _tables(report: CocoReport) -> Group:
    from rich.console import Group

    unclear = "turned upright; boxes meant for how it is stored would be in the wrong places"
    parts: list[Table | str] = [
        _summary(report),
        _classes(report),
        findings("unreadable", [([entry.name], entry.facts.fault) for entry in report.unreadable]),
        findings("another size", [([entry.name], fault) for entry, fault in report.mismatched]),
        findings("unclear turn", [([entry.name], unclear) for entry in report.unclear]),
        findings("near-empty", [([entry.name], f"spread {entry.facts.spread:.1f}") for entry in report.near_empty]),
        findings("duplicates", [duplicates_row(group) for group in report.duplicates]),
        findings("names", [([fault.name], fault.reason) for fault in report.name_faults]),
        findings("left out", [([str(path)], reason) for path, reason in report.data.skipped]),
    ]
    return Group(*(part for part in parts if part))


def _summary(report: CocoReport) -> Table:
    from rich.table import Table

    values = report.to_dict()
    table = Table(show_header=False)
    parts = values["num_pictures"]
    table.add_row(
        "pictures",
        f"{len(report.pictures)}, {values['num_empty']} with nothing on them; if split: {parts['train']} train,"
        f" {parts['val']} val",
    )
    unused = sum(count.num_things == 0 for count in report.classes)
    table.add_row("classes", f"{len(report.classes)}{f', {unused} of them without a thing' if unused else ''}")
    masks = f"{values['num_with_mask']:,} of them with a mask"
    table.add_row("things", f"{values['num_things']:,}, {masks}; {values['num_crowds']} crowds")
    table.add_row("boxes", f"{values['num_cut']} cut to their picture, {values['num_left_out']} left out")
    table.add_row("sizes of things", ", ".join(f"{size} {count:,}" for size, count in values["thing_sizes"].items()))
    table.add_row("things a picture", extent_text(values["things_per_picture"]))
    for side in ("width", "height"):
        table.add_row(f"{side}, pixels", extent_text(values["sizes"][side]))
    add_kinds(table, values)
    return table


def _classes(report: CocoReport) -> Table:
    ordered = sorted(report.classes, key=lambda count: (count.num_things, count.name))
    rows = [
        (count.name, count.category_id, count.num_things, count.num_pictures, count.num_crowds) for count in ordered
    ]
    columns = ("class", "id", "things", "pictures", "crowds")
    return class_table(columns, rows, "the rarest and the most frequent")


def _verdict(report: CocoReport) -> str:
    """What would stop a training, a line each, and the number of all else in one."""
    return (
        f"{obstacle_lines(report.obstacles)}{report.data.num_missing} missing, {len(report.unreadable)} unreadable,"
        f" {len(report.mismatched)} of another size than the file says, {len(report.near_empty)} near-empty,"
        f" {copies_text(report)}; validation pictures with a"
        f" copy among the training pictures, if this file is split: {len(report.leaked)}"
    )
