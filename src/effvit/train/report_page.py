"""A run as one HTML page that needs nothing else: no fonts, no scripts and no pictures from elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from effvit.data.datasets import PictureData
from effvit.errors import RunError
from effvit.files import read_json, write_text
from effvit.model.network import EfficientViT
from effvit.train.records import EpochRecord
from effvit.train.report_content import (
    embedded,
    environment_rows,
    evaluation_content,
    left_out,
    settings,
    trained_lines,
)
from effvit.train.report_template import TEMPLATE
from effvit.train.runs import RunFolder


def write_report(run: RunFolder) -> Path:
    """Write report.html from what lies in the run folder; safe to repeat at any time.

    An evaluation in `eval/` brings accuracy, mistakes and calibration; without one the page has the
    training alone. Small pictures are read from the data folder, if it is still there.

    Returns:
        The page.

    Raises:
        RunError: If the run folder is not what a run writes, or cannot be written.
    """
    path = run.path / "report.html"
    write_text(path, report_html(run))
    return path


def report_html(run: RunFolder) -> str:
    """The page as text."""
    import jinja2

    record, config = run.read_record(), run.read_config()
    data = _data(run)
    history = _history(run)
    about = _network(run, record)
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    page = environment.from_string(TEMPLATE).render(
        title=f"{config.model} on {data.root.resolve().name}",
        subtitle=f"Run {run.path.resolve().name}, {record['status']}, begun {record['started']}",
        trained=list(trained_lines(config, data, history, about)) if history else [f"{about}; no epoch is done yet."],
        curves=embedded(run.path / "curves.png"),
        evaluation=_evaluation(run, data),
        left_out=left_out(data),
        command=record["command"],
        environment=environment_rows(record["environment"]),
        settings=settings(config),
    )
    return page.strip() + "\n"  # a browser wants the document's type first


def _data(run: RunFolder) -> PictureData:
    """The split, also where the data folder is gone: the counts still hold, the small pictures stay empty."""
    try:
        return run.read_data()
    except RunError:
        return run.read_data(root=run.path)


def _evaluation(run: RunFolder, data: PictureData) -> dict[str, Any] | None:
    """The evaluation on the held-out pictures; None if there is none."""
    folder = run.path / "eval"
    if not (folder / "summary.json").is_file() or not (folder / "predictions.json").is_file():
        return None
    summary, predictions = read_json(folder / "summary.json"), read_json(folder / "predictions.json")
    try:
        return evaluation_content(summary, predictions, data.val, folder)
    except (KeyError, TypeError, AttributeError) as error:
        raise RunError(f"{folder} is not what an evaluation writes; write it anew: effvit eval {run.path}") from error


def _history(run: RunFolder) -> list[EpochRecord]:
    try:
        return [EpochRecord(**epoch) for epoch in run.read_metrics()]
    except TypeError as error:
        raise RunError(f"{run.path / 'metrics.jsonl'} is not what a run writes: {error}") from error


def _network(run: RunFolder, record: dict[str, Any]) -> str:
    initial = record.get("initial_weights")
    start = "random weights" if initial is None else f"the weights {initial.get('file', 'given')}"
    if "network" not in record:
        return f"Trained from {start}"
    with torch.device("meta"):
        network = EfficientViT(run.read_network())
    num_params = sum(parameter.numel() for parameter in network.parameters())
    return f"{network.config.name}, {num_params / 1e6:.2f} million parameters, trained from {start}"
