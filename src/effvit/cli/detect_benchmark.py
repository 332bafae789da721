"""The verb `detect benchmark`: detectors timed beside each other."""

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import Annotated

import typer

from effvit.cli.options import Json, Output, SpacedLists, check_positive, check_threads, command_line, parse_size
from effvit.errors import ConfigError


def register(group: typer.Typer) -> None:
    """Add `benchmark` to the verbs of `effvit detect`."""
    group.command(
        "benchmark",
        cls=SpacedLists,
        epilog="\b\nExamples:\n  effvit detect benchmark runs/cells torchvision:ssdlite320_mobilenet_v3_large\n"
        "  effvit detect benchmark efficientvit_m0 timm:mobilenetv3_large_100 --image-size 320 --runtimes torch,onnx"
        " --output speed/",
    )(benchmark)


def benchmark(
    models: Annotated[
        list[str],
        typer.Argument(help="Runs, exported files, backbones (random weights), torchvision:NAME.", metavar="MODELS..."),
    ],
    image_size: Annotated[str, typer.Option(help="Side in pixels, or height and width.", metavar="SIZE")] = "320",
    task: Annotated[
        str, typer.Option(help="Of a backbone's detector: boxes (RetinaNet), masks (Mask R-CNN).")
    ] = "boxes",
    runtimes: Annotated[str, typer.Option(help="torch, onnx.")] = "torch",
    threads: Annotated[int | None, typer.Option(help="Threads within an operator.", show_default="torch's")] = None,
    rounds: Annotated[int, typer.Option(help="Samples of each detector, in turns.")] = 20,
    seconds: Annotated[float, typer.Option(help="About how long one is.")] = 0.5,
    boxes: Annotated[int, typer.Option(help="Boxes in the last suppression, with random weights.")] = 100,
    pin: Annotated[bool, typer.Option(help="Hold the threads on as many cores.")] = True,
    output: Output = None,
    as_json: Json = False,
) -> None:
    """Measure detectors beside each other at batch 1, from pixels to boxes, all at one picture size."""
    from effvit.cli.render import emit, progress, say
    from effvit.detection.benchmark import benchmark_detectors
    from effvit.detection.speed_report import speed_table, write_speed_report
    from effvit.files import output_folder

    check_positive(threads=threads, rounds=rounds, boxes=boxes)
    check_threads(threads)
    if not 0 < seconds < math.inf:
        raise ConfigError(f"--seconds must be a finite number above 0, got {seconds}")
    size = parse_size(image_size)
    assert size is not None
    with nullcontext() if output is None else output_folder(output) as folder:
        with progress("measure") as on_round:
            record = benchmark_detectors(
                models,
                image_size=size,
                task=task,
                runtimes=runtimes.replace(",", " ").split(),
                num_threads=threads,
                rounds=rounds,
                min_round_seconds=seconds,
                pin=pin,
                num_boxes=boxes,
                on_round=on_round,
                on_step=say,
                command=command_line(),
            )
        if folder is not None:
            say(f"{', '.join(write_speed_report(record, folder))} are in {folder}")
    emit(record.to_dict(), lambda _: speed_table(record), as_json)
