"""Verbs around data sets: data check, data shards."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

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
from effvit.cli.options import ImageSize, Json, Output, Workers, check_positive, parse_size
from effvit.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

    from effvit.data.check import DataReport

SOURCE_HELP = "Folder of class folders, of train/ and val/, or of tar shards; a CSV list; or cifar10:ROOT and the like."
_FINDINGS = 2
CHECK_HELP = SOURCE_HELP.replace("; a CSV list;", "; a CSV list; a COCO file (.json);")
Source = Annotated[str, typer.Argument(help=SOURCE_HELP, metavar="DATA")]
ValFraction = Annotated[float, typer.Option(help="Share held out of each class where DATA has no parts.")]
SplitSeed = Annotated[int, typer.Option("--seed", help="Seed of that choice, as in train.")]


def register(app: typer.Typer) -> None:
    """Add this group of verbs to the command line."""
    group = typer.Typer(help="Look at a data set before training on it; pack it.", no_args_is_help=True)
    group.command(
        "check",
        epilog="\b\nExamples:\n  effvit data check photos/\n  effvit data check photos/ --output check/ --strict\n"
        "  effvit data check instances.json --images photos/",
    )(check)
    group.command(
        "shards",
        epilog="\b\nExamples:\n  effvit data shards photos/ packed/\n"
        "  effvit data shards list.csv packed/ --shard-megabytes 64",
    )(shards)
    app.add_typer(group, name="data")


def check(
    data: Annotated[str, typer.Argument(help=CHECK_HELP, metavar="DATA")],
    images: Annotated[
        Path | None, typer.Option(help="Folder of a COCO file's pictures.", show_default="its folder", metavar="DIR")
    ] = None,
    image_size: ImageSize = None,
    val_fraction: ValFraction = 0.2,
    seed: SplitSeed = 0,
    workers: Workers = 0,
    strict: Annotated[
        bool,
        typer.Option("--strict", help="Leave with code 2 on leaks, unusable pictures, and on what stops a training."),
    ] = False,
    output: Output = None,
    as_json: Json = False,
) -> None:
    """Count classes, sizes and formats; find unreadable and near-empty files, duplicates, leaks from train to val."""
    from effvit.cli.data_coco import check_file
    from effvit.cli.render import progress
    from effvit.data.check import check_data
    from effvit.data.coco import is_coco
    from effvit.data.contact_sheet import write_contact_sheet
    from effvit.data.datasets import find_data
    from effvit.files import make_output_folder

    if is_coco(data):
        if image_size is not None:
            raise ConfigError("--image-size says what pictures of class folders are compared with; leave it out here")
        split = (val_fraction, seed)
        if check_file(Path(data), images, split=split, workers=workers, output=output, as_json=as_json) and strict:
            raise typer.Exit(_FINDINGS)
        return
    if images is not None:
        raise ConfigError(f"--images is the folder of a COCO file's pictures, and {data!r} is none (NAME.json)")
    folder = None if output is None else make_output_folder(output)
    obstacles: list[str] = []
    pictures = find_data(data, val_fraction=val_fraction, seed=seed, on_obstacle=obstacles.append)
    with progress("check") as on_picture:
        report = check_data(
            pictures,
            obstacles=obstacles,
            input_size=parse_size(image_size),
            num_workers=workers,
            on_picture=on_picture,
        )
    show_report(
        report, folder=folder, write_sheet=write_contact_sheet, tables=_tables, verdict=_verdict, as_json=as_json
    )
    if strict and (report.obstacles or report.leaked or report.unreadable):
        raise typer.Exit(_FINDINGS)


def shards(
    data: Source,
    output: Annotated[Path, typer.Argument(help="New folder for the shards.", metavar="OUT")],
    shard_megabytes: Annotated[int, typer.Option(help="Size at which a shard is closed.")] = 256,
    val_fraction: ValFraction = 0.2,
    seed: SplitSeed = 0,
    as_json: Json = False,
) -> None:
    """Pack a data set into tar shards in WebDataset's layout, files unchanged, training and validation apart."""
    from effvit.cli.render import emit, progress
    from effvit.data.datasets import find_data
    from effvit.data.shard_writer import pack

    check_positive(shard_megabytes=shard_megabytes)
    pictures = find_data(data, val_fraction=val_fraction, seed=seed)
    with progress("pack") as on_picture:
        num_shards = pack(pictures, output, shard_bytes=shard_megabytes * 10**6, on_picture=on_picture)
    packed: dict[str, Any] = {
        "output": str(output),
        "num_shards": num_shards,
        "num_train": len(pictures.train),
        "num_val": len(pictures.val),
        "num_classes": len(pictures.class_names),
    }
    emit(packed, _packed_line, as_json)


def _packed_line(packed: dict[str, Any]) -> str:
    return (
        f"{packed['num_train']} training and {packed['num_val']} validation pictures of {packed['num_classes']} classes"
        f" in {packed['num_shards']} shards: {packed['output']}"
    )


def _tables(report: DataReport) -> Group:
    from rich.console import Group

    parts: list[Table | str] = [_summary(report)]
    if report.classes:
        parts.append(_classes(report))
    parts += [
        findings("unreadable", [([entry.name], entry.facts.fault) for entry in report.unreadable]),
        findings("near-empty", [([entry.name], f"spread {entry.facts.spread:.1f}") for entry in report.near_empty]),
        findings("duplicates", [duplicates_row(group) for group in report.duplicates]),
        findings("names", [([fault.name], fault.reason) for fault in report.name_faults]),
        findings("left out", [([str(path)], reason) for path, reason in report.data.skipped]),
    ]
    return Group(*(part for part in parts if part))


def _summary(report: DataReport) -> Table:
    from rich.table import Table

    values = report.to_dict()
    table = Table(show_header=False)
    table.add_row("pictures", f"{len(report.data.train)} train, {len(report.data.val)} val ({report.data.split} split)")
    table.add_row("classes", f"{len(report.data.class_names)}")
    imbalance = values["imbalance"]
    table.add_row(
        "imbalance",
        f"largest : smallest class {imbalance['largest_to_smallest']:.1f} : 1, as varied as"
        f" {imbalance['effective_num_classes']:.1f} even classes",
    )
    for side in ("width", "height"):
        if side in values["sizes"]:
            table.add_row(f"{side}, pixels", extent_text(values["sizes"][side]))
    height, width = report.input_size
    table.add_row(f"below {height} x {width}", f"{values['sizes'].get('num_below_input', 0)}")
    add_kinds(table, values)
    return table


def _classes(report: DataReport) -> Table:
    ordered = sorted(report.classes, key=lambda count: (count.num_train, count.name))
    return class_table(("class", "train", "val"), ordered, "the smallest and the largest")


def _verdict(report: DataReport) -> str:
    """What would stop a training, a line each, and the number of all else in one."""
    contradictions = sum(group.contradicts for group in report.duplicates)
    return (
        f"{obstacle_lines(report.obstacles)}{len(report.unreadable)} unreadable, {len(report.near_empty)} near-empty,"
        f" {copies_text(report)}, {contradictions} of them with contradicting labels;"
        f" validation pictures with a copy among the training pictures: {len(report.leaked)}"
    )
