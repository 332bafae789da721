"""Verbs around shipping: export, benchmark, demo."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from effvit.cli.options import (
    Device,
    ImageSize,
    Json,
    Output,
    check_positive,
    command_line,
    parse_numbers,
    parse_size,
)

if TYPE_CHECKING:
    from torch import Tensor

    from effvit.data.datasets import Sample
    from effvit.deploy.export import Exported
    from effvit.preprocessing import Preprocessing


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
    source: Annotated[
        str, typer.Argument(help="Run, weights folder, Hub id, or a name with --weights.", metavar="RUN")
    ],
    file_format: Annotated[str, typer.Option("--format", help="onnx.", metavar="NAME")] = "onnx",
    weights: Annotated[str | None, typer.Option(help="For a name: imagenet, a path, or a Hub id.")] = None,
    image_size: ImageSize = None,
    output: Output = None,
    as_json: Json = False,
) -> None:
    """Write a network for a runtime, run the file there and compare, before anything is reported."""
    from effvit.cli.classifiers import run_of
    from effvit.cli.render import emit
    from effvit.deploy.export import FORMATS
    from effvit.errors import ConfigError, unknown_name
    from effvit.files import make_output_folder

    if file_format not in FORMATS:
        raise ConfigError(unknown_name("format", file_format, FORMATS))
    run = run_of(source)
    suffix = FORMATS[file_format].suffix
    path = output or (run.path / f"model{suffix}" if run is not None else Path(f"{Path(source).name}{suffix}"))
    make_output_folder(path.parent)
    emit(_exported_values(export_to(source, path, file_format, weights, image_size)), _exported_text, as_json)


def export_to(source: str, path: Path, file_format: str, weights: str | None, image_size: str | None) -> Exported:
    """Export, verified on the run's held-out pictures where there are some."""
    from effvit.cli.classifiers import run_of
    from effvit.cli.render import say
    from effvit.deploy.export import export as export_network
    from effvit.errors import ConfigError
    from effvit.model.checkpoints import WeightsInfo
    from effvit.model.factory import create_model, find_weights, load
    from effvit.model.variants import VARIANTS

    size = parse_size(image_size)
    if source in VARIANTS:
        if weights is None:
            raise ConfigError(f"{source} is a name without weights: add --weights imagenet, a path or a Hub id")
        network = create_model(source, weights=weights)
        info = find_weights(weights, source).info
    elif weights is not None:
        raise ConfigError(f"--weights goes with a name of `effvit models`, and {source!r} is none")
    else:
        network, info = load(source)
    run = run_of(source)
    samples = [sample for sample in run.read_data().val if sample.path.is_file()] if run is not None else []
    preprocessing = _resized(info.preprocessing, size)
    say(f"writing {path} and comparing it with the network on " + (f"{len(samples)} pictures" if samples else "noise"))
    return export_network(
        network,
        path,
        info=WeightsInfo(class_names=info.class_names, preprocessing=preprocessing, provenance=info.provenance),
        batches=_pictures(samples, preprocessing) if samples else None,
        file_format=file_format,
    )


def benchmark(
    models: Annotated[list[str], typer.Argument(help="Ours, timm's (timm/NAME for a shared name), runs, .onnx files.")],
    batch: Annotated[str, typer.Option(help="Pictures per call, with commas.")] = "1,16",
    threads: Annotated[int | None, typer.Option(help="Threads within an operator.", show_default="torch's")] = None,
    runtimes: Annotated[str, typer.Option(help="torch, onnxruntime, or both with a comma.")] = "torch",
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
    from effvit.files import make_output_folder, write_json, write_text

    check_positive(threads=threads, rounds=rounds)
    folder = make_output_folder(output) if output is not None else None
    with progress("measure") as on_round:
        record = measure(
            models,
            batch_sizes=parse_numbers(batch, "--batch"),
            image_size=parse_size(image_size),
            num_threads=threads,
            device=find_device(device),
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


def _resized(preprocessing: Preprocessing, size: tuple[int, int] | None) -> Preprocessing:
    from dataclasses import replace

    return preprocessing if size is None else replace(preprocessing, image_size=size)


def _pictures(samples: list[Sample], preprocessing: Preprocessing) -> Iterable[Tensor]:
    """Prepared pictures, batch by batch."""
    from effvit.data.loaders import PictureLoader
    from effvit.data.transforms import eval_transform, normalize

    for batch in PictureLoader(samples, eval_transform(preprocessing), batch_size=32).batches():
        if len(batch.images):
            yield normalize(batch.images, preprocessing)


def _exported_values(exported: Exported) -> dict[str, Any]:
    return {
        "path": str(exported.path),
        "num_bytes": exported.num_bytes,
        "verification": exported.verification.to_dict(),
        "class_names": exported.metadata.class_names,
    }


def _exported_text(values: dict[str, Any]) -> str:
    checked = values["verification"]
    return (
        f"{values['path']}: {values['num_bytes'] / 2**20:.1f} MiB; run and compared on {checked['num_pictures']}"
        f" pictures: same first class on {checked['top1_agreement']:.2%}, largest error"
        f" {checked['max_rel_error']:.1e} of the largest logit (allowed {checked['tolerance']:.0e})"
    )
