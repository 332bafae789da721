"""Jobs around an evaluation that more than one verb does, with progress on the screen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from effvit.cli.classifiers import Classifier, open_classifier
from effvit.cli.render import progress, say
from effvit.data.datasets import find_samples
from effvit.data.loaders import PictureLoader
from effvit.data.samples import Sample
from effvit.data.transforms import eval_transform
from effvit.device import find_device
from effvit.errors import ConfigError, DataError
from effvit.model.checkpoints import write_temperature
from effvit.train.calibration import calibrate
from effvit.train.evaluate import evaluate
from effvit.train.evaluation import Evaluation
from effvit.train.report import write_evaluation
from effvit.train.report_page import write_report
from effvit.train.runs import RunFolder

HELD_OUT = "the run's held-out pictures"
_MAX_UNREADABLE_SAID = 5


def evaluate_run(run: RunFolder, *, device: str | None = None, workers: int | None = None) -> dict[str, Any]:
    """Evaluate a run's best weights on its held-out pictures, into its eval/ and report.html.

    Args:
        run: The run.
        device: Where; None for where it was begun, or for the best device if this machine has no such one.
        workers: Processes that decode pictures; None for as many as it was begun with.

    Returns:
        What is in eval/summary.json.
    """
    config = run.read_config()
    classifier = open_classifier(str(run.path), device or device_here(config.device))
    evaluation = evaluate_samples(
        classifier,
        run.read_data().val,
        batch_size=config.batch_size,
        workers=config.num_workers if workers is None else workers,
        max_unreadable=config.max_unreadable,
    )
    summary = write_results(run.path / "eval", evaluation, about_evaluation(str(run.path), HELD_OUT, classifier))
    write_report(run)
    return summary


def device_here(device: str) -> str:
    """A run's device, or the best one where it is not there: a run may be moved to another machine."""
    try:
        find_device(device)
    except ConfigError as error:
        say(f"{error}; the run is evaluated on {find_device('auto')}")
        return "auto"
    return device


def evaluate_samples(
    classifier: Classifier,
    samples: Sequence[Sample],
    *,
    batch_size: int,
    workers: int,
    max_unreadable: float = 0.01,
    keep_logits: bool = False,
) -> Evaluation:
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
            max_unreadable=max_unreadable,
            keep_logits=keep_logits,
            on_batch=on_batch,
        )


def find_labelled(source: str, classifier: Classifier) -> tuple[Sample, ...]:
    """The pictures of a data set by the classifier's classes, whichever of their names the data set uses.

    Raises:
        DataError: If there is none, or a class is unknown under every naming.
    """
    try:
        return find_samples(source, classifier.class_names).samples
    except DataError:
        for kind, names in classifier.namings:
            with suppress(DataError):
                samples = find_samples(source, names).samples
                say(f"the classes of {source} are read as {kind}")
                return samples
        raise


def about_evaluation(source: str, data: str, classifier: Classifier) -> dict[str, Any]:
    """What was evaluated on what, for summary.json."""
    return {
        "model": source,
        "data": data,
        "preprocessing": classifier.preprocessing.to_dict(),
        "temperature": classifier.temperature,
    }


def write_results(folder: Path, evaluation: Evaluation, about: Mapping[str, Any]) -> dict[str, Any]:
    """Write an evaluation, with what was evaluated on what, say what could not be read; what is in summary.json."""
    summary = write_evaluation(folder, evaluation, about=about)
    say_unreadable(evaluation.unreadable)
    return summary


def say_unreadable(reasons: Sequence[str]) -> None:
    """Name the first pictures that could not be read, and count the others."""
    for reason in reasons[:_MAX_UNREADABLE_SAID]:
        say(f"unreadable: {reason}")
    if len(reasons) > _MAX_UNREADABLE_SAID:
        say(f"unreadable: {len(reasons) - _MAX_UNREADABLE_SAID} more, all in summary.json")


def write_calibration(path: Path, evaluation: Evaluation, classifier: Classifier, data: str) -> dict[str, Any]:
    """Fit a temperature and write it beside the weights of a run or weights folder; how it was found.

    Raises:
        DataError: If there is nothing to fit it on.
    """
    found = calibrate(evaluation)
    if found.loss_after >= found.loss_before:
        say(
            f"no better temperature: the loss would go from {found.loss_before:.3f} to {found.loss_after:.3f}"
            f" ({found.num_folds}-fold cross-validation), so the weights keep {classifier.temperature:.3f}"
        )
        return {**found._asdict(), "temperature": classifier.temperature, "data": data}
    # The logits were divided by the weights' temperature already; the new one stands for both.
    temperature = classifier.temperature * found.temperature
    origin = {**found._asdict(), "temperature": temperature, "data": data}
    written = write_temperature(path, temperature, origin)
    say(
        f"temperature {temperature:.3f} is in {written}: predictions are divided by it from now on; calibration error"
        f" {found.ece_before:.1%} -> {found.ece_after:.1%}, loss {found.loss_before:.3f} -> {found.loss_after:.3f}"
        f" ({found.num_folds}-fold cross-validation)"
    )
    return origin
