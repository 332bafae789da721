"""The runs of `learning.py`: a folder that keeps every finished one, and trains what is missing."""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import plain_loop
from learning_report import OTHER, OURS, RIVAL, STUDENT, last_top1
from safetensors.torch import save_file

from effvit import create_model
from effvit.data.datasets import find_data
from effvit.environment import environment
from effvit.errors import EffvitError
from effvit.files import atomic_path, read_json, write_json
from effvit.studies.training import Entrant, find_finished, train_entrant
from effvit.train.config import TrainConfig
from effvit.train.distillation_config import Distillation
from effvit.train.records import EpochRecord
from effvit.train.runs import RunFolder

TIMM_NAMES = {RIVAL: "efficientvit_m0", OTHER: "mobilenetv3_small_100"}
NETWORKS = (OURS, *TIMM_NAMES, STUDENT)
TEACHERS = (OURS, OTHER)
"""Not timm's M0: it is the same network as ours."""

OnEpoch = Callable[[dict[str, Any]], None]
"""Told top1, top1_ema and seconds of an epoch that was just trained."""


@dataclass(frozen=True)
class Runs:
    """A folder with a JSON file for each finished run, beside its weights and the run folders of ours."""

    folder: Path
    photos: Path
    """Folder with `train/CLASS/` and `val/CLASS/`."""
    config: TrainConfig
    """How every network is trained; the seed is put in for each run."""
    distillation: Distillation
    """How the student learns; the teacher is put in."""

    def finished(self, network: str, seed: int) -> dict[str, Any] | None:
        """What a finished run came to; None if there is none.

        Raises:
            EffvitError: If it was made with other settings.
        """
        path = self._file(network, seed, "json")
        if not path.is_file():
            return None
        result: dict[str, Any] = read_json(path)
        if result.pop("settings") != self._settings():
            raise EffvitError(f"{path} was made with other settings; give another --folder")
        return result

    def train(self, network: str, seed: int, *, on_epoch: OnEpoch) -> None:
        """Train a network, or go on where ours was interrupted, and keep the result."""
        config = dataclasses.replace(self.config, seed=seed)
        teacher = None
        if network in TIMM_NAMES:
            epochs = self._train_timms(network, config, on_epoch)
        else:
            if network == STUDENT:
                teacher, distillation = self._teacher(seed)
                config = dataclasses.replace(config, distillation=distillation)
            epochs = self._train_ours(network, config, on_epoch)
        made_with = {"commit": environment()["commit"], "settings": self._settings()}
        result = {"network": network, "seed": seed, "teacher": teacher, "epochs": epochs}
        write_json(self._file(network, seed, "json"), {**result, **made_with})

    def record(self, command: str) -> dict[str, Any]:
        """Everything that is finished, for `results/`."""
        data = find_data(self.photos)
        found = [self.finished(network, seed) for network in NETWORKS for seed in self._seeds(network)]
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
            "distillation": self.distillation.to_dict(),
            "environment": environment(),
            "runs": found,
        }

    def _train_ours(self, network: str, config: TrainConfig, on_epoch: OnEpoch) -> list[dict[str, Any]]:
        data = find_data(self.photos)
        entrant = Entrant(
            name=config.model,
            make=lambda: create_model(
                config.model,
                num_classes=len(data.class_names),
                image_size=config.preprocessing.image_size,
                window=config.window or None,
                drop_path=config.drop_path,
                distilled=bool(config.distillation.teacher),
            ),
        )
        path, seed = self._file(network, config.seed, "run"), config.seed
        result = find_finished(entrant, data, config, path, seed=seed)
        if result is None:
            result = train_entrant(
                entrant, data, config, path, seed=seed, on_epoch=lambda record: on_epoch(_scores(record))
            )
        if result.failure is not None:
            raise EffvitError(f"{network}, seed {seed}: {result.failure}")
        return [_scores(record) for record in result.epochs]

    def _train_timms(self, network: str, config: TrainConfig, on_epoch: OnEpoch) -> list[dict[str, Any]]:
        model, epochs = plain_loop.train(
            TIMM_NAMES[network], self.photos, config, on_epoch=lambda epoch: on_epoch(epoch._asdict())
        )
        with atomic_path(self._file(network, config.seed, "safetensors")) as temporary:
            save_file({key: value.contiguous() for key, value in model.state_dict().items()}, temporary)
        return [epoch._asdict() for epoch in epochs]

    def _teacher(self, seed: int) -> tuple[str, Distillation]:
        """The network that was best over its seeds, as trained with this one or, if that is missing, the first."""
        scores = {network: last_top1(self.record(""), network) for network in TEACHERS}
        known = {network: statistics.fmean(values) for network, values in scores.items() if values}
        if not known:
            raise EffvitError(f"no teacher for {STUDENT}: train {' or '.join(TEACHERS)} first")
        teacher = max(known, key=lambda network: known[network])
        seeds = self._seeds(teacher)
        chosen = seed if seed in seeds else seeds[0]
        if teacher in TIMM_NAMES:
            weights = self._file(teacher, chosen, "safetensors")
            where = {"teacher": f"timm:{TIMM_NAMES[teacher]}", "weights": str(weights)}
        else:
            where = {"teacher": str(RunFolder.open(self._file(teacher, chosen, "run")).last_weights)}
        return teacher, dataclasses.replace(self.distillation, **where)

    def _seeds(self, network: str) -> list[int]:
        """Seeds of the finished runs."""
        return sorted(int(path.stem.rpartition("-")[2]) for path in self.folder.glob(f"{network}-*.json"))

    def _settings(self) -> dict[str, Any]:
        """What decides a result, as JSON gives it back."""
        settings = {"config": self.config.to_dict(), "distillation": self.distillation.to_dict()}
        settings["config"]["num_workers"] = 0  # changes the time and nothing else
        return dict(json.loads(json.dumps(settings)))

    def _file(self, network: str, seed: int, suffix: str) -> Path:
        return self.folder / f"{network}-{seed}.{suffix}"


def _scores(record: EpochRecord) -> dict[str, Any]:
    return {"top1": record.val_top1, "top1_ema": record.val_top1_ema, "seconds": record.seconds}
