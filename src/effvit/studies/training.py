"""Train several networks on one budget, so that they can be compared; an interruption loses nothing.

Every network is trained with the same settings, and with the same seed it sees the same pictures in the same
order, varied in the same way. Each has a run folder of its own, `FOLDER/NAME-SEED/`, which is what `effvit train`
leaves: what is finished there is not trained again, what was interrupted goes on exactly where it was.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from effvit.data.datasets import PictureData
from effvit.data.splits import split_to_dict
from effvit.errors import ConfigError, RunError, first_line
from effvit.files import make_output_folder, read_json, remove, write_json
from effvit.model.network import EfficientViT
from effvit.model.tensors import WEIGHTS_FILE, write_tensors
from effvit.studies.holding import held
from effvit.studies.kept import as_json
from effvit.studies.progress import StudyClock, StudyStep
from effvit.train.checkpoint import FREE_ON_RESUME
from effvit.train.classification import fit
from effvit.train.config import TrainConfig
from effvit.train.outcome import SaveWeights
from effvit.train.records import EpochRecord, StepReport
from effvit.train.runs import RunFolder

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True, kw_only=True)
class Entrant:
    """A network that is to be trained beside others."""

    name: str
    """What its run folder is called: letters, digits, dots, dashes, underscores."""
    make: Callable[[], nn.Module]
    """Gives it with new random weights and as many classes as the pictures have; called after torch was seeded."""
    description: Mapping[str, Any] = field(default_factory=dict)
    """What decides which network it is, plain JSON values: a run of another one is not taken for this one's."""


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What a training came to."""

    name: str
    """The entrant's."""
    seed: int
    """Of the initial weights and of everything random in the training."""
    folder: Path
    """Its run folder."""
    epochs: tuple[EpochRecord, ...]
    """The finished epochs."""
    failure: str | None = None
    """Why the training could not be brought to its end, such as a loss that is not finite; None if it was."""

    @property
    def top1(self) -> float | None:
        """Share of right predictions after the last epoch, 0..1; None if the training failed.

        Of the moving average where one is kept. No epoch is chosen by the pictures that judge it.
        """
        if self.failure is not None or not self.epochs:
            return None
        last = self.epochs[-1]
        return last.val_top1 if last.val_top1_ema is None else last.val_top1_ema

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; no place of this machine is among them."""
        epochs = [
            {"top1": record.val_top1, "top1_ema": record.val_top1_ema, "seconds": record.seconds}
            for record in self.epochs
        ]
        return {"name": self.name, "seed": self.seed, "top1": self.top1, "failure": self.failure, "epochs": epochs}


def train_all(
    entrants: Sequence[Entrant],
    data: PictureData,
    config: TrainConfig,
    folder: Path | str,
    *,
    seeds: Sequence[int] = (0,),
    only_finished: bool = False,
    command: str = "",
    on_step: Callable[[StudyStep], None] | None = None,
    on_run: Callable[[Trained], None] | None = None,
) -> list[Trained]:
    """Train every entrant once with each seed, or take what is finished.

    Seeds are the outer loop: an interrupted study has all networks with the first seed before any with the
    second. A training that fails by itself (a loss that is not finite, too little memory) ends only itself.

    Args:
        entrants: The networks.
        data: The pictures.
        config: How each is trained; its `model` and `seed` are put in for each run.
        folder: Where the run folders are, and come.
        seeds: Seeds.
        only_finished: Whether to train nothing and leave out what is not finished.
        command: The command line, for the reader of a run folder.
        on_step: Told where everything is after every step.
        on_run: Told of every training that ended, those that were finished before included.

    Returns:
        One for each seed and entrant, in this order.

    Raises:
        ConfigError: If names or seeds are not allowed.
        RunError: If a run folder was made with other settings (before anything is trained), cannot be written
            or continued, if another process trains it, if every training failed, or nothing is finished where only
            that is wanted.
        DataError, WeightsError: As `effvit.train.classification.fit`.
    """
    _check_names(entrants, seeds)
    folder = make_output_folder(folder)
    wanted = [(entrant, seed, folder / f"{entrant.name}-{seed}") for seed in seeds for entrant in entrants]
    finished = {path: find_finished(entrant, data, config, path, seed=seed) for entrant, seed, path in wanted}
    if only_finished:
        wanted = [entry for entry in wanted if finished[entry[2]] is not None]
        if not wanted:
            raise RunError(f"nothing in {folder} is finished yet")
    missing = [path for _, _, path in wanted if finished[path] is None]
    clock = StudyClock(len(missing))
    results = []
    for entrant, seed, path in wanted:
        result = finished[path]
        if result is None:
            clock.begin(entrant.name, seed)

            def tell(step: StepReport) -> None:
                at = clock.at(step)
                if on_step is not None:
                    on_step(at)

            with held(path):
                result = train_entrant(entrant, data, config, path, seed=seed, command=command, on_step=tell)
        results.append(result)
        if on_run is not None:
            on_run(result)
    failures = [result.failure for result in results if result.failure is not None]
    if len(failures) == len(results):
        raise RunError(f"every training in {folder} failed, the first so: {failures[0]}")
    return results


def train_entrant(
    entrant: Entrant,
    data: PictureData,
    config: TrainConfig,
    path: Path,
    *,
    seed: int = 0,
    command: str = "",
    on_step: Callable[[StepReport], None] | None = None,
    on_epoch: Callable[[EpochRecord], None] | None = None,
) -> Trained:
    """Train one network into its run folder, or go on with what is there; see `train_all`.

    Args:
        entrant: The network.
        data: The pictures.
        config: How.
        path: The run folder, new or with a run of the same settings.
        seed: Put into the settings.
        command: The command line.
        on_step: As in `fit`.
        on_epoch: As in `fit`.

    Returns:
        What it came to, a failure of the training itself included.
    """
    config = _settings(config, entrant, seed)
    torch.manual_seed(seed)  # the initial weights
    network = entrant.make()
    run, resume = _open(entrant, data, config, path, command)
    save_weights = None
    if isinstance(network, EfficientViT):
        run.update_record(network=network.config.to_dict())  # so that `effvit train --resume` can go on with it too
    else:
        save_weights = _saver(entrant, data, config)
    hooks = {"on_step": on_step, "on_epoch": on_epoch}
    try:
        fit(network, data, config, run, resume=resume, save_weights=save_weights, **hooks)  # type: ignore[arg-type]
    except RunError as error:
        places = (f"{data.root}/", f"{path.parent}/")  # nobody else's, and failures are kept in records
        failure = first_line(error).replace(places[0], "").replace(places[1], "")
        return _trained(entrant, seed, run, failure=failure)
    # Of no more use: three times the weights, in every run. Without it nobody can go on by mistake.
    remove(run.checkpoint.parent)
    return _trained(entrant, seed, run)


def find_finished(entrant: Entrant, data: PictureData, config: TrainConfig, path: Path, *, seed: int) -> Trained | None:
    """What a finished run came to; None if it is not there or not finished.

    Raises:
        RunError: If there is a run, finished or not, of other settings, pictures or another network.
    """
    if not (path / "run.json").is_file():
        return None
    run = RunFolder.open(path)
    _check_same(run, entrant, data, _settings(config, entrant, seed))
    return _trained(entrant, seed, run) if run.read_record().get("status") == "finished" else None


def _settings(config: TrainConfig, entrant: Entrant, seed: int) -> TrainConfig:
    return replace(config, model=entrant.name, seed=seed)


def _open(entrant: Entrant, data: PictureData, config: TrainConfig, path: Path, command: str) -> tuple[RunFolder, bool]:
    """The run folder, and whether there is something to go on from."""
    if (path / "run.json").is_file():
        run = RunFolder.open(path)
        _check_same(run, entrant, data, config)
        if run.checkpoint.is_file():
            return run, True
        run.remove_leftovers()
        run.discard()  # killed before it had begun
        with suppress(OSError):
            run.checkpoint.parent.rmdir()
    run = RunFolder.create(path, config, data, command=command)
    run.update_record(entrant=dict(entrant.description))
    return run, False


def _check_same(run: RunFolder, entrant: Entrant, data: PictureData, config: TrainConfig) -> None:
    """Refuse a run that would not be the same if it were made now."""
    record = run.read_record()
    before, now = record.get("config", {}), as_json(config.to_dict())
    other = [name for name in now if name not in FREE_ON_RESUME and before.get(name) != now[name]]
    if "entrant" in record and record["entrant"] != as_json(dict(entrant.description)):
        other.append("the network")
    if record.get("class_names") != list(data.class_names) or read_json(run.path / "split.json") != as_json(
        split_to_dict(data)
    ):
        other.append("the pictures")
    if other:
        raise RunError(
            f"{run.path} was made with other settings ({', '.join(other)}): give another folder, or remove that one"
        )


def _trained(entrant: Entrant, seed: int, run: RunFolder, *, failure: str | None = None) -> Trained:
    epochs = tuple(EpochRecord(**values) for values in run.read_metrics())
    return Trained(name=entrant.name, seed=seed, folder=run.path, epochs=epochs, failure=failure)


def _saver(entrant: Entrant, data: PictureData, config: TrainConfig) -> SaveWeights:
    """The writer of networks that are not ours: the state dict, and beside it what it is for."""

    def save_weights(folder: Path, network: nn.Module, record: EpochRecord) -> None:
        make_output_folder(folder)
        write_tensors(folder / WEIGHTS_FILE, network.state_dict())
        about = {
            "network": dict(entrant.description),
            "class_names": list(data.class_names),
            "preprocessing": config.to_dict()["preprocessing"],
            "epoch": record.epoch,
        }
        write_json(folder / "about.json", about)

    return save_weights


def _check_names(entrants: Sequence[Entrant], seeds: Sequence[int]) -> None:
    names = [entrant.name for entrant in entrants]
    if not names or len(set(names)) != len(names):
        raise ConfigError(f"a study needs networks with different names, got {', '.join(names) or 'none'}")
    if unfit := [name for name in names if not _NAME.fullmatch(name)]:
        raise ConfigError(f"a name must be letters, digits, dots, dashes and underscores, got {unfit[0]!r}")
    if not seeds or len(set(seeds)) != len(seeds) or min(seeds) < 0:
        raise ConfigError(f"seeds must be different numbers from 0 up, got {', '.join(map(str, seeds)) or 'none'}")
