"""The training loop, to be read from top to bottom.

Everything random in a step is seeded from (config.seed, epoch, step, process), so a run continued from
its last checkpoint gives, on the same machine, bit for bit the weights of one that was never interrupted.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import torch
from torch import nn

from effvit.data.datasets import PictureData
from effvit.data.loaders import Batch, PictureLoader, UnreadableCount, dead_workers_in_one_line
from effvit.data.randomness import derive_seed
from effvit.device import find_device
from effvit.errors import ConfigError, DataError, EffvitError, RunError
from effvit.train.batches import Preparation, check_parts, training_loader, validation_loader
from effvit.train.checkpoint import Position, RunState, load_state, save_state
from effvit.train.config import TrainConfig
from effvit.train.distributed import (
    gather,
    is_main,
    local_device,
    rank,
    share_from_main,
    sum_over_processes,
)
from effvit.train.evaluate import Evaluation, evaluate_all, network_predictor
from effvit.train.figures import write_curves
from effvit.train.learner import Learner
from effvit.train.losses import criterion_of_run
from effvit.train.optimizer import learning_rate_at
from effvit.train.outcome import SaveWeights, efficientvit_saver, keep_epoch
from effvit.train.records import EpochRecord, StepReport, stops_early
from effvit.train.running_loss import RunningLoss
from effvit.train.runs import RunFolder
from effvit.train.tensorboard import Writer

_SECONDS_WORTH_A_DRAWING = 10
"""Epochs that take longer each redraw the curves, which takes a third of a second; others wait for the end."""


@dead_workers_in_one_line()
def fit(
    model: nn.Module,
    data: PictureData,
    config: TrainConfig,
    run: RunFolder,
    *,
    on_step: Callable[[StepReport], None] | None = None,
    on_epoch: Callable[[EpochRecord], None] | None = None,
    resume: bool = False,
    save_weights: SaveWeights | None = None,
) -> list[EpochRecord]:
    """Train a classifier and keep the weights that were best in validation, and the last.

    An interruption (Ctrl-C, a kill, a full disk, a loss that is not finite) leaves the run folder with a
    checkpoint at most `config.checkpoint_minutes` old, from which `resume=True` goes on exactly. Under
    `torchrun`, inside `distributed.joined`, every process calls this; the main one writes.

    Args:
        model: Any classifier of (B, 3, H, W) -> (B, num_classes); trained in place. In train mode it may give a
            pair of outputs (two heads).
        data: The pictures.
        config: How to train.
        run: Where to write, made by `RunFolder.create` or found by `RunFolder.open`.
        on_step: Called after every training step and validation batch.
        on_epoch: Called after every epoch, when it is on the disk.
        resume: Whether to go on with what `run` holds.
        save_weights: Writes a network into a folder; by default `effvit.save`, which wants an EfficientViT.

    Returns:
        One record an epoch, those before a resumption included.

    Raises:
        ConfigError: If the device is not there, the batch is too small for the processes, or a resumed run
            was started with another configuration.
        DataError: If too many pictures cannot be read.
        RunError: If the loss is not finite, or the run folder cannot be written or continued.
        WeightsError: If the teacher cannot be had.
    """
    device = find_device(local_device(config.device))
    if device.type == "cuda":
        torch.cuda.set_device(device)
    num_classes = len(data.class_names)
    criterion = criterion_of_run(config, data, device)
    share_from_main(model.to(device).state_dict().values())
    train_loader, val_loader = training_loader(data, config), validation_loader(data, config)
    check_parts(config, train_loader)
    if config.sync_norm and device.type != "cuda":
        raise ConfigError(f"sync_norm works on CUDA only, got device {device}")
    learner = Learner(model, config, criterion, device)
    keep = save_weights or efficientvit_saver(model, data, config, run)

    state = load_state(run, learner) if resume else RunState()
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
            train_one_epoch(learner, train_loader, state, run, num_classes=num_classes, on_step=on_step)
            started = time.monotonic()
            validated = _validate(learner, val_loader, data, len(state.history), on_step)
            state.history.append(_record(learner, state, validated, time.monotonic() - started))
            state.position = Position()
            if is_main():
                if board is not None:
                    board.write(state.history[-1])
                run.note_unreadable(validated["trained"].unreadable)
                with _told_with(f"the end of epoch {len(state.history)}"):
                    keep_epoch(run, learner, state.history, keep)
                    save_state(run, learner, state)
                if state.history[-1].seconds > _SECONDS_WORTH_A_DRAWING:
                    write_curves(run.path / "curves.png", state.history, num_epochs=config.epochs)
                if on_epoch is not None:
                    on_epoch(state.history[-1])
    except BaseException as error:
        with suppress(EffvitError):  # the disk may be what failed; the first error is the one to tell
            _close(run, config, state.history, "interrupted" if isinstance(error, KeyboardInterrupt) else "failed")
        raise
    finally:
        if board is not None:
            board.close()
    _close(run, config, state.history, "finished")
    return state.history


def train_one_epoch(
    learner: Learner,
    loader: PictureLoader,
    state: RunState,
    run: RunFolder,
    *,
    num_classes: int,
    on_step: Callable[[StepReport], None] | None = None,
) -> None:
    """One pass over the training pictures, from where `state` stands; writes a checkpoint from time to time.

    Args:
        learner: The network and what trains it.
        loader: The training pictures.
        state: Where the run stands; its position is moved on, and adds up all processes in the end.
        run: Where checkpoints go.
        num_classes: Classes of the targets.
        on_step: Called after every step.

    Raises:
        DataError: If too many pictures cannot be read.
        RunError: If the loss is not finite; names epoch, step and pictures.
    """
    config, epoch, position = learner.config, len(state.history), state.position
    learner.begin_epoch(epoch)
    prepare = Preparation(config, num_classes, learner.device)
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
            micro_batches = prepare(batch, derive_seed("batch", config.seed, epoch, step, rank()))
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
        raise DataError(f"nothing was trained in epoch {epoch + 1}: no step had 2 readable pictures for each process")


def _agree(batch: Batch, config: TrainConfig, is_late: bool) -> tuple[int, bool, bool, bool]:
    """What all must know of a step: its pictures, whether one process has too few, whether to save, if some failed."""
    num_pictures = len(batch.targets)
    fewest = 1 if config.freeze_norm else 2
    values = torch.tensor([num_pictures, num_pictures < fewest, is_late, len(batch.unreadable)])
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
    learner: Learner,
    loader: PictureLoader,
    data: PictureData,
    epoch: int,
    on_step: Callable[[StepReport], None] | None,
) -> dict[str, Evaluation]:
    """Evaluate the trained weights and their moving average, in one pass over the pictures."""
    networks = {"trained": learner.model}
    if learner.average is not None:
        networks["average"] = learner.average.module
    for network in networks.values():
        share_from_main(network.buffers())

    def on_batch(done: int, total: int) -> None:
        if on_step is not None:
            on_step(StepReport("val", epoch + 1, learner.config.epochs, done, total, None))

    return evaluate_all(
        {name: network_predictor(network) for name, network in networks.items()},
        loader,
        class_names=data.class_names,
        preprocessing=learner.config.preprocessing,
        device=learner.device,
        max_unreadable=learner.config.max_unreadable,
        on_batch=on_batch,
    )


def _record(learner: Learner, state: RunState, validated: dict[str, Evaluation], val_seconds: float) -> EpochRecord:
    trained, average, position = validated["trained"], validated.get("average"), state.position
    return EpochRecord(
        epoch=len(state.history) + 1,
        learning_rate=learner.learning_rate,
        train_loss=position.loss_sum / position.num_pictures,
        val_loss=trained.loss,
        val_top1=trained.top1,
        val_loss_ema=None if average is None else average.loss,
        val_top1_ema=None if average is None else average.top1,
        num_unreadable=position.num_unreadable + len(trained.unreadable),
        pictures_per_second=position.num_pictures / position.seconds,
        waiting_share=position.seconds_waited / position.seconds,
        seconds=position.seconds + val_seconds,
    )


def _close(run: RunFolder, config: TrainConfig, history: list[EpochRecord], status: str) -> None:
    if is_main():
        if history:
            write_curves(run.path / "curves.png", history, num_epochs=config.epochs)
        run.finish(status)
