"""A run as one HTML page that needs nothing else: no fonts, no scripts and no pictures from elsewhere."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from effvit.data.datasets import PictureData
from effvit.data.splits import split_from_dict
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
    training alone. Small pictures are read from the data; where that is gone, the page says so.

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
    data, pictures_gone = _data(run, record)
    history = _history(run)
    about = _network(run, record)
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    page = environment.from_string(TEMPLATE).render(
        title=f"{config.model} on {data.root.resolve().name}",
        subtitle=f"Run {run.path.resolve().name}, {record['status']}, begun {record['started']}",
        trained=list(trained_lines(config, data, history, about)) if history else [f"{about}; no epoch is done yet."],
        curves=embedded(run.path / "curves.png"),
        evaluation=_evaluation(run, data),
        pictures_gone=pictures_gone,
        left_out=left_out(data),
        command=record["command"],
        environment=environment_rows(record["environment"]),
        settings=settings(config),
    )
    return page.strip() + "\n"  # a browser wants the document's type first


def _data(run: RunFolder, record: dict[str, Any]) -> tuple[PictureData, str]:
    """The split, whose counts hold without the pictures too; and why they cannot be shown, empty if they can."""
    try:
        data = run.read_data()
    except RunError as error:
        return _split_alone(run, record, error), str(error)
    if any(os.access(sample.path, os.R_OK) for sample in data.val):
        return data, ""
    return data, f"none of the {len(data.val):,} held-out pictures is in {data.root} any more"


def _split_alone(run: RunFolder, record: dict[str, Any], fault: RunError) -> PictureData:
    """The split as it was written down, with nothing looked up; raises `fault` if that cannot be read either."""
    try:
        split = {**read_json(run.path / "split.json"), "in_shards": False}  # `shard.tar/member` is a path of no file
        return split_from_dict(split, Path(record["data_root"]), tuple(record["class_names"]))
    except (KeyError, TypeError, AttributeError) as error:
        raise fault from error


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
