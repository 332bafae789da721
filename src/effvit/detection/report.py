"""A detection evaluation as files: the scores, every detection, the pictures people look at, and one page of it all."""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from effvit.data.coco_records import CocoPicture
from effvit.data.samples import one_line
from effvit.detection.coco_json import write_results
from effvit.detection.curves import write_curves
from effvit.detection.mistakes import SCORE, count_mistakes, find_mistakes
from effvit.detection.records import Detections
from effvit.detection.report_template import TEMPLATE
from effvit.detection.scores import DetectionScores, percent
from effvit.detection.worst import write_worst
from effvit.files import make_output_folder, remove, write_json, write_text

NUMBER_NAMES = {
    "ap": "AP",
    "ap50": "AP50",
    "ap75": "AP75",
    "ap_small": "AP small",
    "ap_medium": "AP medium",
    "ap_large": "AP large",
    "ar_1": "AR 1",
    "ar_10": "AR 10",
    "ar_100": "AR 100",
    "ar_small": "AR small",
    "ar_medium": "AR medium",
    "ar_large": "AR large",
}
"""COCO's twelve numbers, in COCO's order, as people call them."""


def write_evaluation(
    folder: Path | str,
    scores: DetectionScores,
    found: Mapping[int, Detections],
    pictures: Sequence[CocoPicture],
    *,
    score: float = SCORE,
    about: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Write summary.json, curves.json, detections.json (COCO results), curves.png, worst.jpg and page.html.

    Args:
        folder: Where to; made if it is missing. Files of an earlier evaluation are replaced.
        scores: Of the evaluation.
        found: The detections it is of, by image id.
        pictures: What is on the pictures.
        score: Detections from this score on are counted as mistakes or as right, and drawn.
        about: What was evaluated on what, for summary.json and the page: plain values.

    Returns:
        What is in summary.json.

    Raises:
        ConfigError: If the extra `detection` is not installed.
        RunError: If the folder cannot be written.
    """
    folder = make_output_folder(folder)
    names = [entry.name for entry in scores.boxes.classes]
    mistakes = find_mistakes(found, pictures, score=score)
    shared = os.path.commonpath([picture.path.parent for picture in pictures])  # names without places of this machine
    summary = {**(about or {}), **scores.to_dict(), "mistakes": count_mistakes(mistakes, score=score)}
    summary["worst"] = [
        {
            "file": entry.picture.path.relative_to(shared).as_posix(),
            "image_id": entry.picture.image_id,
            "num_missed": len(entry.missed),
            "num_false_alarms": len(entry.false_alarms),
            "num_right": len(entry.right),
        }
        for entry in mistakes
        if entry.num_mistakes
    ]
    write_json(folder / "summary.json", summary)
    write_json(folder / "curves.json", scores.curves_to_dict())
    write_results(folder / "detections.json", found, [entry.category_id for entry in scores.boxes.classes])
    write_curves(folder / "curves.png", scores)
    remove(folder / "worst.jpg")  # of an earlier evaluation, which may have had mistakes
    if summary["worst"]:
        write_worst(folder / "worst.jpg", mistakes, names)
    write_text(folder / "page.html", page_html(folder, summary, about=about))
    return summary


def page_html(folder: Path, summary: Mapping[str, Any], *, about: Mapping[str, Any] | None = None) -> str:
    """The page as text.

    Args:
        folder: Where the drawings lie.
        summary: Content of summary.json.
        about: What was evaluated on what.
    """
    import jinja2

    main = "masks" if summary["masks"] else "boxes"
    kinds = [kind for kind in ("boxes", "masks") if summary[kind]]
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    page = environment.from_string(TEMPLATE).render(
        title=_title(summary),
        subtitle=_counts(summary),
        headline=f"{percent(summary[main]['ap']) or 'No'} AP",
        headline_note=f"of {main}; AP50 {percent(summary[main]['ap50']) or 'unknown'}, in %",
        at_threshold=_at_threshold(summary["mistakes"]),
        notes=_notes(summary),
        number_names=list(NUMBER_NAMES.values()),
        numbers=[(kind, [percent(summary[kind][field]) for field in NUMBER_NAMES]) for kind in kinds],
        curves=_embedded(folder / "curves.png"),
        class_columns=[f"{name}, {kind}" for kind in kinds for name in ("AP", "AP50", "recall")],
        classes=_class_rows(summary, main, kinds),
        false_alarms=list(summary["mistakes"]["false_alarms"].items()),
        worst=_embedded(folder / "worst.jpg"),
        about=[(name.replace("_", " "), one_line(value)) for name, value in (about or {}).items()],
    )
    return page.strip() + "\n"  # a browser wants the document's type first


def _title(summary: Mapping[str, Any]) -> str:
    return f"Detection on {one_line(summary['data'])}" if "data" in summary else "Evaluation of a detector"


def _counts(summary: Mapping[str, Any]) -> str:
    crowds = f" (and {summary['num_crowds']:,} crowds, which do not count)" if summary["num_crowds"] else ""
    return (
        f"{summary['num_pictures']:,} pictures with {summary['num_things']:,} things{crowds};"
        f" {summary['num_detections']:,} detections"
    )


def _notes(summary: Mapping[str, Any]) -> list[str]:
    without = [row["name"] for row in summary["boxes"]["per_class"] if not row["num_things"]]
    lines = []
    if without:
        total = len(summary["boxes"]["per_class"])
        lines.append(f"{len(without)} of {total} classes have no things here and are in no mean.")
    return lines


def _at_threshold(mistakes: Mapping[str, Any]) -> str:
    """What a user of the detector sees, in one sentence."""
    recall, precision = percent(mistakes["recall"]), percent(mistakes["precision"])
    things = mistakes["num_right"] + mistakes["num_missed"]
    said = mistakes["num_right"] + mistakes["num_false_alarms"]
    found = f"{mistakes['num_right']:,} of {things:,} things are found" + (f" ({recall} %)" if recall else "")
    right = f"{mistakes['num_right']:,} of {said:,} detections are right" + (f" ({precision} %)" if precision else "")
    return f"From a score of {mistakes['score_threshold']:g} on, at an overlap of .5: {found}, and {right}."


def _class_rows(summary: Mapping[str, Any], main: str, kinds: Sequence[str]) -> list[dict[str, Any]]:
    rows = []
    for index, entry in enumerate(summary[main]["per_class"]):
        if entry["num_things"] or entry["num_detections"]:
            scores = [summary[kind]["per_class"][index] for kind in kinds]
            cells = [percent(row[field]) for row in scores for field in ("ap", "ap50", "recall")]
            rows.append({**entry, "name": one_line(entry["name"]), "cells": cells})
    return sorted(rows, key=lambda row: (row["ap"] is None, row["ap"] or 0))


def _embedded(path: Path) -> str | None:
    if not path.is_file():
        return None
    kind = "jpeg" if path.suffix == ".jpg" else "png"
    return f"data:image/{kind};base64,{base64.b64encode(path.read_bytes()).decode('ascii')}"
