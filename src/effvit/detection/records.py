"""What a detector says about a picture."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Detections:
    """The things found in one picture, the surest first."""

    boxes: Tensor
    """Left, top, right, bottom in pixels of the picture as it was given, float32, (N, 4)."""
    scores: Tensor
    """How sure the detector is, 0..1, falling, float32, (N,)."""
    labels: Tensor
    """Positions in the detector's class names, int64, (N,)."""
    masks: Tensor | None = None
    """Which pixels belong to each thing, bool, (N, H, W) of the picture as it was given; None without masks."""

    def __len__(self) -> int:
        """How many things."""
        return len(self.scores)

    def above(self, score: float) -> Detections:
        """Those with at least this score."""
        kept = self.scores >= score
        masks = None if self.masks is None else self.masks[kept]
        return replace(self, boxes=self.boxes[kept], scores=self.scores[kept], labels=self.labels[kept], masks=masks)
