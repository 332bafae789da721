"""Jobs of the verbs around detectors: start and continue a training, evaluate, with progress on the screen."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from effvit.cli.evaluation_jobs import device_here, say_unreadable
from effvit.cli.render import TrainingProgress, progress, say
from effvit.data.coco import read_coco, with_masks
from effvit.detection.backbones import find_backbone
from effvit.detection.batches import DetectionLoader
from effvit.detection.data import DetectionData, open_detection_data, pictures_with_classes, read_detection_data
from effvit.detection.detectors import Detector, create_detector, detector_on
from effvit.detection.finders import Finder, open_finder
from effvit.detection.kept import KeptDetections
from effvit.detection.recipes import detection_recipe
from effvit.detection.report import write_evaluation
from effvit.detection.saving import load_detector
from effvit.detection.task import DETECTION, detector_config, find_all, fit_detector, scores_of
from effvit.detection.train_config import DetectionConfig
from effvit.device import find_device
from effvit.environment import environment
from effvit.model.variants import TIMM_PREFIX, VARIANTS
from effvit.train.distributed import is_main, local_device, num_processes, on_main
from effvit.train.run_config import replace_fields
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
    config = replace_fields(detection_recipe(recipe or "small"), assignments)
    find_device(local_device(config.device))
    if config.device == "auto":
        config = replace(config, device=find_device("auto").type)
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
        config = replace_fields(told, [text for text in assignments if _sets_statistics(text)])
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
    try:
        _fit(detector, data, config, run, resume=False)
    except BaseException:
        if is_main() and not run.checkpoint.is_file():
            run.discard()  # nothing was trained: a setting was refused at the last moment
        raise
    return run


def resume_detector(path: Path, *, device: str | None, workers: int | None) -> RunFolder:
    """Continue a detector's run from its last checkpoint, by default where it was."""
    run = RunFolder.open(path)
    run.refuse_other_task(DETECTION)
    record, config = run.read_record(), read_detection_config(run)
    with content_of(run.path / "run.json"):
        backbone = record["detector"]["backbone"]
    device = device or config.device
    config = replace(
        config,
        device=device if device != "auto" else find_device("auto").type,
        num_workers=config.num_workers if workers is None else workers,
    )
    find_device(local_device(config.device))
    data = read_detection_data(run)
    before = record.get("num_processes", 1)
    if before != num_processes():
        say(f"note: begun with {before} processes, continued with {num_processes()}: other sizes of pictures are drawn")
    state = run.load_checkpoint()
    done, step = len(state.get("history", ())), state.get("position", {}).get("step", 0)
    if done == config.epochs:
        say(f"{run.path} is finished: all {done} epochs are done")
    elif done or step:
        say(f"continuing {run.path} after epoch {done} of {config.epochs}" + (f" and {step} steps" if step else ""))
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
    data, config = read_detection_data(run), read_detection_config(run)
    detector = load_detector(run.path, device=device or device_here(config.device))
    return evaluate_finder(
        detector,
        data.val,
        run.path / "eval",
        workers=config.num_workers if workers is None else workers,
        max_unreadable=config.max_unreadable,
        about={"model": str(run.path.name), "data": (data.val_source or data.source).source.name},
    )


def read_detection_config(run: RunFolder) -> DetectionConfig:
    """The settings a detector's run was started with."""
    with content_of(run.path / "run.json"):
        return DetectionConfig.from_dict(run.read_record()["config"])


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
    data = read_coco(annotations, images)
    return pictures_with_classes(with_masks(data) if finder.config.task == "masks" else data, finder.config.class_names)


def open_source(source: Path, device: str | None) -> tuple[Finder, RunFolder | None]:
    """A detector by run folder, weights folder or exported file, and the run if it is one."""
    finder = open_finder(source, device or "auto")
    is_run = source.is_dir() and (source / "run.json").is_file()
    return finder, RunFolder.open(source) if is_run else None


def _fit(detector: Detector, data: DetectionData, config: DetectionConfig, run: RunFolder, *, resume: bool) -> None:
    try:
        with TrainingProgress() as bar:
            history = fit_detector(
                detector, data, config, run, on_step=bar.on_step, on_epoch=bar.on_epoch, resume=resume
            )
        if len(history) < config.epochs:
            say(f"stopped after epoch {len(history)} of {config.epochs}: no better one in {config.patience} epochs")
    except KeyboardInterrupt:
        if run.checkpoint.is_file():
            place = shlex.quote(str(run.path))
            say(f"the last checkpoint is kept; continue with: effvit detect train --resume {place}")
        raise


def _announce(detector: Detector, data: DetectionData, config: DetectionConfig, run: RunFolder) -> None:
    num_params = sum(parameter.numel() for parameter in detector.parameters())
    kind = "Mask R-CNN" if config.task == "masks" else "RetinaNet"
    together = f", {num_processes()} processes" if num_processes() > 1 else ""
    say(
        f"{kind} on {config.model}: {num_params / 1e6:.2f} M parameters, short side {config.min_size} pixels on"
        f" {config.device}{together}; {len(data.train)} pictures to train on, {len(data.val)} held out,"
        f" {len(data.class_names)} classes; run folder {run.path}"
    )
    if data.skipped:
        first = data.skipped[0]
        say(f"left out: {len(data.skipped)}, the first {first.path} ({first.reason}); all in split.json")


def _sets_statistics(assignment: str) -> bool:
    return assignment.partition("=")[0].strip() in ("mean", "std")


def _plain_name(model: str) -> str:
    """A backbone's name as part of a folder's."""
    return Path(model).name.replace(":", "-")
