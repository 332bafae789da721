"""Does it learn? Networks trained from scratch on real photos, with the same budget, several seeds each.

    ours          efficientvit_m0 by `effvit.train.classification.fit`, with the recipe scratch_small
    timm          timm's efficientvit_m0 in a plain loop of timm's own components, with the same values
    mobilenetv3   timm's mobilenetv3_small_100 in the same plain loop, with the same values
    distilled     ours again, learning from the better of ours and mobilenetv3 as well

    python benchmarks/learning.py --data PHOTOS --folder WORK                           # all; an hour of one core
    python benchmarks/learning.py --data PHOTOS --folder WORK --only distilled --seeds 0
    python benchmarks/learning.py --data PHOTOS --quick                                 # does it run at all?

PHOTOS holds train.tar and val.tar, or train/CLASS/ and val/CLASS/. WORK keeps what is finished: a run that is there is
not trained again, and an interrupted one of ours goes on where it was. Several of these commands may share WORK, each
with its own --only or --seeds; the record, `results/learning.json`, and its curve show all that is finished there.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from learning_report import CURVE, RECORD, STUDENT, draw, table
from learning_runs import NETWORKS, Runs

from effvit.errors import DataError, EffvitError
from effvit.files import atomic_folder, make_output_folder, write_json
from effvit.train.config import TrainConfig
from effvit.train.distillation_config import Distillation
from effvit.train.recipes import recipe

EPOCHS = 20
"""Fewer than the recipe's, so that nine runs and their students fit into an hour or so of one core."""
DISTILLATION = Distillation(kind="soft", alpha=0.5, temperature=2.0)
"""Soft: on the photos it was trained on a teacher's first class is the label again, its doubts are what is new."""


def main() -> int:
    """Train what is not there yet, write the record and the curve; the exit code."""
    args = _arguments()
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as temporary:
        folder = make_output_folder(args.folder or Path(temporary) / "work")
        runs = Runs(folder, _photos(args.data, folder), settings(args), DISTILLATION)
        _train(runs, [(network, seed) for seed in args.seeds for network in args.only])
        record = runs.record(_command(args))
    print(table(record))
    if args.output is not None:
        write_json(args.output, record)
        draw(record, args.curve)
        print(f"record: {args.output.name}, curve: {args.curve.name}", file=sys.stderr)
    return 0


def settings(args: argparse.Namespace) -> TrainConfig:
    """The recipe, on the processor, with what the command changes of it."""
    config = recipe("scratch_small")
    changes: dict[str, Any] = {"device": "cpu", "num_workers": args.workers, "epochs": args.epochs}
    if args.quick:
        changes |= {"batch_size": 8, "preprocessing": config.preprocessing.at_size((32, 32))}
    if args.image_size is not None:
        changes["preprocessing"] = config.preprocessing.at_size((args.image_size, args.image_size))
    return dataclasses.replace(config, **changes)


class Progress:
    """Says after every epoch how it went, and how long all runs will still take."""

    def __init__(self, num_runs: int, num_epochs: int) -> None:
        self._num_runs, self._num_epochs = num_runs, num_epochs
        self._started = time.monotonic()
        self._label, self._before, self._epoch = "", 0, 0

    def begin(self, label: str, runs_before: int) -> None:
        """A run begins."""
        self._label, self._before, self._epoch = label, runs_before, 0

    def on_epoch(self, epoch: dict[str, Any]) -> None:
        """An epoch of it has ended."""
        self._epoch += 1
        done = self._before + self._epoch / self._num_epochs
        minutes = (time.monotonic() - self._started) / 60 * (self._num_runs - done) / done
        average = "" if epoch["top1_ema"] is None else f", {epoch['top1_ema']:.1%} averaged"
        print(
            f"{self._label}, epoch {self._epoch} of {self._num_epochs}: {epoch['top1']:.1%}{average},"
            f" {epoch['seconds']:.1f} s; {minutes:.0f} minutes left in all",
            file=sys.stderr,
        )


def _train(runs: Runs, wanted: list[tuple[str, int]]) -> None:
    """Train what is wanted and not there, teachers before students."""
    missing = [run for run in sorted(wanted, key=lambda run: run[0] == STUDENT) if runs.finished(*run) is None]
    if len(missing) < len(wanted):
        print(f"{len(wanted) - len(missing)} of {len(wanted)} runs are there already", file=sys.stderr)
    progress = Progress(len(missing), runs.config.epochs)
    for runs_before, (network, seed) in enumerate(missing):
        progress.begin(f"{network}, seed {seed}", runs_before)
        runs.train(network, seed, on_epoch=progress.on_epoch)


def _photos(data: Path, folder: Path) -> Path:
    """The folder of photos; tars are unpacked into the work folder, once."""
    if (data / "train").is_dir():
        return data
    parts = [data / "train.tar", data / "val.tar"]
    if not all(part.is_file() for part in parts):
        raise DataError(f"{data} has neither train/ and val/ nor train.tar and val.tar")
    photos = folder / "photos"
    if not photos.is_dir():
        with atomic_folder(photos) as temporary:
            for part in parts:
                with tarfile.open(part) as archive:
                    archive.extractall(temporary, filter="data")
    return photos


def _command(args: argparse.Namespace) -> str:
    """The command without places, which are nobody else's."""
    size = "" if args.image_size is None else f" --image-size {args.image_size}"
    quick = " --quick" if args.quick else ""
    return f"python benchmarks/learning.py --data PHOTOS --folder WORK --epochs {args.epochs}{size}{quick}"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the photos")
    parser.add_argument("--folder", type=Path, help="where runs are kept (default with --quick: nowhere)")
    parser.add_argument("--only", nargs="+", choices=NETWORKS, default=list(NETWORKS), help="default: all")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="default: 0 1 2")
    parser.add_argument("--epochs", type=int, help=f"default: {EPOCHS}; 1 with --quick")
    parser.add_argument("--image-size", type=int, metavar="PIXELS", help="default: the recipe's")
    parser.add_argument("--threads", type=int, default=1, help="thread count (default: 1)")
    parser.add_argument("--workers", type=int, default=0, help="processes that decode (default: 0)")
    parser.add_argument("--quick", action="store_true", help="1 epoch of 32 pixels, seed 0, no record")
    parser.add_argument("--output", type=Path, help="record to write (default: results/, none with --quick)")
    parser.add_argument("--curve", type=Path, default=CURVE, help="curve to draw (default: docs/images/learning.png)")
    args = parser.parse_args()
    args.epochs = args.epochs or (1 if args.quick else EPOCHS)
    if args.quick:
        args.seeds = [0]
    elif args.folder is None:
        parser.error("--folder is needed, so that an interruption costs nothing")
    elif args.output is None:
        args.output = RECORD
    return args


if __name__ == "__main__":
    try:
        sys.exit(main())
    except EffvitError as error:
        sys.exit(f"error: {error}")
