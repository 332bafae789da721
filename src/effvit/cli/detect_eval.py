"""The verb detect eval."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from effvit.cli.options import DEVICE_HELP, Json, Output, Workers
from effvit.errors import ConfigError


def register(group: typer.Typer) -> None:
    """Add this verb to the group."""
    group.command(
        "eval",
        epilog="\b\nExamples:\n  effvit detect eval runs/efficientvit_m0-boxes-1\n"
        "  effvit detect eval detector.onnx --data val.json --images val/ --output scores/\n"
        "  effvit detect eval runs/efficientvit_m0-boxes-1 --detections scores/detections.json",
    )(evaluate)


def evaluate(
    source: Annotated[
        Path, typer.Argument(help="Run folder, weights folder, or exported .onnx file.", metavar="DETECTOR")
    ],
    data: Annotated[
        Path | None, typer.Option(help="COCO file.", metavar="JSON", show_default="the run's held-out pictures")
    ] = None,
    images: Annotated[
        Path | None, typer.Option(help="Folder of its pictures.", metavar="DIR", show_default="the file's")
    ] = None,
    detections: Annotated[
        Path | None,
        typer.Option(help="Score these instead of running the detector: COCO results.", metavar="JSON"),
    ] = None,
    score: Annotated[float, typer.Option(help="Detections from this score on count as mistakes or right.")] = 0.3,
    workers: Workers = 0,
    device: Annotated[str | None, typer.Option(help=DEVICE_HELP, metavar="NAME", show_default="auto")] = None,
    output: Output = None,
    as_json: Json = False,
) -> None:
    """Score a detector as COCO does: all 12 numbers, each class, precision-recall curves, the worst pictures."""
    from effvit.cli.detect_jobs import evaluate_finder, labelled_pictures, open_source, write_scores
    from effvit.cli.detect_output import is_prediction
    from effvit.cli.detect_tables import scores_table
    from effvit.cli.render import emit, say
    from effvit.detection.coco_json import read_results
    from effvit.detection.data import read_detection_data
    from effvit.detection.predict import check_score
    from effvit.detection.task import DETECTION
    from effvit.detection.train_config import DetectionConfig

    check_score(score)
    if data is None and images is not None:
        raise ConfigError(f"--images {images} is for the pictures of --data, which is missing")
    finder, run = open_source(source, device)
    if data is not None:
        pictures: Any = labelled_pictures(finder, data, images)
        name = data.name
    elif run is not None:
        split = read_detection_data(run)
        pictures, name = split.val, (split.val_source or split.source).source.name
    else:
        raise ConfigError(f"{source} is no run folder, so --data FILE must say what to evaluate on")
    if detections is not None and is_prediction(detections.parent):
        raise ConfigError(
            f"{detections} is of `effvit detect predict`, which numbers its pictures itself; --detections takes"
            " detections with the image ids of the COCO file"
        )
    folder = output or (
        run.path / "eval" if run is not None and data is None else Path(f"{source.resolve().stem}-eval")
    )
    about = {"model": source.resolve().name, "data": name}
    if detections is not None:
        found = read_results(detections, pictures, finder.config.ids)
        about["detections"] = detections.name
        summary = write_scores(finder, found, pictures, folder, about=about, score=score)
    else:
        share = None if run is None else run.read_config_as(DETECTION, DetectionConfig).max_unreadable
        summary = evaluate_finder(
            finder, pictures, folder, workers=workers, about=about, score=score, max_unreadable=share
        )
    say(f"everything is in {folder}: page.html, summary.json, curves.png, worst.jpg, detections.json")
    emit(summary, scores_table, as_json)
