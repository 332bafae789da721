"""The verb detect train."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from effvit.cli.options import DEVICE_HELP, Json, Output, Seed, assignments_of, command_line, refuse_with_resume
from effvit.errors import ConfigError


def register(group: typer.Typer) -> None:
    """Add this verb to the group."""
    group.command(
        "train",
        epilog="\b\nExamples:\n  effvit detect train --data train.json --images photos/ --model efficientvit_m0\n"
        "  effvit detect train --data train.json --images train/ --val val.json --val-images val/ --task masks\n"
        "  effvit detect train --resume runs/efficientvit_m0-boxes-1",
    )(train)


def train(
    data: Annotated[Path | None, typer.Option(help="COCO file of the training pictures.", metavar="JSON")] = None,
    images: Annotated[
        Path | None, typer.Option(help="Folder of the pictures.", metavar="DIR", show_default="the file's")
    ] = None,
    val: Annotated[
        Path | None, typer.Option(help="COCO file to validate on.", metavar="JSON", show_default="a fifth of DATA")
    ] = None,
    val_images: Annotated[Path | None, typer.Option(help="Folder of its pictures.", metavar="DIR")] = None,
    model: Annotated[
        str | None,
        typer.Option(help="Backbone: a variant, timm:NAME, module.path:factory.", show_default="efficientvit_m0"),
    ] = None,
    task: Annotated[str | None, typer.Option(help="boxes, or masks too.", show_default="boxes")] = None,
    weights: Annotated[
        str | None, typer.Option(help="The backbone's: imagenet, a path, a run or a Hub id. Left out: random.")
    ] = None,
    recipe: Annotated[str | None, typer.Option(help="small, or coco_1x: the paper's.", show_default="small")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the pictures.", show_default="60")] = None,
    image_size: Annotated[
        int | None, typer.Option(help="Short side of a picture in pixels.", show_default="320")
    ] = None,
    batch_size: Annotated[int | None, typer.Option(help="Pictures in a step.", show_default="16")] = None,
    seed: Seed = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="Any other setting: field=value.")] = None,
    workers: Annotated[int | None, typer.Option(help="Processes that decode pictures.", show_default="0")] = None,
    device: Annotated[str | None, typer.Option(help=DEVICE_HELP, metavar="NAME", show_default="auto")] = None,
    output: Output = None,
    resume: Annotated[Path | None, typer.Option(help="Continue this run.", metavar="RUN")] = None,
    as_json: Json = False,
) -> None:
    """Train a detector on the boxes, or masks, of a COCO file; leaves a run folder with weights, curves and scores.

    Several processes: torchrun --nproc-per-node N -m effvit detect train ...
    """
    from effvit.cli.detect_jobs import evaluate_detection_run, resume_detector, start_detector
    from effvit.cli.detect_tables import scores_table
    from effvit.cli.render import SPEAKS, emit, say
    from effvit.detection.config import MIN_SIDE
    from effvit.preprocessing import MAX_IMAGE_SIZE
    from effvit.train.distributed import joined

    if image_size is not None and not MIN_SIDE <= image_size <= MAX_IMAGE_SIZE:
        raise ConfigError(f"--image-size must be in {MIN_SIDE}..{MAX_IMAGE_SIZE} pixels, got {image_size}")
    flags: dict[str, Any] = {
        "model": model,
        "task": task,
        "epochs": epochs,
        "min_size": image_size,
        "batch_size": batch_size,
        "seed": seed,
        "num_workers": workers,
        "device": device,
    }
    assignments = assignments_of(flags, settings or [])
    if resume is not None:
        given = {"--data": data, "--images": images, "--val": val, "--val-images": val_images, "--weights": weights}
        others = {"--recipe": recipe, "--output": output, "--set": settings, "--image-size": flags.pop("min_size")}
        elsewhere = {key: value for key, value in flags.items() if key not in ("num_workers", "device")}
        refuse_with_resume({**given, **others, **elsewhere})
    elif data is None:
        raise ConfigError("detect train needs --data FILE, a COCO file, or --resume RUN")
    elif val is None and val_images is not None:
        raise ConfigError(f"--val-images {val_images} is for the pictures of --val, which is missing")
    with joined(device or "auto"):
        if resume is not None:
            run = resume_detector(resume, device=device, workers=workers)
        else:
            assert data is not None
            run = start_detector(
                {"annotations": data, "images": images, "val": val, "val_images": val_images},
                assignments,
                weights=weights,
                recipe=recipe,
                output=output,
                command=command_line(),
            )
    if not SPEAKS:
        return
    summary = evaluate_detection_run(run, device=device, workers=workers)
    say(f"everything is in {run.path}: best weights in weights/, curves.png, eval/page.html, eval/worst.jpg")
    place = shlex.quote(str(run.path))
    say(f"next: effvit detect predict {place} PICTURE --out found, or effvit detect export {place} --format onnx")
    emit({"run": str(run.path), **summary}, scores_table, as_json)
