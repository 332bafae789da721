"""What a run's report says: the words, rows and small pictures, from the files of the run folder."""

from __future__ import annotations

import base64
import io
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from PIL import Image

from effvit.data.datasets import PictureData
from effvit.data.samples import Sample
from effvit.train.config import TrainConfig
from effvit.train.contact_sheets import Shown, file_name, thumbnails
from effvit.train.records import EpochRecord, best_epoch, stops_early
from effvit.train.run_config import flat_settings

NUM_PHOTOS = 20
"""Pictures of each kind: 40 thumbnails are about 300 kB."""
_PHOTO_SIDE = 220
_MAX_LISTED = 50
_HELD_OUT = {
    "folders": "its own validation folder",
    "given": "as the source itself has them",
    "seeded": "a share of each class, drawn by the seed",
}
"""Where the held-out pictures come from, by `PictureData.split`."""


def embedded(path: Path) -> str | None:
    """A PNG file as a data URI; None if there is none."""
    return f"data:image/png;base64,{_base64(path.read_bytes())}" if path.is_file() else None


def trained_lines(config: TrainConfig, data: PictureData, history: Sequence[EpochRecord], about: str) -> Iterator[str]:
    """What was trained on what and how, one statement a line.

    Args:
        config: Of the run.
        data: Of the run.
        history: The epochs, at least one.
        about: The network and where its weights began.
    """
    height, width = config.preprocessing.image_size
    yield f"{about}, pictures of {height} x {width} pixels."
    counts = Counter(sample.target for sample in data.train)
    yield (
        f"{len(data.train):,} training pictures of {len(data.class_names)} classes ({min(counts.values())} to"
        f" {max(counts.values())} a class, median {median(counts.values()):g}); {len(data.val):,} held out:"
        f" {_HELD_OUT[data.split]}."
    )
    yield _course(config, history)
    most_unreadable = max(record.num_unreadable for record in history)
    if most_unreadable:
        yield f"Unreadable pictures, left out: {most_unreadable} in the worst epoch."
    warmup = f" after a warm-up of {config.warmup_share:.0%}" if config.warmup_share else ""
    yield (
        f"{f'Recipe {config.recipe}: ' if config.recipe else ''}AdamW, batches of {config.batch_size}, learning rate"
        f" {config.peak_learning_rate:.3g} falling along a cosine{warmup}, weight decay {config.weight_decay:g}, label"
        f" smoothing {config.label_smoothing:g}."
    )
    yield f"Pictures varied by {', '.join(_variations(config))}."
    yield from _additions(config)


def _course(config: TrainConfig, history: Sequence[EpochRecord]) -> str:
    best = best_epoch(history)
    minutes = sum(record.seconds for record in history) / 60
    done = f"{len(history)} of {config.epochs} epochs" if len(history) < config.epochs else f"{config.epochs} epochs"
    stopped = len(history) < config.epochs and stops_early(history, config.patience)
    early = f", stopped after {config.patience} without a better one" if stopped else ""
    average = ", by the moving average of its weights" if best.ema_is_better else ""
    return (
        f"{done} in {minutes:.0f} minutes{early}; the best, kept in weights/, was epoch {best.epoch} with top-1"
        f" {best.best_top1:.1%}{average}."
    )


def _variations(config: TrainConfig) -> Iterator[str]:
    augmentation = config.augmentation
    yield f"random crops of {augmentation.crop_scale[0]:.0%} to {augmentation.crop_scale[1]:.0%}"
    if augmentation.horizontal_flip:
        yield "mirroring"
    if augmentation.rand_augment:
        yield f"RandAugment ({augmentation.rand_augment})"
    elif augmentation.color_jitter:
        yield f"colour jitter {augmentation.color_jitter:g}"
    if augmentation.random_erasing:
        yield f"erasing {augmentation.random_erasing:.0%}"
    if augmentation.repeats > 1:
        yield f"{augmentation.repeats} views of a picture"
    if augmentation.mixes:
        yield f"mixup {augmentation.mixup:g} and cutmix {augmentation.cutmix:g}"


def _additions(config: TrainConfig) -> Iterator[str]:
    if config.ema_decay:
        yield f"A moving average of the weights, decay {config.ema_decay:g}."
    if config.class_weights != "none" or config.sampler != "shuffle":
        yield f"Against class imbalance: class weights {config.class_weights}, sampler {config.sampler}."
    if config.distillation.teacher:
        yield f"Taught by {config.distillation.teacher}."
    if config.precision != "float32":
        yield f"Computed in {config.precision}."


def settings(config: TrainConfig) -> list[tuple[str, str, bool]]:
    """Every setting, its value, and whether it differs from the default."""
    values, defaults = flat_settings(config), flat_settings(TrainConfig())
    return [(name, str(value), value != defaults[name]) for name, value in values.items()]


