"""Does it learn? Networks trained from scratch on real photos, with the same budget, several seeds each.

    ours          efficientvit_m0 by `effvit.train.loop.fit`, with the recipe scratch_small
    timm          timm's efficientvit_m0 in a plain loop of timm's own components, with the same values
    mobilenetv3   timm's mobilenetv3_small_100 in the same plain loop, with the same values
    distilled     ours again, learning from the best of ours and mobilenetv3 as well

    python benchmarks/learning.py --data PHOTOS --folder WORK      # all; about an hour of one core
    python benchmarks/learning.py --data PHOTOS --folder WORK --only distilled --seeds 0
    python benchmarks/learning.py --data PHOTOS --quick            # does it run at all? keeps no record

PHOTOS holds train.tar and val.tar, or train/CLASS/ and val/CLASS/. WORK keeps what is finished: a run that is there
is not trained again, and an interrupted one of ours goes on where it was. Several of these commands may share WORK, each
with its own `--only` or `--seeds`; the last one writes the whole record, `results/learning.json`, and its curve.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import plain_loop
import torch
from learning_report import RIVAL, STUDENT, draw, mean_top1, table
from safetensors.torch import save_file

from effvit import create_model
from effvit.data.datasets import find_data
from effvit.environment import environment
from effvit.errors import EffvitError
from effvit.files import atomic_path, make_output_folder, read_json, write_json
from effvit.train.config import TrainConfig
from effvit.train.distillation_config import Distillation
from effvit.train.loop import fit
from effvit.train.recipes import recipe
from effvit.train.records import EpochRecord
from effvit.train.runs import RunFolder

ROOT = Path(__file__).resolve().parents[1]
RECORD = ROOT / "results" / "learning.json"
CURVE = ROOT / "docs" / "images" / "learning.png"
TIMM_NAMES = {RIVAL: "efficientvit_m0", "mobilenetv3": "mobilenetv3_small_100"}
NETWORKS = ("ours", *TIMM_NAMES, STUDENT)
TEACHERS = ("ours", "mobilenetv3")
"""Not timm's M0: it is the same network as ours."""
DISTILLATION = Distillation(kind="soft", alpha=0.5, temperature=2.0)
"""Soft, because a teacher trained on these photos is hardly ever wrong about them: its first class is the label again."""

OnEpoch = Callable[[dict[str, Any]], None]


def main() -> int:
    """Train what is not there yet, write the record and the curve; the exit code."""
    args = _arguments()
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as temporary:
        work = Work(make_output_folder(args.folder or temporary), _photos(args, Path(temporary)), settings(args))
        runs = [(network, seed) for network in args.only for seed in args.seeds]
        progress = Progress(len(runs) * work.config.epochs)
        for network, seed in sorted(runs, key=lambda run: (run[0] == STUDENT, run[1])):  # teachers first
            work.train(network, seed, progress)
        record = work.record(_command(args))
    print(table(record))
    if args.output is not None:
        write_json(args.output, record)
        draw(record, args.curve)
        print(f"record: {args.output.name}, curve: {args.curve.name}", file=sys.stderr)
    return 0


def settings(args: argparse.Namespace) -> TrainConfig:
    """The recipe, on the processor, with what the command changes of it."""
    config = recipe("scratch_small")
    changes: dict[str, Any] = {"device": "cpu", "num_workers": args.workers}
    if args.epochs is not None:
        changes["epochs"] = args.epochs
    if args.quick:
        small = config.preprocessing.at_size((32, 32))
        changes |= {"epochs": 1, "batch_size": 8, "preprocessing": small}
    return dataclasses.replace(config, **changes)


class Progress:
    """Says after every epoch how it went and how long all of it will still take."""

    def __init__(self, num_epochs: int) -> None:
        self.left = num_epochs
        self._started = time.monotonic()
        self._done = 0

    def skip(self, num_epochs: int) -> None:
        """These were there already."""
        self.left -= num_epochs

    def epoch(self, run: str, epoch: int, num_epochs: int, scores: dict[str, Any]) -> None:
        """This one was just trained."""
        self._done += 1
        self.left -= 1
        minutes = (time.monotonic() - self._started) / self._done * self.left / 60
        print(
            f"{run}: epoch {epoch} of {num_epochs}, top-1 {scores['top1']:.1%}, average {scores['top1_ema'] or 0:.1%},"
            f" {scores['seconds']:.1f} s; {minutes:.0f} minutes left in all",
            file=sys.stderr,
        )


