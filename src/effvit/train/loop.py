"""The training loop, to be read from top to bottom.

Everything random in a step is seeded from (config.seed, epoch, step, process), so a run continued from
its last checkpoint gives, on the same machine, bit for bit the weights of one that was never interrupted.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import nn

from effvit.data.loaders import UnreadableCount
from effvit.data.randomness import derive_seed
from effvit.data.views import dead_workers_in_one_line
from effvit.device import find_device
from effvit.errors import ConfigError, DataError, EffvitError, RunError
from effvit.train.checkpoint import Position, RunState, load_state, save_state
from effvit.train.distributed import (
    gather,
    is_main,
    local_device,
    rank,
    share_from_main,
    sum_over_processes,
)
from effvit.train.learner import Learner
from effvit.train.optimizer import learning_rate_at
from effvit.train.outcome import keep_epoch
from effvit.train.parts import fewest_pictures
from effvit.train.records import EpochFacts, StepReport, stops_early
from effvit.train.run_config import RunConfig
from effvit.train.running_loss import RunningLoss
from effvit.train.runs import RunFolder
from effvit.train.task import Task, TaskBatch
from effvit.train.tensorboard import Writer

_SECONDS_WORTH_A_DRAWING = 10
"""Epochs that take longer each redraw the curves, which takes a third of a second; others wait for the end."""


@dead_workers_in_one_line()
def fit_task(
    model: nn.Module,
    task: Task,
    run: RunFolder,
    *,
    on_step: Callable[[StepReport], None] | None = None,
    on_epoch: Callable[[Any], None] | None = None,
    resume: bool = False,
) -> list[Any]:
    """Train a network on whatever a task is about, and keep the weights that were best in validation, and the last.

    An interruption (Ctrl-C, a kill, a full disk, a loss that is not finite) leaves the run folder with a
    checkpoint at most `config.checkpoint_minutes` old, from which `resume=True` goes on exactly. Under
    `torchrun`, inside `distributed.joined`, every process calls this; the main one writes.

    Args:
        model: The network; trained in place.
        task: Data, settings, loss, validation, and how its weights are written.
        run: Where to write, made by `RunFolder.create` or found by `RunFolder.open`.
        on_step: Called after every training step and validation batch.
        on_epoch: Called after every epoch, when it is on the disk.
        resume: Whether to go on with what `run` holds.

    Returns:
        One record an epoch, of the task's kind, those before a resumption included.

    Raises:
        ConfigError: If the device is not there, the task cannot start, or a resumed run was started with another
            configuration.
        DataError: If too many pictures cannot be read.
        RunError: If the loss is not finite, or the run folder cannot be written or continued.
    """
    config = task.config
    device = find_device(local_device(config.device))
    if device.type == "cuda":
        torch.cuda.set_device(device)
    loss = task.begin(device)
    share_from_main(model.to(device).state_dict().values())
    if config.sync_norm and device.type != "cuda":
        raise ConfigError(f"sync_norm works on CUDA only, got device {device}")
    learner = Learner(model, config, loss, device)

    state = load_state(run, learner, task.epoch_type) if resume else RunState()
    board = None
    try:
        if is_main():
            if config.tensorboard:
                board = Writer(run.path / "tensorboard", epochs_done=len(state.history))
            run.remove_leftovers()
            run.update_record(status="running", ended=None)
            if not resume:
                save_state(run, learner, state)  # the initial weights: a run killed early can go on
        while len(state.history) < config.epochs and not stops_early(state.history, config.patience):
            train_one_epoch(learner, task, state, run, on_step=on_step)
            started = time.monotonic()
            scores, unreadable = _validate(learner, task, len(state.history), on_step)
            seconds = time.monotonic() - started
            state.history.append(_record(learner, task, state, scores, num_unreadable=len(unreadable), seconds=seconds))
            state.position = Position()
            if is_main():
                if board is not None:
                    board.write(state.history[-1])
                run.note_unreadable(unreadable)
                with _told_with(f"the end of epoch {len(state.history)}"):
                    keep_epoch(run, learner, state.history, task.save)
                    save_state(run, learner, state)
                if state.history[-1].seconds > _SECONDS_WORTH_A_DRAWING:
                    task.draw(run.path / "curves.png", state.history)
                if on_epoch is not None:
                    on_epoch(state.history[-1])
    except BaseException as error:
        with suppress(EffvitError):  # the disk may be what failed; the first error is the one to tell
            _close(run, task, state.history, "interrupted" if isinstance(error, KeyboardInterrupt) else "failed")
        raise
    finally:
        if board is not None:
            board.close()
    _close(run, task, state.history, "finished")
    return state.history


def train_one_epoch(
    learner: Learner,
    task: Task,
    state: RunState,
    run: RunFolder,
    *,
    on_step: Callable[[StepReport], None] | None = None,
) -> None:
    """One pass over the training pictures, from where `state` stands; writes a checkpoint from time to time.

    Args:
        learner: The network and what trains it.
        task: The training pictures, and what becomes of a batch of them.
        state: Where the run stands; its position is moved on, and adds up all processes in the end.
        run: Where checkpoints go.
        on_step: Called after every step.

    Raises:
        DataError: If too many pictures cannot be read.
        RunError: If the loss is not finite; names epoch, step and pictures.
    """
    config, epoch, position, loader = learner.config, len(state.history), state.position, task.train_loader
    learner.begin_epoch(epoch)
    unreadable = UnreadableCount(len(loader.samples), config.max_unreadable)
    running = RunningLoss(learner.device, f"epoch {epoch + 1}")
    saved_at = resumed_at = time.monotonic()
    waited_before = position.seconds_waited
    for step, batch in enumerate(loader.batches(epoch, start=position.step), start=position.step):
        place = f"epoch {epoch + 1}, step {step + 1}"
        position.num_unreadable += len(batch.unreadable)
        is_late = is_main() and time.monotonic() - saved_at > 60 * config.checkpoint_minutes
        num_pictures, is_short, checkpoint_is_due, some_unreadable = _agree(batch, config, is_late)
        if some_unreadable:
            with _told_with(place):
                unreadable.add(gather(batch.unreadable))
        if not is_short:  # batch statistics need two pictures; one left over waits for the next epoch
            torch.manual_seed(derive_seed("steps", config.seed, epoch, step, rank()))  # drop path and dropout
            number = epoch * len(loader) + step
            rate = learning_rate_at(number, config.epochs * len(loader), config, steps_per_epoch=len(loader))
            micro_batches = task.micro_batches(batch, derive_seed("batch", config.seed, epoch, step, rank()))
            loss_sum = learner.step(micro_batches, num_pictures=num_pictures, learning_rate=rate, number=number)
            names = [loader.samples[index].name for index in batch.indices[:3].tolist()]
            position.loss_sum += running.add(loss_sum, len(batch.targets), step=step + 1, pictures=names)
            position.num_pictures += len(batch.targets)
        position.step = step + 1
        if on_step is not None:
            on_step(StepReport("train", epoch + 1, config.epochs, step + 1, len(loader), running.last))
        if checkpoint_is_due:
            position.loss_sum += running.read()
            learner.check_finite(place)
            now = time.monotonic()
            position.seconds += now - resumed_at
            position.seconds_waited = waited_before + loader.seconds_waited
            position.add_up(everywhere=False)
            if is_main():
                with _told_with(place):
                    save_state(run, learner, state)
            saved_at = resumed_at = now
    position.loss_sum += running.read()
    learner.check_finite(f"epoch {epoch + 1}")
    if is_main():
        run.note_unreadable(unreadable.reasons)
    position.seconds += time.monotonic() - resumed_at
    position.seconds_waited = waited_before + loader.seconds_waited
    position.add_up(everywhere=True)
    if position.num_pictures == 0:
        fewest = fewest_pictures(config)
        raise DataError(
            f"nothing was trained in epoch {epoch + 1}: no step had {fewest} readable pictures for each process"
        )


def _agree(batch: TaskBatch, config: RunConfig, is_late: bool) -> tuple[int, bool, bool, bool]:
    """What all must know of a step: its pictures, whether one process has too few, whether to save, if some failed."""
    num_pictures = len(batch.targets)
    is_short = num_pictures < fewest_pictures(config)
    values = torch.tensor([num_pictures, is_short, is_late, len(batch.unreadable)])
    total, num_short, num_late, num_unreadable = sum_over_processes(values).tolist()
    return total, num_short > 0, num_late > 0, num_unreadable > 0


@contextmanager
def _told_with(place: str) -> Iterator[None]:
    """Add to an error where the run stood."""
    try:
        yield
    except (DataError, RunError) as error:
        raise type(error)(f"{error}; at {place}") from error


def _validate(
    learner: Learner, task: Task, epoch: int, on_step: Callable[[StepReport], None] | None
) -> tuple[dict[str, Any], Sequence[str]]:
    """Evaluate the trained weights and their moving average, in one pass over the pictures."""
    networks = {"trained": learner.model}
    if learner.average is not None:
        networks["average"] = learner.average.module
    for network in networks.values():
        share_from_main(network.buffers())

    def on_batch(done: int, total: int) -> None:
        if on_step is not None:
            on_step(StepReport("val", epoch + 1, learner.config.epochs, done, total, None))

    return task.validate(networks, on_batch)


def _record(
    learner: Learner, task: Task, state: RunState, scores: dict[str, Any], *, num_unreadable: int, seconds: float
) -> EpochFacts:
    position = state.position
    return task.epoch_type(
        epoch=len(state.history) + 1,
        learning_rate=learner.learning_rate,
        train_loss=position.loss_sum / position.num_pictures,
        num_unreadable=position.num_unreadable + num_unreadable,
        pictures_per_second=position.num_pictures / position.seconds,
        waiting_share=position.seconds_waited / position.seconds,
        seconds=position.seconds + seconds,
        **scores,
    )


def _close(run: RunFolder, task: Task, history: list[EpochFacts], status: str) -> None:
    if is_main():
        if history:
            task.draw(run.path / "curves.png", history)
        run.finish(status)
