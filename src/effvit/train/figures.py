"""The pictures of a run and of an evaluation: curves, confusion matrix, worst mistakes."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import font_manager
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import MaxNLocator, PercentFormatter

from effvit.data.pictures import read_picture
from effvit.files import atomic_path
from effvit.train.evaluate import Evaluation
from effvit.train.records import EpochRecord, best_epoch

_MAX_NUMBERED_CLASSES = 20
"""Confusion matrices of more classes have no numbers in the cells."""
_MAX_NAMED_CLASSES = 150
"""Confusion matrices of more classes have no names on the axes."""
_SHEET_COLUMNS = 5
_SHEET_PIXELS = 320
"""Longest side of a picture in the sheet of mistakes."""
_MAX_NAME_LENGTH = 28
_WORLD_FONTS = (
    "DejaVu Sans", "Noto Sans", "Noto Sans CJK JP", "Noto Sans Arabic", "Noto Sans Devanagari",
    "Arial Unicode MS", "Hiragino Sans", "Microsoft YaHei", "WenQuanYi Micro Hei",
)  # fmt: skip
"""Fonts that between them can write most class names; those installed are used, in this order."""


def write_curves(path: Path, history: Sequence[EpochRecord]) -> None:
    """Draw losses, validation top-1 and learning rate over the epochs."""
    epochs = [record.epoch for record in history]
    best = best_epoch(history)
    marker = "o" if len(epochs) < 30 else None
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    losses, accuracy, rate = figure.subplots(1, 3)
    losses.plot(epochs, [record.train_loss for record in history], marker=marker, markersize=3, label="training")
    losses.plot(epochs, [record.val_loss for record in history], marker=marker, markersize=3, label="validation")
    losses.set(title="Loss (training: augmented, smoothed labels)", ylabel="nats")
    losses.legend()
    accuracy.plot(epochs, [record.val_top1 for record in history], marker=marker, markersize=3, color="tab:green")
    accuracy.axvline(best.epoch, color="0.6", linestyle=":")
    accuracy.set(title=f"Validation top-1, best {best.val_top1:.1%} in epoch {best.epoch}", ylim=(0, 1.02))
    accuracy.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    rate.plot(epochs, [record.learning_rate for record in history], marker=marker, markersize=3, color="tab:gray")
    rate.set(title="Learning rate at the end of the epoch")
    rate.set_ylim(bottom=0)
    for axes in (losses, accuracy, rate):
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
    _save(figure, path, dpi=100)


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
    picture = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    bar = figure.colorbar(picture, ax=axes, fraction=0.04, format=PercentFormatter(1, decimals=0))
    bar.set_label("share of the true class")
    title = f"Confusion matrix: {evaluation.num_pictures} pictures, top-1 {evaluation.top1:.1%}"
    axes.set(title=title, xlabel="predicted", ylabel="true")
    if named:
        names = [_shorten(name) for name in evaluation.class_names]
        size = 9 if num_classes <= _MAX_NUMBERED_CLASSES else 7
        turn: dict[str, Any] = {"rotation": 90} if max(map(len, names)) > 2 else {}
        axes.set_xticks(range(num_classes), names, fontsize=size, parse_math=False, **turn)
        axes.set_yticks(range(num_classes), names, fontsize=size, parse_math=False)
    if num_classes <= _MAX_NUMBERED_CLASSES:
        for (row, column), count in np.ndenumerate(counts):
            if count:
                color = "white" if shares[row, column] > 0.5 else "black"
                axes.text(column, row, f"{count}", ha="center", va="center", color=color, fontsize=9)
    _save(figure, path, dpi=110)


def write_worst(path: Path, evaluation: Evaluation, *, num_pictures: int = 20) -> None:
    """Draw the mistakes the network was surest of, each with its true and its predicted class."""
    mistakes = np.flatnonzero(evaluation.predicted != evaluation.targets)
    order = np.argsort(-evaluation.predicted_probabilities[mistakes], kind="stable")
    worst = mistakes[order][:num_pictures]
    columns = min(max(len(worst), 2), _SHEET_COLUMNS)  # two even for none: the heading needs the width
    rows = max(-(-len(worst) // columns), 1)
    figure = Figure(figsize=(2.6 * columns, 3.1 * rows + 0.5), layout="constrained")
    heading = f"The {len(worst)} surest of {len(mistakes)} mistakes among {evaluation.num_pictures} pictures"
    figure.suptitle(heading if len(worst) else f"No mistakes among {evaluation.num_pictures} pictures")
    all_axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in all_axes:
        axes.set_axis_off()
    for axes, index in zip(all_axes, worst, strict=False):
        photo = read_picture(evaluation.paths[index])
        photo.thumbnail((_SHEET_PIXELS, _SHEET_PIXELS))
        axes.imshow(photo)
        true_name = _shorten(evaluation.class_names[evaluation.targets[index]])
        predicted_name = _shorten(evaluation.class_names[evaluation.predicted[index]])
        axes.set_title(
            f"true: {true_name} ({evaluation.target_probabilities[index]:.0%})\n"
            f"said: {predicted_name} ({evaluation.predicted_probabilities[index]:.0%})",
            fontsize=8,
            loc="left",
            parse_math=False,
        )
    _save(figure, path, dpi=110)


def _save(figure: Figure, path: Path, *, dpi: int) -> None:
    """Write a PNG atomically, in fonts that know as many of the class names' scripts as are installed."""
    families = _installed_fonts()
    for text in figure.findobj(Text):
        text.set_fontfamily(families)
    with atomic_path(path) as temporary, warnings.catch_warnings():
        # A script without an installed font shows as boxes in the picture; the tables have the names.
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from font")
        figure.savefig(temporary, dpi=dpi, bbox_inches="tight")


def _installed_fonts() -> list[str]:
    installed = {font.name for font in font_manager.fontManager.ttflist}
    return [name for name in _WORLD_FONTS if name in installed]


def _shorten(name: str) -> str:
    return name if len(name) <= _MAX_NAME_LENGTH else name[: _MAX_NAME_LENGTH - 1] + "…"
