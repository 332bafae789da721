"""What the verbs that train share, whatever is trained: where a run goes on, what is said, what an end leaves."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from effvit.cli.render import TrainingProgress, say
from effvit.data.samples import Skipped
from effvit.device import find_device
from effvit.train.distributed import is_main, local_device, num_processes
from effvit.train.run_config import Config
from effvit.train.runs import RunFolder


def on_known_device(config: Config) -> Config:
    """The settings with `auto` replaced by the device it stands for.

    Raises:
        ConfigError: If the device is not there.
    """
    find_device(local_device(config.device))
    return config if config.device != "auto" else replace(config, device=find_device("auto").type)


def continued(config: Config, *, device: str | None, workers: int | None) -> Config:
    """The settings of a run that goes on, by default where it was.

    Raises:
        ConfigError: If the device is not there.
    """
    workers = config.num_workers if workers is None else workers
    return on_known_device(replace(config, device=device or config.device, num_workers=workers))


def together() -> str:
    """How many processes train, for a sentence; empty for one."""
    return f", {num_processes()} processes" if num_processes() > 1 else ""


def say_left_out(skipped: Sequence[Skipped]) -> None:
    """Count what is not used, if anything is, and name the first."""
    if skipped:
        first = skipped[0]
        say(f"left out: {len(skipped)}, the first {first.path} ({first.reason}); all in split.json")


def say_where_it_stands(run: RunFolder, num_epochs: int, *, other_processes: str) -> None:
    """Say from where a run goes on, and that it was begun with another number of processes.

    Args:
        run: The run.
        num_epochs: Epochs of the whole run.
        other_processes: What another number of them makes different.
    """
    before = run.read_record().get("num_processes", 1)
    if before != num_processes():
        say(f"note: begun with {before} processes, continued with {num_processes()}: {other_processes}")
    state = run.load_checkpoint()
    done, step = len(state.get("history", ())), state.get("position", {}).get("step", 0)
    if done == num_epochs:
        say(f"{run.path} is finished: all {done} epochs are done")
    elif done or step:
        say(f"continuing {run.path} after epoch {done} of {num_epochs}" + (f" and {step} steps" if step else ""))


@contextmanager
def taken_back_if_untrained(run: RunFolder) -> Iterator[None]:
    """Take a new run folder away if the block fails before anything was trained: a setting was refused at last."""
    try:
        yield
    except BaseException:
        if is_main() and not run.checkpoint.is_file():
            run.discard()
        raise


def train_with_progress(train: Callable[..., Sequence[Any]], run: RunFolder, config: Config, *, verb: str) -> None:
    """Train with a bar, and say how a run ended that did not go through all its epochs.

    Args:
        train: Called with `on_step` and `on_epoch`; gives the epochs.
        run: Its run.
        config: Its settings.
        verb: The verb that continues it.
    """
    try:
        with TrainingProgress() as bar:
            history = train(on_step=bar.on_step, on_epoch=bar.on_epoch)
        if len(history) < config.epochs:
            say(f"stopped after epoch {len(history)} of {config.epochs}: no better one in {config.patience} epochs")
    except KeyboardInterrupt:
        if run.checkpoint.is_file():
            say(f"the last checkpoint is kept; continue with: {verb} --resume {shlex.quote(str(run.path))}")
        raise
