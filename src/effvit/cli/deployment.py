"""Verbs around shipping: export, benchmark, demo."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from effvit.cli.options import (
    Device,
    ImageSize,
    Json,
    Output,
    check_positive,
    check_threads,
    command_line,
    parse_numbers,
    parse_size,
)


def register(app: typer.Typer) -> None:
    """Add these verbs to the command line."""
    app.command(
        "export",
        epilog="\b\nExamples:\n  effvit export runs/efficientvit_m0-1 --format onnx\n"
        "  effvit export efficientvit_m5 --weights imagenet --output m5.onnx",
    )(export)
    app.command(
        "benchmark",
        epilog="\b\nExamples:\n  effvit benchmark efficientvit_m0 mobilenetv3_large_100\n"
        "  effvit benchmark runs/efficientvit_m0-1 timm/efficientvit_m0 --batch 1,16 --threads 1 --output speed/",
    )(benchmark)
    app.command(
        "demo",
        epilog="\b\nExamples:\n  effvit demo\n  effvit demo photos/ --output demo-photos",
    )(demo)


def export(
    source: Annotated[str, typer.Argument(help="Run, weights folder, Hub id; or a name and --weights.", metavar="RUN")],
    file_format: Annotated[str, typer.Option("--format", help="onnx.", metavar="NAME")] = "onnx",
    weights: Annotated[str | None, typer.Option(help="For a name: imagenet, a path, or a Hub id.")] = None,
    image_size: ImageSize = None,
    output: Output = None,
    as_json: Json = False,
) -> None:
    """Write a network for a runtime, run the file there and compare, before anything is reported."""
    from effvit.cli.classifiers import open_network, run_of
    from effvit.cli.jobs import export_network
    from effvit.cli.render import emit, exported_text
    from effvit.deploy.export import FORMATS
    from effvit.errors import ConfigError, unknown_name

    if file_format not in FORMATS:
        raise ConfigError(unknown_name("format", file_format, FORMATS))
    run = run_of(source)
    suffix = FORMATS[file_format].suffix
    path = output or (run.path / f"model{suffix}" if run is not None else Path(f"{Path(source).name}{suffix}"))
    network, info = open_network(source, weights)
    result = export_network(network, info, run, path, file_format=file_format, image_size=parse_size(image_size))
    emit(result, exported_text, as_json)


def benchmark(
    models: Annotated[list[str], typer.Argument(help="Ours, timm's (timm/NAME for a shared name), runs, .onnx files.")],
    batch: Annotated[str, typer.Option(help="Pictures per call, with commas.")] = "1,16",
    threads: Annotated[int | None, typer.Option(help="Threads within an operator.", show_default="torch's")] = None,
    runtimes: Annotated[str, typer.Option(help="torch, onnxruntime, openvino; several with commas.")] = "torch",
    rounds: Annotated[int, typer.Option(help="Samples of each model, taken in turns.")] = 20,
    seconds: Annotated[float, typer.Option(help="About how long one sample is.")] = 0.2,
    image_size: ImageSize = None,
    device: Device = "auto",
    output: Output = None,
    as_json: Json = False,
) -> None:
    """Measure models beside each other, in turns, each in its best form, with a control for the noise."""
    from effvit.cli.render import emit, progress, say
    from effvit.deploy.benchmark import benchmark as measure
    from effvit.deploy.report import markdown_table, save_plot
    from effvit.device import find_device
    from effvit.files import output_folder, write_json, write_text

    check_positive(threads=threads, rounds=rounds)
    check_threads(threads)
    batch_sizes, size, where = parse_numbers(batch, "--batch"), parse_size(image_size), find_device(device)
    with nullcontext() if output is None else output_folder(output) as folder:
        with progress("measure") as on_round:
            record = measure(
                models,
                batch_sizes=batch_sizes,
                image_size=size,
                num_threads=threads,
                device=where,
                runtimes=[name.strip() for name in runtimes.split(",")],
                rounds=rounds,
                min_round_seconds=seconds,
                on_round=on_round,
                command=command_line(),
            )
        if folder is not None:
            write_json(folder / "record.json", record.to_dict())
            write_text(folder / "table.md", markdown_table(record))
            save_plot(record, folder / "plot.png")
            say(f"record.json, table.md and plot.png are in {folder}")
    emit(record.to_dict(), lambda _: markdown_table(record), as_json)


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
