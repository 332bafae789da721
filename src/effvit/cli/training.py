"""Verbs around training: train, eval, predict."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from effvit.cli.options import (
    DEVICE_HELP,
    BatchSize,
    Device,
    ImageSize,
    Json,
    Output,
    Seed,
    SpacedLists,
    Workers,
    check_positive,
    command_line,
    parse_size,
)
from effvit.errors import ConfigError, DataError, RunError

if TYPE_CHECKING:
    from effvit.train.runs import RunFolder


def register(app: typer.Typer) -> None:
    """Add these verbs to the command line."""
    app.command(
        "train",
        cls=SpacedLists,
        epilog="\b\nExamples:\n  effvit train photos/ --model efficientvit_m0 --epochs 20\n"
        "  effvit train --resume runs/efficientvit_m0-1",
    )(train)
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


def train(
    data: Annotated[
        Path | None, typer.Argument(help="Folder with train/CLASS/ and val/CLASS/, or with CLASS/.", metavar="DATA")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Network, see `effvit models`.", show_default="m0")] = None,
    weights: Annotated[
        str | None, typer.Option(help="Start from: imagenet, a path, or a Hub id. Left out: random.")
    ] = None,
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
    as_json: Json = False,
) -> None:
    """Train a network on a folder of photos; leaves a run folder with weights, curves and mistakes."""
    from effvit.cli.jobs import evaluate_run, resume_training, start_training
    from effvit.cli.render import emit, say, scores

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
    if resume is not None:
        elsewhere = {key: value for key, value in flags.items() if key not in ("num_workers", "device")}
        _refuse_with_resume({"DATA": data, "--weights": weights, "--output": output, "--set": settings, **elsewhere})
        run = resume_training(resume, device=device or "auto", workers=workers)
    elif data is None:
        raise ConfigError("train needs DATA, a folder of photos, or --resume RUN")
    else:
        assignments = _assignments(flags, settings or [])
        run = start_training(data, assignments, weights=weights, output=output, command=command_line())
    evaluation = evaluate_run(run)
    say(f"everything is in {run.path}: best weights in weights/, curves.png, eval/confusion.png, eval/worst.png")
    place = shlex.quote(str(run.path))
    say(f"next: effvit predict {place} PICTURE, or effvit export {place} --format onnx")
    emit({"run": str(run.path), **evaluation.summary()}, scores, as_json)


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


def _assignments(flags: dict[str, Any], settings: list[str]) -> list[str]:
    """Flags and `--set` in one list; the same field in both is a contradiction, and no one's to resolve."""
    given = {name: value for name, value in flags.items() if value is not None}
    twice = [name for name in given if any(text.partition("=")[0].strip() == name for text in settings)]
    if twice:
        raise ConfigError(f"{', '.join(twice)} is given by a flag and by --set; give it once")
    return [*(f"{name}={value}" for name, value in given.items()), *settings]


def _refuse_with_resume(given: dict[str, Any]) -> None:
    names = [_flag(name) for name, value in given.items() if value not in (None, [])]
    if names:
        raise ConfigError(f"--resume continues a run as it was started; leave out {', '.join(names)}")


def _flag(name: str) -> str:
    """`preprocessing.image_size` -> `--image-size`; what is written as it is typed stays."""
    return f"--{name.rpartition('.')[2].replace('_', '-')}" if name[0].islower() else name


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