@dataclass(frozen=True)
class Work:
    """The folder with all runs, finished and not: a JSON file for each finished one, beside its weights."""

    folder: Path
    photos: Path
    config: TrainConfig

    def train(self, network: str, seed: int, progress: Progress) -> None:
        """Train a network with a seed, unless that has been done."""
        name = f"{network}-{seed}"
        if (done := self._read(network, seed)) is not None:
            progress.skip(len(done["epochs"]))
            print(f"{name}: taken from {self._result(network, seed)}", file=sys.stderr)
            return
        config = dataclasses.replace(self.config, seed=seed)
        epochs: list[dict[str, Any]] = []

        def on_epoch(scores: dict[str, Any]) -> None:
            epochs.append(scores)
            progress.epoch(name, len(epochs), config.epochs, scores)

        teacher = None
        if network in TIMM_NAMES:
            self._train_timms(network, config, on_epoch)
        elif network == STUDENT:
            teacher = self._best_teacher()
            epochs[:0] = self._train_ours(name, self._with_teacher(config, teacher), on_epoch, progress)
        else:
            epochs[:0] = self._train_ours(name, config, on_epoch, progress)
        result = {"network": network, "seed": seed, "teacher": teacher, "config": self._identity(), "epochs": epochs}
        write_json(self._result(network, seed), result)

    def _train_ours(
        self, name: str, config: TrainConfig, on_epoch: OnEpoch, progress: Progress
    ) -> list[dict[str, Any]]:
        """Train ours, or go on; the epochs that were there before, which are not reported again."""
        data = find_data(self.photos)
        torch.manual_seed(config.seed)  # the initial weights
        model = create_model(
            config.model,
            num_classes=len(data.class_names),
            image_size=config.preprocessing.image_size,
            drop_path=config.drop_path,
            distilled=bool(config.distillation.teacher),
        )
        folder = self.folder / name
        resume = (folder / "run.json").is_file()
        run = RunFolder.open(folder) if resume else RunFolder.create(folder, config, data)
        before = [_scores(EpochRecord(**epoch)) for epoch in run.read_metrics()]
        progress.skip(len(before))
        fit(model, data, config, run, resume=resume, on_epoch=lambda record: on_epoch(_scores(record)))
        return before

    def _train_timms(self, network: str, config: TrainConfig, on_epoch: OnEpoch) -> None:
        model = plain_loop.train(
            TIMM_NAMES[network], self.photos, config, on_epoch=lambda epoch: on_epoch(epoch._asdict())
        )
        with atomic_path(self._weights(network, config.seed)) as temporary:
            save_file({key: value.contiguous() for key, value in model.state_dict().items()}, temporary)

    def _best_teacher(self) -> str:
        """The network that was better over all of its finished seeds."""
        record = self.record("")
        known = [network for network in TEACHERS if any(run["network"] == network for run in record["runs"])]
        if not known:
            raise EffvitError(f"no teacher for {STUDENT}: train {' or '.join(TEACHERS)} first")
        return max(known, key=lambda network: mean_top1(record, network))

    def _with_teacher(self, config: TrainConfig, teacher: str) -> TrainConfig:
        """Each student learns from the teacher of its own seed, or the first one there is."""
        seeds = [seed for seed in (config.seed, *range(100)) if self._read(teacher, seed) is not None]
        if teacher in TIMM_NAMES:
            where = {"teacher": f"timm:{TIMM_NAMES[teacher]}", "weights": str(self._weights(teacher, seeds[0]))}
        else:
            where = {"teacher": str(RunFolder.open(self.folder / f"{teacher}-{seeds[0]}").last_weights)}
        return dataclasses.replace(config, distillation=dataclasses.replace(DISTILLATION, **where))

    def record(self, command: str) -> dict[str, Any]:
        """Everything that is finished."""
        found = [self._read(network, seed) for network in NETWORKS for seed in range(100)]
        data = find_data(self.photos)
        return {
            "benchmark": "learning",
            "command": command,
            "data": {
                "name": "grocery_store",
                "num_classes": len(data.class_names),
                "num_train": len(data.train),
                "num_val": len(data.val),
            },
            "config": self.config.to_dict(),
            "distillation": DISTILLATION.to_dict(),
            "environment": environment(),
            "runs": [{key: value for key, value in run.items() if key != "config"} for run in found if run],
        }

    def _read(self, network: str, seed: int) -> dict[str, Any] | None:
        """A finished run; None if there is none of these settings."""
        path = self._result(network, seed)
        result: dict[str, Any] | None = read_json(path) if path.is_file() else None
        if result is not None and result["config"] != self._identity():
            raise EffvitError(f"{path} was made with other settings; give another --folder")
        return result

    def _identity(self) -> dict[str, Any]:
        """The settings that decide a result, as JSON gives them back."""
        values = dataclasses.replace(self.config, num_workers=0, seed=0).to_dict()
        return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}

    def _result(self, network: str, seed: int) -> Path:
        return self.folder / f"{network}-{seed}.json"

    def _weights(self, network: str, seed: int) -> Path:
        return self.folder / f"{network}-{seed}.safetensors"