def environment_rows(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Machine and software, as they were written down."""
    rows = []
    for name, value in values.items():
        if isinstance(value, dict):
            value = ", ".join(f"{key} {entry}" for key, entry in value.items() if entry is not None)
        if value is not None:
            rows.append((name.replace("_", " "), str(value)))
    return rows


def evaluation_content(
    summary: Mapping[str, Any], predictions: Sequence[Mapping[str, Any]], samples: Sequence[Sample], folder: Path
) -> dict[str, Any]:
    """The part about accuracy and mistakes.

    Args:
        summary: Content of summary.json.
        predictions: Content of predictions.json.
        samples: The pictures, for the small ones; those of others are left empty.
        folder: Where the drawings lie.
    """
    low, high = (summary["intervals_95"]["top1"][end] for end in ("low", "high"))
    mistakes = [row for row in predictions if row["classes"][0]["name"] != row["true"]]
    return {
        "headline": f"{summary['top1']:.1%} top-1",
        "headline_note": f"95 % interval {low:.1%} to {high:.1%}, on {summary['num_pictures']:,} held-out pictures",
        "scores": _scores(summary),
        "classes": sorted(summary["per_class"], key=lambda row: (row["f1"] is None, row["f1"] or 0)),
        "averages": [_average(summary, kind) for kind in ("macro", "weighted")],
        "confused": summary["most_confused"],
        "confusion": embedded(folder / "confusion.png"),
        "reliability": embedded(folder / "reliability.png"),
        "calibration": _calibration(summary),
        "worst": photos(sorted(mistakes, key=lambda row: -_sure(row))[:NUM_PHOTOS], samples),
        "least_sure": photos(sorted(predictions, key=_sure)[:NUM_PHOTOS], samples),
        "unreadable": _cut(summary["unreadable"]),
    }


def photos(rows: Sequence[Mapping[str, Any]], samples: Sequence[Sample]) -> list[dict[str, Any]]:
    """Small pictures with their captions."""
    by_name = {sample.name: sample for sample in samples}
    entries = [
        Shown(
            sample=by_name.get(row["path"], Sample(Path(row["path"]), target=0)),
            true=row["true"],
            target_probability=row["probability_true"],
            predicted=row["classes"][0]["name"],
            predicted_probability=_sure(row),
        )
        for row in rows
    ]
    return [
        {
            "picture": None if photo is None else _jpeg(photo),
            "name": file_name(entry.sample.name),
            "true": entry.true,
            "chance": f"{entry.target_probability:.0%}",
            "predicted": entry.predicted,
            "sure": f"{entry.predicted_probability:.0%}",
        }
        for entry, photo in zip(entries, thumbnails(entries, _PHOTO_SIDE), strict=True)
    ]


def left_out(data: PictureData) -> list[str]:
    """Files of the data folder that were not used, and why."""
    return _cut([f"{skipped.path.name}: {skipped.reason}" for skipped in data.skipped])


def _scores(summary: Mapping[str, Any]) -> str:
    parts = []
    for name, label in (("top5", "top-5"), ("macro_f1", "macro F1")):
        if summary[name] is not None:
            interval = summary["intervals_95"][name]
            parts.append(f"{label} {summary[name]:.1%} ({interval['low']:.1%} to {interval['high']:.1%})")
    return f"{'; '.join(parts)}; mean cross entropy {summary['loss']:.3f}."


def _average(summary: Mapping[str, Any], kind: str) -> dict[str, Any]:
    words = {"macro": "mean of the classes", "weighted": "mean, by pictures"}
    shares = {score: summary[f"{kind}_{score}"] for score in ("precision", "recall", "f1")}
    return {"name": words[kind], "num_pictures": summary["num_pictures"], **shares}


def _calibration(summary: Mapping[str, Any]) -> str:
    found, interval = summary["calibration"], summary["intervals_95"]["ece"]
    manner = "surer than it is right" if found["confidence"] > summary["top1"] else "less sure than it is right"
    text = (
        f"On average {found['confidence']:.1%} sure and {summary['top1']:.1%} right: {manner}."
        f" Expected calibration error {found['ece']:.1%} ({interval['low']:.1%} to {interval['high']:.1%}) in"
        f" {len(found['bins'])} bins of equal width, {found['ece_adaptive']:.1%} in bins of equally many pictures."
    )
    if summary.get("temperature", 1.0) != 1:
        text += f" The logits were divided by a temperature of {summary['temperature']:.3f}."
    fitted = summary.get("calibrated")
    if fitted:
        text += (
            f" Since then a temperature of {fitted['temperature']:.3f} was fitted on these pictures; by"
            f" {fitted['num_folds']}-fold cross-validation it brings the error to {fitted['ece_after']:.1%}."
        )
    return text


def _sure(row: Mapping[str, Any]) -> float:
    return float(row["classes"][0]["probability"])


def _jpeg(photo: Image.Image) -> str:
    stream = io.BytesIO()
    photo.save(stream, "JPEG", quality=78, optimize=True)
    return f"data:image/jpeg;base64,{_base64(stream.getvalue())}"


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")


def _cut(lines: Sequence[str]) -> list[str]:
    shown = list(lines[:_MAX_LISTED])
    return shown if len(lines) <= _MAX_LISTED else [*shown, f"and {len(lines) - _MAX_LISTED} more"]
