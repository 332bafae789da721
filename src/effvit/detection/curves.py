"""Precision against recall as a chart."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from effvit.data.drawing import save_figure, shorten
from effvit.detection.scores import RECALLS, DetectionScores, KindScores
from effvit.figures import OURS, SERIES, THEIRS, panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MAX_CLASSES = len(SERIES)
"""Curves of so many classes can be told apart; of more those with the most things are drawn, whose curves say most."""

_LEGEND: dict[str, Any] = {"fontsize": 8, "loc": "best", "framealpha": 0.85, "edgecolor": "none"}


def write_curves(path: Path, scores: DetectionScores) -> None:
    """Draw the curves of what the task is about, all classes at three overlaps and each class at .5, as PNG.

    Raises:
        RunError: If the place cannot be written.
    """
    figure, (together, each) = panels(2, width=6, height=4.2)
    kind = "masks" if scores.masks is not None else "boxes"
    _draw_together(together, scores.main, kind)
    _draw_classes(each, scores.main, kind)
    for axes in (together, each):
        axes.set(xlabel="recall: share of the things that are found", xlim=(0, 1.01), ylim=(0, 1.02))
    together.set_ylabel("precision: share of the detections that are right")
    save_figure(figure, path, dpi=110)


def _draw_together(axes: Axes, scores: KindScores, kind: str) -> None:
    axes.set_title(f"All classes, {kind}", loc="left", fontsize=10)
    if scores.curve is None:
        _say_nothing(axes)
        return
    numbers = scores.numbers
    lines = (
        (scores.curve.at_50, "overlap .5: AP50", numbers.ap50, OURS),
        (scores.curve.at_75, "overlap .75: AP75", numbers.ap75, SERIES[1]),
        (scores.curve.mean, "mean of .5 to .95: AP", numbers.ap, THEIRS),
    )
    for points, name, value, color in lines:
        axes.plot(RECALLS, points, color=color, label=f"{name} {value:.3f}")
    axes.legend(**_LEGEND)


def _draw_classes(axes: Axes, scores: KindScores, kind: str) -> None:
    named = [
        (score, curve) for score, curve in zip(scores.classes, scores.class_curves, strict=True) if curve is not None
    ]
    title = f"Each class at an overlap of .5, {kind}"
    if len(named) > _MAX_CLASSES:
        title = f"The {_MAX_CLASSES} of {len(named)} classes with the most things, overlap .5, {kind}"
    shown = sorted(named, key=lambda entry: -entry[0].num_things)[:_MAX_CLASSES]
    shown.sort(key=lambda entry: -(entry[0].ap50 or 0))
    axes.set_title(title, loc="left", fontsize=10)
    if not named:
        _say_nothing(axes)
        return
    for color, (score, curve) in zip(SERIES, shown, strict=False):
        # Numbers first: behind a name that is written from right to left they would turn around with it.
        axes.plot(RECALLS, curve.at_50, color=color, label=f"{score.ap50:.3f}  {shorten(score.name)}")
    axes.legend(**_LEGEND, title="AP50", title_fontsize=8, alignment="left")


def _say_nothing(axes: Axes) -> None:
    axes.text(0.5, 0.5, "no things, so no curve", ha="center", transform=axes.transAxes)
