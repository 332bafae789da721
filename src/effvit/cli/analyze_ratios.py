"""`effvit analyze ratios`: Figure 3 of the paper, how much attention a network should have, made anew."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from effvit.cli.options import (
    DEVICE_HELP,
    Json,
    check_positive,
    check_threads,
    command_line,
    parse_numbers,
    parse_size,
)
from effvit.cli.study_plans import (
    RECIPE,
    Data,
    Epochs,
    Folder,
    Recipe,
    Seeds,
    Settings,
    SpeedBatch,
    StudyWorkers,
    Threads,
    Train,
    listeners_of,
    parse_seeds,
    plan_study,
)
from effvit.errors import ConfigError

if TYPE_CHECKING:
    from rich.table import Table

    from effvit.studies.attention_share_curves import Curve

_DECIDED = {"model": "FAMILY", "window": "FAMILY", "drop_path": "FAMILY, which has none,"}
"""Settings of a training that its own network would take; the families' networks do not."""


def register(analyze: typer.Typer) -> None:
    """Add this verb to `effvit analyze`."""
    analyze.command(
        "ratios",
        epilog="\b\nExamples:\n"
        "  effvit analyze ratios deit_tiny swin_tiny --data photos/ --width 48,24 --image-size 64 --epochs 8"
        " --output ratios/\n"
        "  effvit analyze ratios efficientvit_m0 --data photos/ --image-size 128 --speed 1.25,1.5 --output ratios/\n"
        "  effvit analyze ratios swin_tiny --dry-run\n"
        "What is in the folder is not made again: the same command goes on after an interruption. Without --data: speed"
        " and memory alone.",
    )(ratios)


def ratios(
    families: Annotated[
        list[str], typer.Argument(help="deit_tiny, swin_tiny (or _small, _base), or ours.", metavar="FAMILY...")
    ],
    data: Data = None,
    shares: Annotated[str, typer.Option(help="Attention layers, in percent of all.")] = "0,20,40,60,80,100",
    speed: Annotated[str, typer.Option(help="Times the baseline's speed; several make several curves.")] = "1.25",
    width: Annotated[
        str | None,
        typer.Option(help="Widths of the baselines, one a family.", show_default="the authors'"),
    ] = None,
    train: Train = True,
    epochs: Epochs = None,
    image_size: Annotated[str, typer.Option(help="Side in pixels, or height and width.", metavar="SIZE")] = "224",
    seeds: Seeds = "0",
    recipe: Recipe = RECIPE,
    settings: Settings = None,
    tolerance: Annotated[float, typer.Option(help="Percent by which a speed may be missed.")] = 3.0,
    batch: SpeedBatch = 16,
    threads: Threads = 1,
    workers: StudyWorkers = None,
    device: Annotated[str, typer.Option(help=DEVICE_HELP, metavar="NAME")] = "cpu",
    output: Folder = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the networks and their cost, and stop.")] = False,
    as_json: Json = False,
) -> None:
    """How much attention: accuracy and memory-bound share of networks of one measured speed, Figure 3."""
    from effvit import timing
    from effvit.cli.analysis_output import report_folder, show
    from effvit.cli.render import emit, say
    from effvit.cli.study_progress import StudyProgress
    from effvit.device import find_device
    from effvit.studies.attention_share import plan_curves, study_attention_share
    from effvit.studies.attention_share_curves import SpeedSettings
    from effvit.studies.attention_share_report import share_report
    from effvit.studies.budget import Budget

    check_positive(batch=batch, threads=threads, epochs=epochs)
    check_threads(threads)
    if not 0 < tolerance < 100:
        raise ConfigError(f"--tolerance must be above 0 and below 100 percent, got {tolerance:g}")
    if output is None and not dry_run:
        raise ConfigError("ratios need --output DIR: hours of work are kept there, and taken from there again")
    size = parse_size(image_size)
    assert size is not None
    asked: dict[str, Any] = {
        "image_size": size,
        "shares": [percent / 100 for percent in _percents(shares)],
        "speeds": _numbers(speed, "--speed"),
        "widths": None if width is None else parse_numbers(width, "--width"),
    }
    curves = plan_curves(families, **asked)  # what is wrong with them is said before the pictures are looked for
    seed_numbers, where = parse_seeds(seeds), str(find_device(device))
    flags = {
        "model": "efficientvit_tiny",  # not used: the networks are the families'
        "epochs": epochs,
        "num_workers": workers,
        "device": where,
        "preprocessing.image_size": f"{size[0]},{size[1]}",
    }
    plan = plan_study(data, flags, settings or [], recipe, decided=_DECIDED)
    budget = None
    if plan.data is not None:
        budget = Budget(data=plan.data, config=plan.config, seeds=seed_numbers, only_finished=not train)
        curves = plan_curves(families, num_classes=len(plan.data.class_names), **asked)
    every = [curve for row in curves.values() for curve in row]
    if dry_run:
        emit([_planned(curve, count) for curve in every for count in curve.counts], _table, as_json)
        return
    assert output is not None
    if budget is not None:
        say(f"{sum(len(curve.shares) for curve in every)} networks, each: {budget}")
    how = SpeedSettings(batch_size=batch, num_threads=threads, device=where, tolerance=tolerance / 100)
    try:
        with report_folder(output, data=data), timing.num_threads(threads), StudyProgress() as bar:
            study = study_attention_share(
                curves,
                output,
                budget=budget,
                speed_settings=how,
                command=command_line(),
                listeners=listeners_of(bar),
            )
    except KeyboardInterrupt:
        say(f"what is finished is in {output}; the same command goes on from there")
        raise
    show(share_report(study), output=output, as_json=as_json)


def _numbers(text: str, flag: str) -> list[float]:
    """`0,20` -> [0.0, 20.0]: numbers from 0 up."""
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = [-1.0]
    if not all(0 <= number < 1e9 for number in numbers):
        raise ConfigError(f"{flag} must be numbers from 0 up with commas between them, got {text!r}")
    return numbers


def _percents(text: str) -> list[float]:
    """`0,20` -> [0.0, 20.0]: different numbers from 0 to 100."""
    numbers = _numbers(text, "--shares")
    if max(numbers) > 100 or len(set(numbers)) != len(numbers):
        raise ConfigError(f"--shares must be different percentages from 0 to 100, got {text!r}")
    return numbers


def _planned(curve: Curve, num_attention: int) -> dict[str, Any]:
    from dataclasses import asdict, replace

    from effvit.studies.attention_share_memory import cost_of

    network = replace(curve.baseline, num_attention=num_attention)
    return {"speed": curve.speed, **network.to_dict(), **asdict(cost_of(network))}


def _table(rows: list[dict[str, Any]]) -> Table:
    from rich.table import Table

    table = Table(caption_justify="left")
    for index, column in enumerate(("family", "speed", "layers", "attention %", "params", "MACs", "tokens")):
        table.add_column(column, justify="left" if index in (0, 2) else "right")
    for row in rows:
        height, width = row["maps"][0]
        table.add_row(
            row["family"],
            f"{row['speed']:g}x",
            row["layers"],
            f"{100 * row['share']:.0f}",
            f"{row['num_params']:,}",
            f"{row['num_macs'] / 1e6:.1f} M",
            f"{height} x {width}",
        )
    table.caption = "at the baseline's width, before any is brought to its speed; A: attention, F: feed-forward"
    return table
