"""Jobs that more than one verb does: start and continue a training, evaluate, with progress on the screen."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from effvit.cli.classifiers import Classifier, open_classifier
from effvit.cli.render import TrainingProgress, progress, say
from effvit.data.datasets import PictureData, find_data
from effvit.data.loaders import PictureLoader
from effvit.data.samples import Sample
from effvit.data.transforms import eval_transform
from effvit.device import find_device
from effvit.errors import ConfigError
from effvit.files import make_output_folder, sha256
from effvit.model.factory import create_model, find_weights
from effvit.model.network import EfficientViT
from effvit.train.config import TrainConfig, replace_fields
from effvit.train.evaluate import Evaluation, evaluate
from effvit.train.loop import fit
from effvit.train.report import write_evaluation
from effvit.train.runs import RunFolder, next_run_path


def start_training(
    data: Path,
    assignments: Sequence[str],
    *,
    weights: str | None,
    output: Path | None,
    command: str,
    base: TrainConfig | None = None,
) -> RunFolder:
    """Train a new network into a new run folder.

    Everything that can be wrong is looked at before the folder is made.

    Args:
        data: Folder of photos.
        assignments: What is asked for, as `field=value`.
        weights: Where to start from, see `effvit.create_model`; their preprocessing is kept unless told otherwise.
        output: The run folder; None for a new one in `runs/`.
        command: The command line, for the record.
        base: Where the other settings come from; None for the defaults, on the best device.
    """
    base = base or TrainConfig(device="auto")
    asked = replace_fields(base, assignments)
    source = None if weights is None else find_weights(weights, asked.model)
    if source is not None and source.config is not None:
        asked = replace_fields(replace(base, preprocessing=source.info.preprocessing), assignments)
    config = replace(asked, device=str(find_device(asked.device)))
    pictures = find_data(data, val_fraction=config.val_fraction, seed=config.seed)
    torch.manual_seed(config.seed)  # the initial weights
    network = create_model(
        config.model,
        weights=source,
        num_classes=len(pictures.class_names),
        image_size=config.preprocessing.image_size,
        drop_path=config.drop_path,
    )
    _check_channels(network, config)
    run = RunFolder.create(output or next_run_path("runs", config.model), config, pictures, command=command)
    initial = None
    if source is not None:
        initial = {**source.info.provenance, "file": source.path.name, "sha256": sha256(source.path)}
    run.update_record(network=network.config.to_dict(), initial_weights=initial)
    num_params = sum(parameter.numel() for parameter in network.parameters())
    say(
        f"{config.model}: {num_params / 1e6:.2f} M parameters at {config.preprocessing.image_size[0]} x"
        f" {config.preprocessing.image_size[1]} pixels on {config.device}; {len(pictures.train)} pictures to train on,"
        f" {len(pictures.val)} held out, {len(pictures.class_names)} classes; run folder {run.path}"
    )
    if pictures.skipped:
        first = pictures.skipped[0]
        say(f"left out: {len(pictures.skipped)}, the first {first.path} ({first.reason}); all in split.json")
    _fit(network, pictures, config, run, resume=False)
    return run


def resume_training(path: Path, *, device: str, workers: int | None) -> RunFolder:
    """Continue a run from its last finished epoch, with the network it was started with."""
    run = RunFolder.open(path)
    config = run.read_config()
    config = replace(
        config,
        device=str(find_device(device)),
        num_workers=config.num_workers if workers is None else workers,
    )
    pictures = run.read_data()
    done = len(run.load_checkpoint().get("history", ()))
    if done == config.epochs:
        say(f"{run.path} is finished: all {done} epochs are done")
    elif done:
        say(f"continuing {run.path} after epoch {done} of {config.epochs}")
    _fit(EfficientViT(run.read_network()), pictures, config, run, resume=True)
    return run


def evaluate_run(run: RunFolder) -> Evaluation:
    """Evaluate a run's best weights on its held-out pictures where it was trained, into its eval/."""
    config = run.read_config()
    classifier = open_classifier(str(run.path), config.device)
    samples = run.read_data().val
    evaluation = evaluate_samples(classifier, samples, batch_size=config.batch_size, workers=config.num_workers)
    write_results(run.path / "eval", evaluation, source=str(run.path), data="the run's held-out pictures")
    return evaluation


def evaluate_samples(classifier: Classifier, samples: Sequence[Sample], *, batch_size: int, workers: int) -> Evaluation:
    """Evaluate a classifier on labelled pictures."""
    transform = eval_transform(classifier.preprocessing)
    loader = PictureLoader(samples, transform, batch_size=batch_size, num_workers=workers)
    with progress("evaluate") as on_batch:
        return evaluate(
            classifier.predict,
            loader,
            class_names=classifier.class_names,
            preprocessing=classifier.preprocessing,
            device=classifier.device,
            on_batch=on_batch,
        )


def write_results(folder: Path, evaluation: Evaluation, *, source: str, data: object) -> None:
    """Write an evaluation, with what was evaluated on what, and say what could not be read."""
    write_evaluation(make_output_folder(folder), evaluation, about={"model": source, "data": str(data)})
    for reason in evaluation.unreadable[:5]:
        say(f"unreadable: {reason}")


def _check_channels(network: EfficientViT, config: TrainConfig) -> None:
    channels, means = network.config.in_channels, config.preprocessing.mean
    if channels != len(means):
        raise ConfigError(f"preprocessing.mean and .std need one value for each of {channels} channels, got {means}")


def _fit(network: EfficientViT, data: PictureData, config: TrainConfig, run: RunFolder, *, resume: bool) -> None:
    try:
        with TrainingProgress() as bar:
            fit(network, data, config, run, on_step=bar.on_step, on_epoch=bar.on_epoch, resume=resume)
    except KeyboardInterrupt:
        if run.checkpoint.is_file():
            place = shlex.quote(str(run.path))
            say(f"the last finished epoch is kept; continue with: effvit train --resume {place}")
        raise
