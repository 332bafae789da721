"""How the epochs of a detector's training went: their record and their curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from effvit.data.drawing import save_figure
from effvit.train.records import EpochFacts, best_epoch


@dataclass(frozen=True, kw_only=True)
class DetectionEpoch(EpochFacts):
    """One line of a detector's metrics.jsonl; scores in 0..1, of masks where masks are learned, else of boxes."""

    val_ap: float
    """COCO's AP of the trained weights."""
    val_ap50: float
    """AP at an overlap of 0.5."""
    val_box_ap: float
    """AP of the boxes; the same as val_ap where boxes are all that is learned."""
    val_ap_ema: float | None = None
    """AP of the moving average of the weights; None where none is kept."""
    val_ap50_ema: float | None = None
    """The same at an overlap of 0.5."""
    val_box_ap_ema: float | None = None
    """The same of the boxes."""

    @property
    def trained_score(self) -> tuple[float, ...]:
        """AP, then AP50, then the loss: while nothing is found yet a run still gets better."""
        return self.val_ap, self.val_ap50, -self.train_loss

    @property
    def ema_score(self) -> tuple[float, ...] | None:
        """The same of the average."""
        return None if self.val_ap_ema is None else (self.val_ap_ema, self.val_ap50_ema or 0.0, -self.train_loss)

    @property
    def scores_text(self) -> str:
        """AP and AP50."""
        average = "" if self.val_ap_ema is None else f" ({self.val_ap_ema:6.2%} averaged)"
        return f"AP {self.val_ap:6.2%}{average}  AP50 {self.val_ap50:6.2%}"

    @property
    def curves(self) -> Mapping[str, float | None]:
        """Of both networks."""
        return {
            "ap/val": self.val_ap,
            "ap/val_ema": self.val_ap_ema,
            "ap50/val": self.val_ap50,
            "ap50/val_ema": self.val_ap50_ema,
            "box_ap/val": self.val_box_ap,
            "box_ap/val_ema": self.val_box_ap_ema,
        }


def write_history(path: Path, history: Sequence[DetectionEpoch]) -> None:
    """Draw training loss, AP and learning rate over the epochs.

    Args:
        path: The PNG.
        history: The epochs so far, at least one.
    """
    epochs = [record.epoch for record in history]
    best = best_epoch(history)
    style: dict[str, Any] = {"marker": "o" if len(epochs) < 30 else None, "markersize": 3}
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    loss, scores, rate = figure.subplots(1, 3)
    loss.plot(epochs, [record.train_loss for record in history], **style)
    loss.set(title="Training loss (pictures varied)")
    scores.plot(epochs, [record.val_ap for record in history], **style, color="tab:orange", label="AP")
    scores.plot(epochs, [record.val_ap50 for record in history], **style, color="tab:blue", label="AP50")
    averaged = [record for record in history if record.val_ap_ema is not None]
    if averaged:
        places = [record.epoch for record in averaged]
        scores.plot(places, [r.val_ap_ema for r in averaged], "--", color="tab:orange", label="AP, average")
        scores.plot(places, [r.val_ap50_ema for r in averaged], "--", color="tab:blue", label="AP50, average")
    scores.legend()
    best_ap = max(best.val_ap, best.val_ap_ema or 0.0)
    scores.set(title=f"Validation, best AP {best_ap:.1%} in epoch {best.epoch}")
    scores.yaxis.set_major_formatter(PercentFormatter(1.0))
    rate.plot(epochs, [record.learning_rate for record in history], **style, color="tab:gray")
    rate.set(title="Learning rate at the epoch's end")
    for axes in (loss, scores, rate):
        axes.set_xlabel("epoch")
        axes.set_ylim(bottom=0)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
    save_figure(figure, path, dpi=100)
