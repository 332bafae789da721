"""An evaluation as files: the scores, every prediction, and the pictures people look at."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from effvit.files import atomic_path, make_output_folder, write_json
from effvit.train.calibration import calibration_summary
from effvit.train.confidence import confidence_intervals
from effvit.train.contact_sheets import write_least_sure, write_worst
from effvit.train.evaluation import Evaluation
from effvit.train.figures import write_confusion, write_most_confused, write_reliability

_DRAWINGS = {
    "confusion.png": write_confusion,
    "reliability.png": write_reliability,
    "worst.png": write_worst,
    "least_sure.png": write_least_sure,
}


def summarize(evaluation: Evaluation) -> dict[str, Any]:
    """All scores with their intervals and the calibration, as plain values for JSON."""
    intervals = confidence_intervals(evaluation)
    return {
        **evaluation.summary(),
        "calibration": calibration_summary(evaluation),
        "intervals_95": {name: interval._asdict() for name, interval in intervals.items()},
    }


def write_evaluation(
    folder: Path | str, evaluation: Evaluation, *, about: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Write summary.json, predictions.csv, predictions.json, and the drawings.

    Args:
        folder: Where to; made if it is missing. Files of an earlier evaluation are replaced.
        evaluation: What to write.
        about: What was evaluated on what, for summary.json.

    Returns:
        What is in summary.json.

    Raises:
        RunError: If the folder cannot be written.
    """
    folder = make_output_folder(folder)
    summary = {**(about or {}), **summarize(evaluation)}
    write_json(folder / "summary.json", summary)
    _write_rows(folder / "predictions.csv", evaluation)
    write_json(folder / "predictions.json", _predictions(evaluation))
    for name, draw in _DRAWINGS.items():
        draw(folder / name, evaluation)
    write_most_confused(folder / "most_confused.png", evaluation.most_confused())
    return summary


def _write_rows(path: Path, evaluation: Evaluation) -> None:
    rows = zip(
        evaluation.names,
        (evaluation.class_names[target] for target in evaluation.targets),
        (evaluation.class_names[predicted] for predicted in evaluation.predicted),
        (f"{probability:.6f}" for probability in evaluation.target_probabilities),
        (f"{probability:.6f}" for probability in evaluation.predicted_probabilities),
        strict=True,
    )
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("path", "true", "predicted", "probability_true", "probability_predicted"))
        writer.writerows(rows)


def _predictions(evaluation: Evaluation) -> list[dict[str, Any]]:
    """Every picture with its true class and the first five, as `effvit predict --json` names them."""
    names = evaluation.class_names
    return [
        {
            "path": name,
            "true": names[target],
            "probability_true": probability,
            "classes": [
                {"name": names[index], "probability": value} for index, value in zip(classes, values, strict=True)
            ],
        }
        for name, target, probability, classes, values in zip(
            evaluation.names,
            evaluation.targets.tolist(),
            evaluation.target_probabilities.tolist(),
            evaluation.top_classes.tolist(),
            evaluation.top_probabilities.tolist(),
            strict=True,
        )
    ]
