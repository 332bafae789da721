"""Verbs around shipping: export, demo."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from effvit.cli.options import (
    Device,
    ImageSize,
    Json,
    Output,
    SpacedLists,
    check_positive,
    parse_batch,
    parse_size,
)


def register(app: typer.Typer) -> None:
    """Add these verbs to the command line."""
    app.command(
        "export",
        cls=SpacedLists,
        epilog="\b\nExamples:\n  effvit export runs/efficientvit_m0-1 --format openvino --precision int8\n"
        "  effvit export efficientvit_m5 --weights imagenet --output m5.onnx --preprocessing --batch 1\n"
        "  effvit export --list",
    )(export)
    app.command(
        "demo",
        epilog="\b\nExamples:\n  effvit demo\n  effvit demo photos/ --output demo-photos",
    )(demo)


def _list_formats(asked: bool) -> None:
    """Print the table of formats and leave."""
    if not asked:
        return
    from effvit.cli.exporting import formats
    from effvit.cli.render import emit, formats_table

    emit(formats(), formats_table, False)
    raise typer.Exit


def export(
    source: Annotated[str, typer.Argument(help="Run, weights folder, Hub id; or a name and --weights.", metavar="RUN")],
    file_format: Annotated[str, typer.Option("--format", help="See --list.", metavar="NAME")] = "onnx",
    precision: Annotated[str, typer.Option(help="fp32, fp16 or int8.", metavar="NAME")] = "fp32",
    weights: Annotated[str | None, typer.Option(help="For a name: imagenet, a path, or a Hub id.")] = None,
    image_size: ImageSize = None,
    batch: Annotated[
        str | None,
        typer.Option(
            help="Pictures per call, or dynamic.", metavar="N", show_default="dynamic where it can be, else 1"
        ),
    ] = None,
    preprocessing: Annotated[
        bool, typer.Option("--preprocessing", help="Take uint8 pictures (batch, height, width, 3), normalise inside.")
    ] = False,
    calibration: Annotated[
        Path | None, typer.Option(help="Pictures for int8.", metavar="DIR", show_default="the run's training pictures")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Pictures to compare on.", metavar="DIR", show_default="the run's held-out ones")
    ] = None,
    output: Output = None,
    as_json: Json = False,
    list_formats: Annotated[
        bool, typer.Option("--list", help="Show the formats and leave.", is_eager=True, callback=_list_formats)
    ] = False,
) -> None:
    """Write a network for a runtime, run the file there and compare, before anything is reported."""
    from effvit.cli.classifiers import open_network, run_of
    from effvit.cli.exporting import ExportRequest, default_path, export_network
    from effvit.cli.render import emit, exported_text

    request = ExportRequest.checked(
        file_format=file_format,
        precision=precision,
        image_size=parse_size(image_size),
        batch=parse_batch(batch),
        preprocessing=preprocessing,
        calibration=calibration,
        data=data,
    )
    run = run_of(source)
    path = output or default_path(source, run, request)
    network, info = open_network(source, weights)
    emit(export_network(network, info, run, path, request), exported_text, as_json)


def demo(
    data: Annotated[Path | None, typer.Argument(help="Folder of photos; left out: scikit-learn's digits.")] = None,
    output: Annotated[Path, typer.Option(help="Where to write.", metavar="DIR")] = Path("demo"),
    epochs: Annotated[int | None, typer.Option(help="Passes over the pictures.", show_default="fitting")] = None,
    device: Device = "auto",
) -> None:
    """The whole road in a few minutes: train, evaluate, export, verify, measure, and show where everything is."""
    from effvit.cli.demo import run_demo

    check_positive(epochs=epochs)
    run_demo(data, output=output, epochs=epochs, device=device)
