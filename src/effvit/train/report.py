"""An evaluation as files: the scores, every prediction, and the two pictures people look at."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

from effvit.files import atomic_path, make_output_folder, write_json
from effvit.train.evaluate import Evaluation
from effvit.train.figures import write_confusion, write_worst


def write_evaluation(
    folder: Path | str, evaluation: Evaluation, *, about: Mapping[str, str] | None = None
) -> list[Path]:
    """Write summary.json, predictions.csv, confusion.png and worst.png.

    Args:
        folder: Where to; made if it is missing. Files of an earlier evaluation are replaced.
        evaluation: What to write.
        about: What was evaluated on what, for summary.json.

    Returns:
        The four files.

    Raises:
        RunError: If the folder cannot be written.
    """
    folder = make_output_folder(folder)
    files = [folder / name for name in ("summary.json", "predictions.csv", "confusion.png", "worst.png")]
    summary, predictions, confusion, worst = files
    write_json(summary, {**(about or {}), **evaluation.summary()})
    _write_predictions(predictions, evaluation)
    write_confusion(confusion, evaluation)
    write_worst(worst, evaluation)
    return files


def _write_predictions(path: Path, evaluation: Evaluation) -> None:
    rows = zip(
        evaluation.paths,
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
