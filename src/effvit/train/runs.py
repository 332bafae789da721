"""The run folder: what was run, on what, how it went, and what is needed to go on.

    run.json          command, configuration, classes, environment, start, end, status
    split.json        the training and validation pictures, by class, relative to the data folder
    metrics.jsonl     one line an epoch
    curves.png        the same as a picture
    unreadable.txt    the pictures that could not be read, if there are any
    weights/          the network that validated best: what evaluation, prediction and export take
    weights-last/     the network of the last epoch
    checkpoints/      the state after some step: what `--resume` takes
    eval/             the last evaluation, and report.html with all of it on one page
    tensorboard/      the curves again, if they were asked for

Every file is replaced whole, so a run that is killed at any moment leaves a folder that can be read.
"""

from __future__ import annotations

import datetime
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch

from effvit.data.datasets import PictureData
from effvit.data.splits import split_from_dict, split_to_dict
from effvit.environment import environment
from effvit.errors import RunError, first_line
from effvit.files import atomic_path, make_output_folder, read_json, remove, write_json, write_text
from effvit.model.config import EfficientViTConfig
from effvit.train.config import TrainConfig
from effvit.train.run_config import Config, RunConfig

CLASSIFICATION = "classification"


@dataclass(frozen=True)
class RunFolder:
    """Paths in a run folder, and reading and writing of what lies there."""

    path: Path

    @classmethod
    def create(cls, path: Path | str, config: TrainConfig, data: PictureData, *, command: str = "") -> RunFolder:
        """Make a new run folder for a classifier and write down what is about to be run.

        Args:
            path: The folder; made with its parents.
            config: What to run.
            data: The pictures; their split is kept, so that later pictures do not change it.
            command: The command line, for the reader of run.json.

        Raises:
            RunError: If the folder holds something already, or cannot be written.
        """
        return cls.create_for(
            CLASSIFICATION,
            path,
            config,
            root=data.root,
            class_names=data.class_names,
            split=split_to_dict(data),
            command=command,
        )

    @classmethod
    def create_for(
        cls,
        task: str,
        path: Path | str,
        config: RunConfig,
        *,
        root: Path,
        class_names: Sequence[str],
        split: dict[str, Any],
        command: str = "",
    ) -> RunFolder:
        """Make a new run folder for any kind of training.

        Args:
            task: What is trained, for those who open the folder: `classification`, `detection`.
            path: The folder; made with its parents.
            config: What to run.
            root: The folder of the pictures.
            class_names: Name of each class.
            split: The training and held-out pictures, as plain values.
            command: The command line, for the reader of run.json.

        Raises:
            RunError: If the folder holds something already, or cannot be written.
        """
        path = Path(path)
        if path.is_dir() and any(path.iterdir()):
            raise RunError(f"{path} is not empty: give a new folder, or continue that run with --resume {path}")
        run = cls(make_output_folder(path))
        write_json(run.path / "split.json", split)
        run.update_record(
            task=task,
            status="running",
            command=command,
            data_root=str(root.resolve()),
            class_names=list(class_names),
            config=config.to_dict(),
            environment=environment(),
            started=_now(),
            ended=None,
        )
        return run

    @classmethod
    def open(cls, path: Path | str) -> RunFolder:
        """Open a run folder that exists.

        Raises:
            RunError: If there is none.
        """
        path = Path(path)
        if not path.is_dir():
            raise RunError(f"no such run folder: {path}")
        if not (path / "run.json").is_file():
            raise RunError(f"{path} is not a run folder: it has no run.json")
        return cls(path)

    @property
    def weights(self) -> Path:
        """Folder of the best epoch's network."""
        return self.path / "weights"

    @property
    def last_weights(self) -> Path:
        """Folder of the last epoch's network."""
        return self.path / "weights-last"

    @property
    def checkpoint(self) -> Path:
        """File of the state that a resumed run goes on from."""
        return self.path / "checkpoints" / "last.pt"

    def read_record(self) -> dict[str, Any]:
        """The content of run.json."""
        return cast(dict[str, Any], read_json(self.path / "run.json"))

    def update_record(self, **values: Any) -> None:
        """Change entries of run.json."""
        path = self.path / "run.json"
        write_json(path, {**(self.read_record() if path.exists() else {}), **values})

    def note_unreadable(self, reasons: Iterable[str]) -> None:
        """Add pictures that could not be read to unreadable.txt, one line each, that is there only if there are any."""
        path = self.path / "unreadable.txt"
        known = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        lines = dict.fromkeys([*known, *reasons])
        if len(lines) > len(known):
            write_text(path, "".join(f"{line}\n" for line in lines))

    def remove_leftovers(self) -> None:
        """Remove what a killed process was just writing under temporary names."""
        for path in self.path.rglob(".*.partial*"):
            remove(path)

    def discard(self) -> None:
        """Take back what `create` wrote, and the folder if nothing else lies in it."""
        for name in ("run.json", "split.json"):
            remove(self.path / name)
        with suppress(OSError):
            self.path.rmdir()

    def finish(self, status: str) -> None:
        """Note how the run ended: finished, interrupted or failed."""
        self.update_record(status=status, ended=_now())

    def refuse_other_task(self, task: str) -> None:
        """Refuse a run of another kind of training; those from before there were several are of classifiers.

        Raises:
            RunError: If it is one; names the verb that takes it.
        """
        found = self.read_record().get("task", CLASSIFICATION)
        if found != task:
            verb = "effvit detect" if found == "detection" else "effvit"
            raise RunError(f"{self.path} is a run of {found}, not of {task}: use {verb} train, eval, predict, export")

    def read_config(self) -> TrainConfig:
        """The configuration a classifier's run was started with."""
        return self.read_config_as(CLASSIFICATION, TrainConfig)

    def read_config_as(self, task: str, kind: type[Config]) -> Config:
        """The configuration a run was started with.

        Raises:
            RunError: If it is a run of another task, or run.json is damaged.
        """
        self.refuse_other_task(task)
        with content_of(self.path / "run.json"):
            return kind.from_dict(self.read_record()["config"])

    def read_network(self) -> EfficientViTConfig:
        """The network the run was started with, which weights may have brought along."""
        with content_of(self.path / "run.json"):
            return EfficientViTConfig.from_dict(self.read_record()["network"])

    def read_data(self, root: Path | str | None = None) -> PictureData:
        """The split the run was started with.

        Args:
            root: Where the data folder lies now, if it was moved.

        Raises:
            RunError: If the data folder is gone, or the split cannot be read.
        """
        with content_of(self.path / "run.json"):
            record = self.read_record()
            folder = Path(root if root is not None else record["data_root"])
            class_names = tuple(record["class_names"])
        if not folder.is_dir():
            raise RunError(f"the pictures of {self.path} are gone: there is no folder {folder} any more")
        with content_of(self.path / "split.json"):
            return split_from_dict(read_json(self.path / "split.json"), folder, class_names)

    def read_metrics(self) -> list[dict[str, Any]]:
        """The epochs so far, one dictionary each."""
        path = self.path / "metrics.jsonl"
        with content_of(path):
            return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def write_metrics(self, epochs: Iterable[dict[str, Any]]) -> None:
        """Replace metrics.jsonl: whole, so that a repeated epoch cannot appear twice."""
        write_text(self.path / "metrics.jsonl", "".join(json.dumps(epoch) + "\n" for epoch in epochs))

    def save_checkpoint(self, state: dict[str, Any]) -> None:
        """Replace the checkpoint; the data is on the disk before the old one is let go."""
        make_output_folder(self.checkpoint.parent)
        with atomic_path(self.checkpoint) as temporary, temporary.open("wb") as file:
            try:
                torch.save(state, file)
            except RuntimeError as error:
                if isinstance(error.__context__, KeyboardInterrupt | OSError):  # torch's writer trips over both
                    raise error.__context__ from error
                raise
            file.flush()
            os.fsync(file.fileno())

    def load_checkpoint(self) -> dict[str, Any]:
        """Read the checkpoint onto the CPU; nothing in it is run as code.

        Raises:
            RunError: If there is none, or it is damaged.
        """
        if not self.checkpoint.is_file():
            raise RunError(
                f"{self.path} cannot be continued: it has no {self.checkpoint.relative_to(self.path)}, so it ended"
                " before anything was trained; start it anew"
            )
        try:
            state = torch.load(self.checkpoint, map_location="cpu", weights_only=True)
        except Exception as error:  # zip, pickle and torch each raise their own on a damaged file
            raise RunError(f"{self.checkpoint} is damaged: it cannot be read as a checkpoint") from error
        if not isinstance(state, dict):
            raise RunError(f"{self.checkpoint} is damaged: it is not a checkpoint of a run")
        return state


@contextmanager
def content_of(path: Path) -> Iterator[None]:
    """Turn what goes wrong with the content of a file into one line that names the file."""
    try:
        yield
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise RunError(f"{path} is not what a run writes: {type(error).__name__}: {first_line(error)}") from error


def next_run_path(parent: Path | str, model: str) -> Path:
    """The first of parent/model-1, parent/model-2, ... that does not exist."""
    number = 1
    while (path := Path(parent) / f"{model}-{number}").exists():
        number += 1
    return path


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
