"""The verb that measures: benchmark."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from effvit.cli.options import (
    Device,
    ImageSize,
    Json,
    Output,
    SpacedLists,
    check_positive,
    check_threads,
    command_line,
    parse_numbers,
    parse_size,
)

if TYPE_CHECKING:
    from effvit.deploy.speed.records import BatchSize

_BREAKDOWNS = 3
"""Of how many models the page says where the time goes."""


def register(app: typer.Typer) -> None:
    """Add this verb to the command line."""
    app.command(
        "benchmark",
        cls=SpacedLists,
        epilog="\b\nExamples:\n  effvit benchmark efficientvit_m0 mobilenetv3_large_100\n"
        "  effvit benchmark runs/efficientvit_m0-1 timm/efficientvit_m0 --batch 1 16 --threads 1 --output speed/\n"
        "  effvit benchmark efficientvit_m5 timm/efficientvit_m5@plain --runtimes torch,onnxruntime\n"
        "  effvit benchmark efficientvit_m4 --protocol paper\n"
        "  effvit benchmark --compare before/record.json after/record.json",
    )(benchmark)


def benchmark(
    models: Annotated[
        list[str] | None, typer.Argument(help="Ours, timm's (timm/NAME for a shared name), runs, exported files.")
    ] = None,
    batch: Annotated[
        str | None, typer.Option(help="Pictures per call; max: best on CUDA.", show_default="1,16")
    ] = None,
    threads: Annotated[int | None, typer.Option(help="Threads within an operator.", show_default="torch's")] = None,
    runtimes: Annotated[str, typer.Option(help="torch, compile, cuda-graph, onnxruntime, openvino ...")] = "torch",
    precisions: Annotated[str | None, typer.Option(help="fp32, fp16, bf16, int8.", show_default="fp32")] = None,
    forms: Annotated[str, typer.Option(help="best: the fastest of all; plain: as its authors made it.")] = "best",
    protocol: Annotated[str, typer.Option(help="interleaved; or paper, which fixes the rest.")] = "interleaved",
    rounds: Annotated[int | None, typer.Option(help="Samples of each model, in turns.", show_default="20")] = None,
    seconds: Annotated[float | None, typer.Option(help="About how long one is.", show_default="0.2")] = None,
    pin: Annotated[bool, typer.Option(help="Hold the threads on as many cores.")] = True,
    cache: Annotated[Path | None, typer.Option(help="Keep exported files here.", metavar="DIR")] = None,
    compare: Annotated[
        tuple[Path, Path] | None, typer.Option(help="Two records beside each other.", metavar="BEFORE AFTER")
    ] = None,
    image_size: ImageSize = None,
    device: Device = "auto",
    output: Output = None,
    as_json: Json = False,
) -> None:
    """Measure models beside each other, in turns, each in its best form, with a control for the noise."""
    from effvit.cli.render import emit, progress, say
    from effvit.deploy.speed.benchmark import benchmark as measure
    from effvit.deploy.speed.benchmark import benchmark_as_paper
    from effvit.deploy.speed.page import write_report
    from effvit.deploy.speed.report import markdown_table
    from effvit.device import find_device
    from effvit.errors import ConfigError, unknown_name
    from effvit.files import make_output_folder, output_folder

    if compare is not None:
        _compare(models, compare, as_json)
        return
    if not models:
        raise ConfigError("Missing argument 'models'")
    if protocol not in ("interleaved", "paper"):
        raise ConfigError(unknown_name("protocol", protocol, ("interleaved", "paper")))
    check_positive(threads=threads, rounds=rounds)
    check_threads(threads)
    asked: dict[str, Any] = {
        "batch_sizes": None if batch is None else _batch_sizes(batch),
        "num_threads": threads,
        "precisions": None if precisions is None else _names(precisions),
        "rounds": rounds,
        "min_round_seconds": seconds,
    }
    given = {name: value for name, value in asked.items() if value is not None}
    if protocol == "paper" and given:
        raise ConfigError("--protocol paper fixes batch sizes, threads, precision and rounds: leave their flags out")
    shared: dict[str, Any] = {
        "image_size": parse_size(image_size),
        "device": find_device(device),
        "runtimes": _names(runtimes),
        "form": forms,
        "folder": None if cache is None else make_output_folder(cache),
        "on_step": say,
        "command": command_line(),
    }
    with nullcontext() if output is None else output_folder(output) as folder:
        with progress("measure") as on_round:
            if protocol == "paper":
                record = benchmark_as_paper(models, on_round=on_round, **shared)
            else:
                breakdowns = 0 if folder is None else _BREAKDOWNS
                record = measure(models, on_round=on_round, pin=pin, num_breakdowns=breakdowns, **given, **shared)
        if folder is not None:
            say(f"{', '.join(write_report(record, folder))} are in {folder}")
    emit(record.to_dict(), lambda _: markdown_table(record), as_json)


def _compare(models: list[str] | None, paths: tuple[Path, Path], as_json: bool) -> None:
    from effvit.cli.render import emit
    from effvit.deploy.speed.compare import compare
    from effvit.deploy.speed.records import read_record
    from effvit.deploy.speed.report import comparison_table
    from effvit.errors import ConfigError

    if models:
        raise ConfigError(f"--compare measures nothing: give models or two records, not both (got {', '.join(models)})")
    comparison = compare(*map(read_record, paths))
    emit(comparison.to_dict(), lambda _: comparison_table(comparison), as_json)


def _names(text: str) -> list[str]:
    """`torch, onnxruntime` -> ["torch", "onnxruntime"]; spaces do as well as commas."""
    return text.replace(",", " ").split()


def _batch_sizes(text: str) -> list[BatchSize]:
    """`1,16,max` -> [1, 16, "max"]."""
    parts = _names(text)
    numbers = iter(parse_numbers(",".join(part for part in parts if part != "max") or "1", "--batch"))
    return ["max" if part == "max" else next(numbers) for part in parts]
