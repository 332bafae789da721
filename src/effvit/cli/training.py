"""The verb train."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from effvit.cli.options import (
    DEVICE_HELP,
    ImageSize,
    Json,
    Output,
    Seed,
    SpacedLists,
    assignments_of,
    command_line,
    parse_size,
    refuse_with_resume,
)
from effvit.errors import ConfigError


def register(app: typer.Typer) -> None:
    """Add this verb to the command line."""
    app.command(
        "train",
        cls=SpacedLists,
        epilog="\b\nExamples:\n  effvit train photos/ --model efficientvit_m0 --epochs 20\n"
        "  effvit train --resume runs/efficientvit_m0-1",
    )(train)


def train(
    data: Annotated[
        str | None,
        typer.Argument(
            help="Folder with train/CLASS/ and val/CLASS/ or with CLASS/, CSV list, tar shards, or NAME:FOLDER.",
            metavar="DATA",
        ),
    ] = None,
    model: Annotated[str | None, typer.Option(help="Network, see `effvit models`.", show_default="m0")] = None,
    weights: Annotated[
        str | None, typer.Option(help="Start from: imagenet, a path, or a Hub id. Left out: random.")
    ] = None,
    recipe: Annotated[str | None, typer.Option(help="Whole set of settings, see `effvit recipes`.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the pictures.", show_default="20")] = None,
    image_size: ImageSize = None,
    batch_size: Annotated[int | None, typer.Option(help="Pictures in a step.", show_default="64")] = None,
    seed: Seed = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Any other setting: field=value, augmentation.field=value.")
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Processes that decode pictures.", show_default="0")] = None,
    device: Annotated[str | None, typer.Option(help=DEVICE_HELP, metavar="NAME", show_default="auto")] = None,
    output: Output = None,
    resume: Annotated[Path | None, typer.Option(help="Continue this run.", metavar="RUN")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be done, with a time, and stop.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Train a network on photos; leaves a run folder with weights, curves, mistakes and a report.

    Several processes: torchrun --nproc-per-node N -m effvit train ...
    """
    from effvit.cli.evaluation_jobs import evaluate_run
    from effvit.cli.jobs import resume_training, start_training
    from effvit.cli.plans import plan_training
    from effvit.cli.render import SPEAKS, emit, say, scores
    from effvit.train.distributed import joined

    size = parse_size(image_size)
    flags = {
        "model": model,
        "epochs": epochs,
        "batch_size": batch_size,
        "seed": seed,
        "preprocessing.image_size": size and f"{size[0]},{size[1]}",
        "num_workers": workers,
        "device": device,
    }
    assignments = assignments_of(flags, settings or [])
    if resume is not None:
        elsewhere = {key: value for key, value in flags.items() if key not in ("num_workers", "device")}
        others = {"--recipe": recipe, "--weights": weights, "--output": output, "--set": settings}
        refuse_with_resume({"DATA": data, "--dry-run": dry_run or None, **others, **elsewhere})
    elif dry_run:
        from effvit.cli.dry_run import show_dry_run

        plan = plan_training(data, assignments, weights=weights, recipe=recipe)
        show_dry_run(plan.config, plan.data, plan.network, output=output, as_json=as_json)
        return
    elif data is None:
        raise ConfigError("train needs DATA, a folder of photos, or --resume RUN")
    with joined(device or "auto"):
        if resume is not None:
            run = resume_training(resume, device=device, workers=workers)
        else:
            assert data is not None
            run = start_training(
                data, assignments, weights=weights, output=output, command=command_line(), recipe=recipe
            )
    if not SPEAKS:
        return
    summary = evaluate_run(run, device=device, workers=workers)
    say(f"everything is in {run.path}: best weights in weights/, report.html, curves.png, eval/worst.png")
    place = shlex.quote(str(run.path))
    say(f"next: effvit predict {place} PICTURE, or effvit export {place} --format onnx")
    emit({"run": str(run.path), **summary}, scores, as_json)
