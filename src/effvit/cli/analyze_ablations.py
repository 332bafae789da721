"""`effvit analyze ablations`: Table 6 and Figure 7 of the paper, made anew."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from effvit.cli.options import (
    DEVICE_HELP,
    ImageSize,
    Json,
    check_positive,
    check_threads,
    command_line,
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

    from effvit.studies.ablation import Version


def register(analyze: typer.Typer) -> None:
    """Add this verb to `effvit analyze`."""
    analyze.command(
        "ablations",
        epilog="\b\nExamples:\n"
        "  effvit analyze ablations --data photos/ --epochs 6 --image-size 96 --output ablations/\n"
        "  effvit analyze ablations efficientvit_m0 --data photos/ --rows 1,5,6 --seeds 0,1,2 --output ablations/\n"
        "  effvit analyze ablations --dry-run --figure7\n"
        "What is in the folder is not made again: the same command goes on after an interruption. Without --data: cost"
        " and speed alone.",
    )(ablations)


def ablations(
    model: Annotated[str, typer.Argument(help="Network whose rows to make, see `effvit models`.")] = "efficientvit_m4",
    data: Data = None,
    rows: Annotated[
        str | None, typer.Option(help="Numbers of Table 6, such as 1,5,6; qk8 or v0.6 of Figure 7.", show_default="all")
    ] = None,
    figure7: Annotated[bool, typer.Option("--figure7", help="All points of Figure 7 as well.")] = False,
    rescale: Annotated[bool, typer.Option(help="Each row also with widths that give it the base's speed.")] = True,
    speed: Annotated[bool, typer.Option(help="Measure speed in torch and in ONNX Runtime.")] = True,
    train: Train = True,
    epochs: Epochs = None,
    image_size: ImageSize = None,
    seeds: Seeds = "0",
    recipe: Recipe = RECIPE,
    settings: Settings = None,
    batch: SpeedBatch = 16,
    threads: Threads = 1,
    workers: StudyWorkers = None,
    device: Annotated[str, typer.Option(help=DEVICE_HELP, metavar="NAME")] = "cpu",
    output: Folder = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the rows and their cost, and stop.")] = False,
    as_json: Json = False,
) -> None:
    """Table 6 and Figure 7: every row plain and at the base's measured speed; cost, speed, accuracy on your photos."""
    from effvit import timing
    from effvit.analysis.ablations import find_ablations
    from effvit.cli.analysis_output import report_folder, show
    from effvit.cli.render import emit, say
    from effvit.cli.study_progress import StudyProgress
    from effvit.studies.ablation import plan_versions, study_ablations
    from effvit.studies.ablation_report import ablation_report
    from effvit.studies.ablation_widths import SpeedSettings
    from effvit.studies.budget import Budget

    check_positive(batch=batch, threads=threads, epochs=epochs)
    check_threads(threads)
    wanted = find_ablations(None if rows is None else rows.split(","), figure7=figure7)
    seed_numbers = parse_seeds(seeds)
    if output is None and not dry_run:
        raise ConfigError("ablations need --output DIR: hours of work are kept there, and taken from there again")
    size = parse_size(image_size)
    flags = {
        "model": model,
        "epochs": epochs,
        "preprocessing.image_size": size and f"{size[0]},{size[1]}",
        "num_workers": workers,
        "device": device,
    }
    plan = plan_study(data, flags, settings or [], recipe)
    if dry_run:
        versions = plan_versions(plan.network.config, wanted)
        emit([_planned(version) for version in versions], _table, as_json)
        return
    assert output is not None
    budget = None
    if plan.data is not None:
        budget = Budget(data=plan.data, config=plan.config, seeds=seed_numbers, only_finished=not train)
        say(f"each network: {budget}")
    try:
        with report_folder(output, data=data), timing.num_threads(threads), StudyProgress() as bar:
            study = study_ablations(
                plan.network.config,
                wanted,
                output,
                budget=budget,
                rescale=rescale,
                speeds=speed,
                speed_settings=SpeedSettings(batch_size=batch, num_threads=threads, device=plan.config.device),
                command=command_line(),
                listeners=listeners_of(bar),
            )
    except KeyboardInterrupt:
        say(f"what is finished is in {output}; the same command goes on from there")
        raise
    show(ablation_report(study), output=output, as_json=as_json)


def _planned(version: Version) -> dict[str, Any]:
    return {
        "row": version.ablation.key,
        "text": version.ablation.text,
        "changes": dict(version.ablation.changes),
        "widths": [stage.width for stage in version.config.stages],
        "num_params": version.num_params,
        "num_macs": version.num_macs,
        "paper_top1": version.ablation.reported.top1,
    }


def _table(rows: list[dict[str, Any]]) -> Table:
    from rich.table import Table

    table = Table(caption_justify="left")
    for index, column in enumerate(("row", "change", "widths", "params", "MACs", "paper's top-1 %")):
        table.add_column(column, justify="left" if index < 3 else "right")
    for row in rows:
        table.add_row(
            row["row"],
            row["text"],
            " ".join(map(str, row["widths"])),
            f"{row['num_params']:,}",
            f"{row['num_macs'] / 1e6:.1f} M",
            f"{row['paper_top1']:.1f}",
        )
    table.caption = "at the base's widths; the paper's numbers are M4's on ImageNet-1k"
    return table
