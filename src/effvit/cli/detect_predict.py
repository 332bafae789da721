"""The verb `detect predict`: things found on pictures and in a video, drawn, and as COCO's JSON."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from effvit.cli.options import Device, Json
from effvit.errors import ConfigError, DataError

if TYPE_CHECKING:
    from rich.table import Table

Model = Annotated[
    str, typer.Argument(help="Detector: its run, its weights folder, or an exported .onnx file.", metavar="MODEL")
]


def register(group: typer.Typer) -> None:
    """Add `predict` to the verbs of `effvit detect`."""
    group.command(
        "predict",
        epilog="\b\nExamples:\n  effvit detect predict runs/cells photos/ --out found\n"
        "  effvit detect predict detector.onnx street.jpg --video street.mp4 --score 0.5 --out found",
    )(predict)


def predict(
    model: Model,
    images: Annotated[
        list[Path] | None, typer.Argument(help="Pictures, and folders of them.", metavar="IMAGES...")
    ] = None,
    video: Annotated[Path | None, typer.Option(help="A video to find things in as well.", metavar="FILE")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the drawn pictures and the JSON.", metavar="DIR")] = None,
    score: Annotated[float, typer.Option(help="Things found less surely are left out, 0..1.")] = 0.3,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Find things on pictures: draws boxes, masks, names and scores, and writes them as COCO results."""
    from effvit.cli.detect_output import PredictionFolder, check_output, list_inputs
    from effvit.cli.render import emit, progress, say
    from effvit.detection.drawing import draw_detections
    from effvit.detection.extras import import_extra
    from effvit.detection.finders import open_finder
    from effvit.detection.predict import check_score, predict_pictures
    from effvit.detection.video import predict_video
    from effvit.files import output_folder

    if not images and video is None:
        raise ConfigError("nothing to find things on: name pictures or folders, or --video FILE")
    if out is None:
        raise ConfigError("--out is missing: the folder for the drawn pictures")
    check_score(score)
    import_extra("supervision", "drawing detections")
    inputs = list_inputs(images or [])
    if video is not None and not video.is_file():
        raise DataError(f"no such video: {video}")
    check_output(out, [*(images or []), *([video] if video else [])])
    finder = open_finder(model, device)
    if score < finder.config.score_threshold:
        say(f"note: the detector itself leaves out what is below {finder.config.score_threshold:g}")
    with output_folder(out), PredictionFolder(out, finder.config, model=model, score=score) as folder:
        paths = [entry.path for entry in inputs]
        with progress("pictures") as on_picture:
            everything = predict_pictures(finder, paths, score=score, on_picture=on_picture)
            for entry, found in zip(inputs, everything, strict=True):
                if found.detections is None or found.picture is None:
                    say(f"unreadable: {found.error}")
                    folder.add_unreadable(entry, found.error or "")
                else:
                    drawn = draw_detections(found.picture, found.detections, finder.config.class_names)
                    folder.add_picture(entry, found.picture.size, found.detections, drawn)
        if video is not None:
            with progress("frames") as on_frame:
                write_video = partial(predict_video, finder, video, score=score, on_frame=on_frame)
                summary = folder.add_video(video, lambda path, keep: write_video(path, keep=keep))
            if summary.num_unread:
                say(f"note: {video} is cut off: {summary.num_unread} of its frames are not there or damaged")
        folder.check_any_readable()
    say(f"{folder.written} and detections.json with images.json (COCO) are in {out}")
    emit(folder.rows, _table, as_json)


def _table(rows: list[dict[str, Any]]) -> Table:
    """Things of each class and the surest score, a row a picture."""
    from rich.table import Table

    from effvit.analysis.report import counted
    from effvit.cli.render import cell

    table = Table()
    table.add_column("picture", overflow="fold")
    table.add_column("things", overflow="fold")
    table.add_column("top score", justify="right")
    for row in rows:
        counts = ", ".join(f"{count} {cell(name)}" for name, count in row["counts"].items()) or "nothing"
        things = f"{counted(row['num_frames'], 'frame')}: {counts}" if "num_frames" in row else counts
        score = "" if row["top_score"] is None else f"{row['top_score']:.2f}"
        table.add_row(cell(row["path"]), "unreadable" if row["error"] else things, score)
    return table
