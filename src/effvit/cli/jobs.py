"""Jobs that more than one verb does: start and continue a training, evaluate, with progress on the screen."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from effvit.cli.plans import plan_training
from effvit.cli.render import TrainingProgress, say
from effvit.data.datasets import PictureData
from effvit.device import find_device
from effvit.model.network import EfficientViT
from effvit.train.classification import fit
from effvit.train.config import TrainConfig
from effvit.train.distributed import is_main, local_device, num_processes, on_main
from effvit.train.runs import RunFolder, next_run_path


def start_training(
    data: Path | str,
    assignments: Sequence[str],
    *,
    weights: str | None,
    output: Path | None,
    command: str,
    recipe: str | None = None,
    base: TrainConfig | None = None,
) -> RunFolder:
    """Train a new network into a new run folder; `plan_training` explains the arguments.

    Everything that can be wrong is looked at before the folder is made.

    Args:
        data: The pictures.
        assignments: What is asked for, as `field=value`.
        weights: Where to start from.
        output: The run folder; None for a new one in `runs/`.
        command: The command line, for the record.
        recipe: Name of a recipe that the other settings come from.
        base: Where they come from without a recipe.
    """
    plan = plan_training(data, assignments, weights=weights, recipe=recipe, base=base)
    config, pictures, network = plan.config, plan.data, plan.network
    assert pictures is not None  # data was given

    def make_run() -> RunFolder:
        run = RunFolder.create(output or next_run_path("runs", config.model), config, pictures, command=command)
        network_config = network.config.to_dict()
        processes = num_processes()
        run.update_record(network=network_config, initial_weights=plan.initial_weights, num_processes=processes)
        return run

    run = on_main(make_run)
    num_params = sum(parameter.numel() for parameter in network.parameters())
    together = f", {num_processes()} processes" if num_processes() > 1 else ""
    say(
        f"{config.model}: {num_params / 1e6:.2f} M parameters at {config.preprocessing.image_size[0]} x"
        f" {config.preprocessing.image_size[1]} pixels on {config.device}{together}; {len(pictures.train)} pictures to"
        f" train on, {len(pictures.val)} held out, {len(pictures.class_names)} classes; run folder {run.path}"
    )
    if pictures.skipped:
        first = pictures.skipped[0]
        say(f"left out: {len(pictures.skipped)}, the first {first.path} ({first.reason}); all in split.json")
    try:
        _fit(network, pictures, config, run, resume=False)
    except BaseException:
        if is_main() and not run.checkpoint.is_file():
            run.discard()  # nothing was trained: a setting was refused at the last moment
        raise
    return run


def resume_training(path: Path, *, device: str | None, workers: int | None) -> RunFolder:
    """Continue a run from its last checkpoint, with the network it was started with, by default where it was."""
    run = RunFolder.open(path)
    config = run.read_config()
    device = device or config.device
    find_device(local_device(device))
    config = replace(
        config,
        device=device if device != "auto" else find_device("auto").type,
        num_workers=config.num_workers if workers is None else workers,
    )
    pictures = run.read_data()
    before = run.read_record().get("num_processes", 1)
    if before != num_processes():
        say(f"note: begun with {before} processes, continued with {num_processes()}: sums are rounded differently")
    state = run.load_checkpoint()
    done, step = len(state.get("history", ())), state.get("position", {}).get("step", 0)
    if done == config.epochs:
        say(f"{run.path} is finished: all {done} epochs are done")
    elif done or step:
        say(f"continuing {run.path} after epoch {done} of {config.epochs}" + (f" and {step} steps" if step else ""))
    _fit(EfficientViT(run.read_network()), pictures, config, run, resume=True)
    return run


def _fit(network: EfficientViT, data: PictureData, config: TrainConfig, run: RunFolder, *, resume: bool) -> None:
    try:
        with TrainingProgress() as bar:
            history = fit(network, data, config, run, on_step=bar.on_step, on_epoch=bar.on_epoch, resume=resume)
        if len(history) < config.epochs:
            say(f"stopped after epoch {len(history)} of {config.epochs}: no better one in {config.patience} epochs")
    except KeyboardInterrupt:
        if run.checkpoint.is_file():
            say(f"the last checkpoint is kept; continue with: effvit train --resume {shlex.quote(str(run.path))}")
        raise
