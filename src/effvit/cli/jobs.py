"""Jobs that more than one verb does: start and continue a training, evaluate, with progress on the screen."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from effvit.cli.plans import plan_training
from effvit.cli.render import say
from effvit.cli.training_runs import (
    continued,
    say_left_out,
    say_where_it_stands,
    taken_back_if_untrained,
    together,
    train_with_progress,
)
from effvit.data.datasets import PictureData
from effvit.model.network import EfficientViT
from effvit.train.classification import fit
from effvit.train.config import TrainConfig
from effvit.train.distributed import num_processes, on_main
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
    say(
        f"{config.model}: {num_params / 1e6:.2f} M parameters at {config.preprocessing.image_size[0]} x"
        f" {config.preprocessing.image_size[1]} pixels on {config.device}{together()}; {len(pictures.train)} pictures"
        f" to train on, {len(pictures.val)} held out, {len(pictures.class_names)} classes; run folder {run.path}"
    )
    say_left_out(pictures.skipped)
    with taken_back_if_untrained(run):
        _fit(network, pictures, config, run, resume=False)
    return run


def resume_training(path: Path, *, device: str | None, workers: int | None) -> RunFolder:
    """Continue a run from its last checkpoint, with the network it was started with, by default where it was."""
    run = RunFolder.open(path)
    config = continued(run.read_config(), device=device, workers=workers)
    pictures = run.read_data()
    say_where_it_stands(run, config.epochs, other_processes="sums are rounded differently")
    _fit(EfficientViT(run.read_network()), pictures, config, run, resume=True)
    return run


def _fit(network: EfficientViT, data: PictureData, config: TrainConfig, run: RunFolder, *, resume: bool) -> None:
    train = partial(fit, network, data, config, run, resume=resume)
    train_with_progress(train, run, config, verb="effvit train")
