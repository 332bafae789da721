"""Verbs around a trained network: eval, predict."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from effvit.cli.options import (
    BatchSize,
    Device,
    ImageSize,
    Json,
    Output,
    SpacedLists,
    Workers,
    check_positive,
    parse_size,
)
from effvit.errors import ConfigError, DataError, RunError

if TYPE_CHECKING:
    from effvit.train.runs import RunFolder


def register(app: typer.Typer) -> None:
    """Add these verbs to the command line."""
    app.command(
        "eval",
        cls=SpacedLists,
        epilog="\b\nExamples:\n  effvit eval runs/efficientvit_m0-1\n  effvit eval runs/efficientvit_m0-1 photos/val",
    )(evaluate)
    app.command(
        "predict",
        cls=SpacedLists,
        epilog="\b\nExamples:\n  effvit predict runs/efficientvit_m0-1 some.jpg folder/ --top-k 5\n"
        "  effvit predict model.openvino folder/ --json",
    )(predict)


def evaluate(
    source: Annotated[str, typer.Argument(help="Run, weights folder, Hub id or exported file.", metavar="RUN")],
    data: Annotated[
        Path | None, typer.Argument(help="Folder of class folders; left out: the run's own held-out pictures.")
    ] = None,
    image_size: ImageSize = None,
    batch_size: BatchSize = 64,
    workers: Workers = 0,
    device: Device = "auto",
    output: Output = None,
    as_json: Json = False,
) -> None:
    """Evaluate on labelled pictures: accuracy, confusion matrix, the most wrong pictures."""
    from effvit.cli.classifiers import open_classifier, run_of
    from effvit.cli.jobs import evaluate_samples, write_results
    from effvit.cli.render import emit, evaluation_table, say
    from effvit.data.datasets import find_samples
    from effvit.files import output_folder

    check_positive(batch_size=batch_size)
    run = run_of(source)
    if data is None and run is None:
        raise ConfigError(f"{source} is not a run folder, so it has no pictures of its own: give DATA")
    classifier = open_classifier(source, device, parse_size(image_size))
    if data is None and run is not None:
        samples, place = run.read_data().val, "eval"
    else:
        assert data is not None
        samples, place = find_samples(data, classifier.class_names).samples, f"eval-{data.resolve().name}"
    with output_folder(output or (run.path / place if run is not None else Path(place))) as folder:
        if data is not None and run is not None:
            _say_if_seen_in_training(run, {sample.path for sample in samples})
        evaluation = evaluate_samples(classifier, samples, batch_size=batch_size, workers=workers)
    write_results(folder, evaluation, source=source, data=data or "the run's held-out pictures")
    say(f"summary.json, predictions.csv, confusion.png and worst.png are in {folder}")
    emit(evaluation.summary(), evaluation_table, as_json)


def predict(
    source: Annotated[str, typer.Argument(help="Run, weights folder, Hub id or exported file.", metavar="RUN")],
    pictures: Annotated[list[Path], typer.Argument(help="Pictures, and folders of them.")],
    top_k: Annotated[int, typer.Option(help="Classes to name for each picture.")] = 5,
    image_size: ImageSize = None,
    batch_size: BatchSize = 32,
    workers: Workers = 0,
    device: Device = "auto",
    output: Output = None,
    as_json: Json = False,
) -> None:
    """Name the most probable classes of pictures."""
    from effvit.cli.classifiers import open_classifier
    from effvit.cli.render import emit, predictions_table, progress, say
    from effvit.data.pictures import list_pictures
    from effvit.files import make_output_folder, write_json
    from effvit.train.predict import predict_pictures

    check_positive(top_k=top_k, batch_size=batch_size)
    paths = list_pictures(pictures)
    classifier = open_classifier(source, device, parse_size(image_size))
    with progress("predict") as on_batch:
        predictions = predict_pictures(
            classifier.predict,
            paths,
            preprocessing=classifier.preprocessing,
            class_names=classifier.class_names,
            top_k=top_k,
            batch_size=batch_size,
            num_workers=workers,
            device=classifier.device,
            on_batch=on_batch,
        )
    if all(prediction.error for prediction in predictions):
        raise DataError(f"none of {len(predictions)} pictures could be read; the first: {predictions[0].error}")
    for prediction in predictions:
        if prediction.error:
            say(f"unreadable: {prediction.error}")
    rows = [
        {
            "path": str(prediction.path),
            "classes": [{"name": name, "probability": probability} for name, probability in prediction.classes],
            "error": prediction.error,
        }
        for prediction in predictions
    ]
    if output is not None:
        write_json(make_output_folder(output) / "predictions.json", rows)
        say(f"predictions.json is in {output}")
    emit(rows, predictions_table, as_json)


def _say_if_seen_in_training(run: RunFolder, paths: set[Path]) -> None:
    from effvit.cli.render import say

    try:
        trained_on = run.read_data().train
    except RunError:
        return  # the pictures it was trained on are gone, so these are others
    seen = {sample.path.resolve() for sample in trained_on} & {path.resolve() for path in paths}
    if seen:
        say(
            f"note: {len(seen)} of {len(paths)} pictures were trained on, so this accuracy is too good;"
            " leave DATA out to evaluate on the run's held-out pictures"
        )
