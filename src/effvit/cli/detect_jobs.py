"""Jobs of the verbs around detectors: start and continue a training, evaluate, with progress on the screen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from effvit.cli.evaluation_jobs import device_here, say_unreadable
from effvit.cli.render import progress, say
from effvit.cli.training_runs import (
    continued,
    on_known_device,
    say_left_out,
    say_where_it_stands,
    taken_back_if_untrained,
    together,
    train_with_progress,
)
from effvit.detection.backbones import find_backbone
from effvit.detection.batches import DetectionLoader
from effvit.detection.data import (
    DetectionData,
    open_detection_data,
    pictures_with_classes,
    read_detection_data,
    read_things,
)
from effvit.detection.detectors import Detector, create_detector, detector_on
from effvit.detection.finders import Finder, open_finder
from effvit.detection.kept import KeptDetections
from effvit.detection.recipes import detection_recipe
from effvit.detection.report import write_evaluation
from effvit.detection.saving import load_detector
from effvit.detection.task import DETECTION, detector_config, find_all, fit_detector, scores_of
from effvit.detection.train_config import DetectionConfig
from effvit.environment import environment
from effvit.model.variants import TIMM_PREFIX, VARIANTS
from effvit.train.distributed import num_processes, on_main
from effvit.train.run_config import field_of, replace_fields
from effvit.train.runs import RunFolder, content_of, next_run_path
from effvit.train.tensorboard import import_tensorboard


def start_detector(
    places: Mapping[str, Path | None],
    assignments: Sequence[str],
    *,
    weights: str | None,
    recipe: str | None,
    output: Path | None,
    command: str,
) -> RunFolder:
    """Train a new detector into a new run folder; everything that can be wrong is looked at before it is made.

    Args:
        places: `annotations`, `images`, `val`, `val_images` as `open_detection_data` takes them.
        assignments: What is asked for, as `field=value`.
        weights: Of the backbone. Their mean and standard deviation are kept, unless an assignment has others.
        recipe: Name of a recipe that the other settings come from.
        output: The run folder; None for a new one in `runs/`.
        command: The command line, for the record.
    """
    config = on_known_device(replace_fields(detection_recipe(recipe or "small"), assignments))
    if config.tensorboard:
        import_tensorboard()
    # One process looks for all: that the files cannot be used is said once.
    data = on_main(
        lambda: open_detection_data(
            **places,  # type: ignore[arg-type]
            task=config.task,
            val_fraction=config.val_fraction,
            seed=config.seed,
        )
    )
    torch.manual_seed(config.seed)  # the initial weights
    backbone = find_backbone(config.model, task=config.task, weights=weights)
    if backbone.preprocessing is not None:
        told = replace(config, mean=backbone.preprocessing.mean, std=backbone.preprocessing.std)
        config = replace_fields(told, [text for text in assignments if field_of(text) in ("mean", "std")])
    detector = detector_on(backbone, detector_config(config, data.class_names, data.category_ids))

    def make_run() -> RunFolder:
        path = output or next_run_path("runs", f"{_plain_name(config.model)}-{config.task}")
        run = RunFolder.create_for(
            DETECTION,
            path,
            config,
            root=data.source.root,
            class_names=data.class_names,
            split=data.split_to_dict(),
            command=command,
        )
        run.update_record(
            data=data.places(),
            detector=detector.config.to_dict(),
            initial_weights=weights,
            num_processes=num_processes(),
        )
        return run

    run = on_main(make_run)
    _announce(detector, data, config, run)
    if config.freeze_norm and weights is None and (config.model in VARIANTS or config.model.startswith(TIMM_PREFIX)):
        say(
            "note: freeze_norm keeps the statistics of batch normalisation as they are, and random weights have none;"
            " give --weights, or --set freeze_norm=false"
        )
    with taken_back_if_untrained(run):
        _fit(detector, data, config, run, resume=False)
    return run


def resume_detector(path: Path, *, device: str | None, workers: int | None) -> RunFolder:
    """Continue a detector's run from its last checkpoint, by default where it was."""
    run = RunFolder.open(path)
    config = continued(run.read_config_as(DETECTION, DetectionConfig), device=device, workers=workers)
    with content_of(run.path / "run.json"):
        backbone = run.read_record()["detector"]["backbone"]
    data = read_detection_data(run)
    say_where_it_stands(run, config.epochs, other_processes="other sizes of pictures are drawn")
    wanted = replace(detector_config(config, data.class_names, data.category_ids), backbone=backbone)
    _fit(create_detector(wanted), data, config, run, resume=True)
    return run


