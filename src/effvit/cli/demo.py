"""The whole road in one command, on real pictures: what `make demo` runs."""

from __future__ import annotations

import shlex
import time
from dataclasses import replace
from pathlib import Path

from effvit.cli.classifiers import open_network
from effvit.cli.evaluation_jobs import evaluate_run
from effvit.cli.exporting import ExportRequest, export_network
from effvit.cli.jobs import start_training
from effvit.cli.options import command_line
from effvit.cli.overview import write_overview
from effvit.cli.render import exported_text, progress, say, scores
from effvit.data.augmentation import Augmentation
from effvit.data.datasets import find_data
from effvit.data.digits import DIGIT_SIZE, write_digits
from effvit.deploy.speed.benchmark import CONTROL, Record
from effvit.deploy.speed.benchmark import benchmark as measure
from effvit.deploy.speed.report import save_plot
from effvit.device import find_device
from effvit.files import make_output_folder, write_json
from effvit.preprocessing import Preprocessing
from effvit.train.config import TrainConfig
from effvit.train.runs import next_run_path

PEERS = ("timm/efficientvit_m0", "mobilenetv3_large_100")
"""What people would pick instead: timm's implementation of the same network, and the usual small CNN."""

# Digits must not be mirrored, and a crop of a third of one is no digit; colours they have none.
_DIGITS = TrainConfig(
    epochs=14,
    augmentation=Augmentation(crop_scale=(0.7, 1.0), horizontal_flip=0.0, color_jitter=0.0),
    preprocessing=Preprocessing(image_size=(DIGIT_SIZE, DIGIT_SIZE), crop_ratio=1.0),
)
_PHOTOS = TrainConfig(epochs=20, preprocessing=Preprocessing(image_size=(128, 128)))


def run_demo(data: Path | None, *, output: Path, epochs: int | None, device: str) -> None:
    """Train, evaluate, export, verify and measure; see `effvit demo --help`."""
    started = time.perf_counter()
    if data is not None:
        find_data(data)  # what is wrong with it is said before anything is written
    make_output_folder(output)
    config = _PHOTOS if data else _DIGITS
    config = replace(config, epochs=epochs or config.epochs)
    if data is None:
        say(f"1/5 pictures: scikit-learn's 1,797 scanned digits, as class folders in {output / 'digits'}")
        data = write_digits(output / "digits")
    else:
        say(f"1/5 pictures: {data}")

    say(f"2/5 train {config.model} from random weights, {config.epochs} epochs")
    path = next_run_path(output / "runs", config.model)
    run = start_training(
        data, [f"device={find_device(device)}"], weights=None, output=path, command=command_line(), base=config
    )

    say("3/5 evaluate the best weights on the held-out pictures")
    say(scores(evaluate_run(run)))

    say("4/5 export the deploy form, and verify the file on every held-out picture")
    network, info = open_network(str(run.path), None)
    exported = export_network(network, info, run, run.path / "model.onnx", ExportRequest())
    say(exported_text(exported))

    say("5/5 measure its speed beside two peers, in turns, on one thread of the CPU")
    record = _measure(run.path, config.preprocessing.image_size)
    _print_speeds(record)
    if _is_busy(record):
        say("  the machine is busy: the same model differs from itself by more than 10 %, so compare nothing here")
    write_json(run.path / "benchmark.json", record.to_dict())
    save_plot(record, run.path / "benchmark.png")
    write_overview(run.path)

    print(_summary(run.path, time.perf_counter() - started))


def _measure(run: Path, image_size: tuple[int, int]) -> Record:
    with progress("measure") as on_round:
        return measure(
            [run, *PEERS],
            batch_sizes=(1, 16),
            image_size=image_size,
            num_threads=1,
            rounds=12,
            min_round_seconds=0.1,
            warmup_seconds=0.5,
            on_round=on_round,
            command=command_line(),
        )


def _print_speeds(record: Record) -> None:
    for row in record.rows:
        note = "the same again: its distance from 1 is the noise" if row.is_control else row.form
        name = row.model.removeprefix(CONTROL)
        say(
            f"  batch {row.batch_size:2d}  {name:24s} {row.timing.latency_ms:7.2f} ms"
            f"  {row.relative.median:5.2f} x the time  ({note})"
        )


def _is_busy(record: Record) -> bool:
    """Whether the first model differs from itself by more than a tenth."""
    return any(abs(row.relative.median - 1) > 0.1 for row in record.rows if row.is_control)


def _summary(run: Path, seconds: float) -> str:
    places = {
        "overview.png": "all pictures on one sheet",
        "eval/confusion.png": "which class is taken for which",
        "eval/worst.png": "the most wrong pictures",
        "eval/summary.json": "accuracy, also by class; predictions.csv beside it",
        "curves.png": "loss and accuracy by epoch",
        "weights/": "config.json and model.safetensors of the best epoch",
        "model.onnx": "the exported, verified network with its class names",
        "benchmark.png": "speed beside the peers; benchmark.json has every sample",
        "run.json": "command, configuration, versions, device, seed",
    }
    lines = [f"done in {seconds:.0f} s; everything is in {run}", *(f"  {k:20s} {v}" for k, v in places.items())]
    files = [shlex.quote(str(path)) for path in (run, run / "model.onnx")]
    lines += ["try it:", *(f"  effvit predict {file} PICTURE_OR_FOLDER" for file in files)]
    return "\n".join(lines)
