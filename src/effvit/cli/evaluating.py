"""Verbs around a trained network: eval, predict."""

from __future__ import annotations

import re
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
    from collections.abc import Iterable

    from effvit.data.samples import Sample
    from effvit.train.runs import RunFolder

_SOURCE_HELP = "Run, weights folder, Hub id, exported file; or NAME, timm:NAME, torchvision:NAME."
Source = Annotated[str, typer.Argument(help=_SOURCE_HELP, metavar="MODEL")]
Weights = Annotated[
    str | None, typer.Option(help="Weights for a NAME: a file, for ours also imagenet. Left out: download.")
]
Like = Annotated[
    str | None,
    typer.Option(
        help="For an ONNX file of another tool: has the classes and preprocessing of this model.", metavar="MODEL"
    ),
]


def register(app: typer.Typer) -> None:
    """Add these verbs to the command line."""
    app.command(
        "eval",
        cls=SpacedLists,
        epilog="\b\nExamples:\n  effvit eval runs/efficientvit_m0-1 --calibrate\n"
        "  effvit eval timm:mobilenetv3_small_100 imagenet/val --json",
    )(evaluate)
    app.command(
        "predict",
        cls=SpacedLists,
        epilog="\b\nExamples:\n  effvit predict runs/efficientvit_m0-1 some.jpg folder/ --top-k 5\n"
        "  effvit predict model.openvino folder/ --json",
    )(predict)


def evaluate(
    source: Source,
    data: Annotated[
        str | None,
        typer.Argument(help="Class folders, shards or a CSV list; left out: the run's own held-out pictures."),
    ] = None,
    weights: Weights = None,
    like: Like = None,
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="Fit a temperature and write it beside the weights.")
    ] = False,
    image_size: ImageSize = None,
    batch_size: BatchSize = 64,
    workers: Workers = 0,
    device: Device = "auto",
    max_unreadable: Annotated[
        float, typer.Option(help="Share of the pictures that may be unreadable.", metavar="SHARE")
    ] = 0.01,
    output: Output = None,
    as_json: Json = False,
) -> None:
    """Evaluate on labelled pictures: accuracy with intervals, by class, calibration, the most wrong pictures."""
    from effvit.cli.classifiers import open_classifier, run_of
    from effvit.cli.evaluation_jobs import (
        HELD_OUT,
        about_evaluation,
        evaluate_samples,
        find_labelled,
        write_calibration,
        write_results,
    )
    from effvit.cli.render import emit, evaluation_table, say
    from effvit.files import output_folder

    check_positive(batch_size=batch_size)
    if not 0 <= max_unreadable <= 1:
        raise ConfigError(f"--max-unreadable must be in 0..1, got {max_unreadable}")
    run = run_of(source)
    if data is None and run is None:
        raise ConfigError(f"{source} is not a run folder, so it has no pictures of its own: give DATA")
    if calibrate and not Path(source).is_dir():
        raise ConfigError(f"--calibrate writes into a run or a weights folder, and {source} is none")
    if calibrate and image_size is not None:
        raise ConfigError(
            "--calibrate fits the temperature of the size the weights are used at; leave out --image-size"
        )
    classifier = open_classifier(source, device, parse_size(image_size), weights=weights, like=like)
    if data is None and run is not None:
        samples, name, place = run.read_data().val, HELD_OUT, "eval"
    else:
        assert data is not None
        samples, name, place = find_labelled(data, classifier), data, f"eval-{_name_of(data)}"
    where = output or (run.path / place if run is not None else Path(place))
    _refuse_foreign(where)
    with output_folder(where) as folder:
        if data is not None and run is not None:
            _say_if_seen_in_training(run, samples)
        evaluation = evaluate_samples(
            classifier,
            samples,
            batch_size=batch_size,
            workers=workers,
            max_unreadable=max_unreadable,
            keep_logits=calibrate,
        )
    about = about_evaluation(source, name, classifier)
    if calibrate:
        about["calibrated"] = write_calibration(Path(source), evaluation, classifier, name)
    summary = write_results(folder, evaluation, about)
    say(f"summary.json, predictions.csv, confusion.png, worst.png and more are in {folder}")
    if run is not None and folder == run.path / "eval":
        from effvit.train.report_page import write_report

        say(f"the page for colleagues is {write_report(run)}")
    emit(summary, evaluation_table, as_json)


def _name_of(data: str) -> str:
    """What a source is called, for the name of a folder: no suffix of a list or a shard, no sign of a pattern."""
    return re.sub(r"\.(csv|tsv|tar)$|\*", "", Path(data).resolve().name, flags=re.IGNORECASE).strip("-") or "data"


def _refuse_foreign(folder: Path) -> None:
    """Raise a `RunError` for a folder that holds something else than an evaluation, such as the pictures."""
    if folder.is_dir() and any(folder.iterdir()) and not (folder / "summary.json").is_file():
        raise RunError(
            f"{folder} is not empty and has no summary.json of an earlier evaluation: give a new or an empty folder"
            " with --output"
        )


def predict(
    source: Source,
    pictures: Annotated[list[Path], typer.Argument(help="Pictures, and folders of them.")],
    weights: Weights = None,
    like: Like = None,
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
    classifier = open_classifier(source, device, parse_size(image_size), weights=weights, like=like)
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


def _say_if_seen_in_training(run: RunFolder, samples: Iterable[Sample]) -> None:
    from effvit.cli.render import say

    try:
        trained_on = run.read_data().train
    except RunError:
        return  # the pictures it was trained on are gone, so these are others
    evaluated = {(sample.path.resolve(), sample.member) for sample in samples}
    seen = {(sample.path.resolve(), sample.member) for sample in trained_on} & evaluated
    if seen:
        say(
            f"note: {len(seen)} of {len(evaluated)} pictures were trained on, so this accuracy is too good;"
            " leave DATA out to evaluate on the run's held-out pictures"
        )