def evaluate_detection_run(run: RunFolder, *, device: str | None, workers: int | None) -> dict[str, Any]:
    """Evaluate a run's best weights on its held-out pictures, into its `eval/`; returns the summary.

    Args:
        run: The run.
        device: Where; None for where it was begun, or for the best device if this machine has no such one.
        workers: Processes that decode pictures; None for as many as it was begun with.
    """
    data, config = read_detection_data(run), run.read_config_as(DETECTION, DetectionConfig)
    detector = load_detector(run.path, device=device or device_here(config.device))
    return evaluate_finder(
        detector,
        data.val,
        run.path / "eval",
        workers=config.num_workers if workers is None else workers,
        max_unreadable=config.max_unreadable,
        about={"model": str(run.path.name), "data": (data.val_source or data.source).source.name},
    )


def evaluate_finder(
    finder: Finder,
    pictures: Sequence[Any],
    folder: Path,
    *,
    workers: int,
    about: Mapping[str, Any],
    score: float | None = None,
    max_unreadable: float | None = None,
) -> dict[str, Any]:
    """Run a detector over labelled pictures and write what `write_evaluation` writes; returns the summary.

    Pictures are taken one by one, as in the validation of a training: others beside them would pad them.
    """
    config = DetectionConfig(task=finder.config.task, num_workers=workers, batch_size=1)
    loader = DetectionLoader(pictures, config, training=False)
    share = config.max_unreadable if max_unreadable is None else max_unreadable
    with progress("evaluate") as on_batch:
        found, unreadable = find_all({"detector": finder}, loader, share, on_batch)
    say_unreadable(unreadable)
    return write_scores(finder, found["detector"], pictures, folder, about=about, unreadable=unreadable, score=score)


def write_scores(
    finder: Finder,
    found: KeptDetections,
    pictures: Sequence[Any],
    folder: Path,
    *,
    about: Mapping[str, Any],
    unreadable: Sequence[str] = (),
    score: float | None = None,
) -> dict[str, Any]:
    """Score what was found on the pictures that could be read, and write it."""
    read = [picture for picture in pictures if picture.image_id in found]
    scores = scores_of(found, read, finder.config)
    about = {**about, "environment": environment(), "unreadable": list(unreadable)}
    given = {} if score is None else {"score": score}
    return write_evaluation(folder, scores, found, read, about=about, **given)


def labelled_pictures(finder: Finder, annotations: Path, images: Path | None) -> tuple[Any, ...]:
    """The pictures of a COCO file, labelled as a detector numbers its classes."""
    return pictures_with_classes(read_things(annotations, images, finder.config.task), finder.config.class_names)


def open_source(source: Path, device: str | None) -> tuple[Finder, RunFolder | None]:
    """A detector by run folder, weights folder or exported file, and the run if it is one."""
    finder = open_finder(source, device or "auto")
    is_run = source.is_dir() and (source / "run.json").is_file()
    return finder, RunFolder.open(source) if is_run else None


def _fit(detector: Detector, data: DetectionData, config: DetectionConfig, run: RunFolder, *, resume: bool) -> None:
    train = partial(fit_detector, detector, data, config, run, resume=resume)
    train_with_progress(train, run, config, verb="effvit detect train")


def _announce(detector: Detector, data: DetectionData, config: DetectionConfig, run: RunFolder) -> None:
    num_params = sum(parameter.numel() for parameter in detector.parameters())
    kind = "Mask R-CNN" if config.task == "masks" else "RetinaNet"
    say(
        f"{kind} on {config.model}: {num_params / 1e6:.2f} M parameters, short side {config.min_size} pixels on"
        f" {config.device}{together()}; {len(data.train)} pictures to train on, {len(data.val)} held out,"
        f" {len(data.class_names)} classes; run folder {run.path}"
    )
    say_left_out(data.skipped)


def _plain_name(model: str) -> str:
    """A backbone's name as part of a folder's."""
    return Path(model).name.replace(":", "-")
