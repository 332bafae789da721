"""The drawings of a run and of an evaluation: curves, confusion matrix, confused pairs, calibration."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from effvit.data.drawing import save_figure, shorten
from effvit.train.calibration import expected_calibration_error, reliability
from effvit.train.evaluation import Confusion, Evaluation
from effvit.train.records import EpochRecord, best_epoch

_MAX_NUMBERED_CLASSES = 20
"""Confusion matrices of more classes have no numbers in the cells."""
_MAX_NAMED_CLASSES = 150
"""Confusion matrices of more classes have no names on the axes."""


def write_curves(path: Path, history: Sequence[EpochRecord], *, num_epochs: int | None = None) -> None:
    """Draw losses, validation top-1 and learning rate over the epochs.

    Args:
        path: The PNG.
        history: The epochs so far, at least one.
        num_epochs: How many were planned; a run that ended before says so.
    """
    epochs = [record.epoch for record in history]
    best = best_epoch(history)
    style: dict[str, Any] = {"marker": "o" if len(epochs) < 30 else None, "markersize": 3}
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    losses, accuracy, rate = figure.subplots(1, 3)
    losses.plot(epochs, [record.train_loss for record in history], **style, label="training")
    losses.plot(epochs, [record.val_loss for record in history], **style, label="validation")
    accuracy.plot(epochs, [record.val_top1 for record in history], **style, color="tab:orange", label="trained weights")
    if any(record.val_top1_ema is not None for record in history):
        averaged = [record for record in history if record.val_top1_ema is not None]
        places = [record.epoch for record in averaged]
        losses.plot(places, [r.val_loss_ema for r in averaged], **style, color="tab:green", label="validation, average")
        accuracy.plot(places, [r.val_top1_ema for r in averaged], **style, color="tab:green", label="moving average")
        accuracy.legend()
    losses.set(title="Loss (training: augmented)", ylabel="nats")
    losses.legend()
    accuracy.axvline(best.epoch, color="0.6", linestyle=":")
    accuracy.set(title=f"Validation top-1, best {best.best_top1:.1%} in epoch {best.epoch}", ylim=(0, 1.02))
    accuracy.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    rate.plot(epochs, [record.learning_rate for record in history], **style, color="tab:gray")
    rate.set(title="Learning rate at the end of the epoch")
    rate.set_ylim(bottom=0)
    ended_early = num_epochs is not None and epochs[-1] < num_epochs
    for axes in (losses, accuracy, rate):
        axes.set_xlabel(f"epoch, {epochs[-1]} of {num_epochs}" if ended_early else "epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
    save_figure(figure, path, dpi=100)


def write_confusion(path: Path, evaluation: Evaluation) -> None:
    """Draw the confusion matrix: colour by share of the true class, counts where they can be read."""
    counts = evaluation.confusion
    num_classes = len(counts)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    named = num_classes <= _MAX_NAMED_CLASSES
    inches_per_class = 0.45 if num_classes <= _MAX_NUMBERED_CLASSES else 0.18
    side = min(4 + inches_per_class * num_classes, 24)
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.subplots()
    # Not in proportion: a tenth of a class that goes astray must be seen beside what is right.
    picture = axes.imshow(shares, cmap="Blues", norm=PowerNorm(0.6, vmin=0, vmax=1), interpolation="nearest")
    bar = figure.colorbar(picture, ax=axes, fraction=0.02, pad=0.01, format=PercentFormatter(1, decimals=0))
    bar.set_label("share of the true class")
    title = f"Confusion matrix: {evaluation.num_pictures} pictures, top-1 {evaluation.top1:.1%}"
    axes.set(title=title, xlabel="predicted", ylabel="true")
    if named:
        names = [shorten(name) for name in evaluation.class_names]
        size = 9 if num_classes <= _MAX_NUMBERED_CLASSES else 7
        turn: dict[str, Any] = {"rotation": 90} if max(map(len, names)) > 2 else {}
        axes.set_xticks(range(num_classes), names, fontsize=size, parse_math=False, **turn)
        axes.set_yticks(range(num_classes), names, fontsize=size, parse_math=False)
        axes.set_xticks(np.arange(0.5, num_classes - 1), minor=True)
        axes.set_yticks(np.arange(0.5, num_classes - 1), minor=True)
        axes.grid(which="minor", color="0.9", linewidth=0.5)
        axes.tick_params(which="minor", length=0)
    if num_classes <= _MAX_NUMBERED_CLASSES:
        for (row, column), count in np.ndenumerate(counts):
            if count:
                color = "white" if shares[row, column] > 0.5 else "black"
                axes.text(column, row, f"{count}", ha="center", va="center", color=color, fontsize=9)
    save_figure(figure, path, dpi=110)


def write_most_confused(path: Path, pairs: Sequence[Confusion]) -> None:
    """Draw the pairs of classes that are most often mistaken, as bars: what a large matrix hides."""
    figure = Figure(figsize=(9, 0.32 * max(len(pairs), 1) + 1.2), layout="constrained")
    axes = figure.subplots()
    if not pairs:
        axes.set_axis_off()
        figure.suptitle("No mistakes")
    else:
        labels = [f"{shorten(pair.true)} → {shorten(pair.predicted)}" for pair in pairs]
        bars = axes.barh(range(len(pairs)), [pair.num_pictures for pair in pairs], color="tab:blue")
        axes.bar_label(bars, [f"{pair.num_pictures} ({pair.share:.0%})" for pair in pairs], padding=3, fontsize=8)
        axes.set_yticks(range(len(pairs)), labels, fontsize=8, parse_math=False)
        axes.invert_yaxis()
        axes.margins(x=0.12, y=0.01)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set(title="Most confused: true → predicted", xlabel="pictures (share of the true class)")
    save_figure(figure, path, dpi=110)


def write_reliability(path: Path, evaluation: Evaluation) -> None:
    """Draw how often a prediction is right against how sure it is, with the number of pictures below."""
    bins = reliability(evaluation)
    figure = Figure(figsize=(5, 5.4), layout="constrained")
    upper, lower = figure.subplots(2, 1, height_ratios=(3, 1), sharex=True)
    filled = [entry for entry in bins if entry.confidence is not None and entry.accuracy is not None]
    width = 1 / len(bins)
    upper.plot((0, 1), (0, 1), color="0.5", linestyle="--", linewidth=1)
    middles = [(entry.low + entry.high) / 2 for entry in bins]
    heights = [entry.accuracy or 0.0 for entry in bins]
    upper.bar(middles, heights, width * 0.92, color="tab:blue", label="share right")
    upper.hlines(
        [entry.confidence for entry in filled],
        [entry.low for entry in filled],
        [entry.high for entry in filled],
        color="tab:red",
        linewidth=2.5,
        label="mean sureness",
    )
    upper.set(
        title=f"Calibration error {expected_calibration_error(evaluation):.1%}", ylabel="share right", ylim=(0, 1)
    )
    upper.legend(loc="upper left", fontsize=8)
    upper.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    lower.bar(middles, [entry.num_pictures for entry in bins], width * 0.92)
    lower.set(xlabel="probability of the predicted class", ylabel="pictures", xlim=(0, 1))
    lower.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    for axes in (upper, lower):
        axes.grid(alpha=0.3)
        axes.set_axisbelow(True)
    save_figure(figure, path, dpi=100)
