"""The detections of many pictures in little memory: a mask is kept as run lengths until somebody looks at it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from effvit.detection.extras import import_extra
from effvit.detection.records import Detections

RunLengths = dict[str, Any]
"""A mask as COCO writes it: `size` (height, width) and `counts`, compressed, a text."""

_MASK_API = "faster_coco_eval.core.mask"


@dataclass(frozen=True, kw_only=True)
class Packed:
    """The detections of one picture, the surest first."""

    boxes: npt.NDArray[np.float32]
    """Left, top, right, bottom, (N, 4)."""
    scores: npt.NDArray[np.float32]
    """Falling, (N,)."""
    labels: npt.NDArray[np.int64]
    """Positions in the class names, (N,)."""
    masks: tuple[RunLengths, ...] | None = None
    """One for each box; None without masks."""

    def __len__(self) -> int:
        """How many things."""
        return len(self.scores)


class KeptDetections(Mapping[int, Detections]):
    """Detections by image id; those of all of COCO's 5,000 validation pictures fit, masks too.

    A dense mask takes a byte a pixel, 100 of them on a photo 30 MB; as run lengths they take some kB. What
    is read from here is dense again.
    """

    def __init__(self, found: Mapping[int, Detections] | None = None) -> None:
        self._packed: dict[int, Packed] = {}
        for image_id, detections in (found or {}).items():
            self.add(image_id, detections)

    def add(self, image_id: int, detections: Detections | Packed) -> None:
        """Keep the detections of one picture; those kept before for it are replaced.

        Raises:
            ConfigError: If there are masks and the extra `detection` is not installed.
        """
        self._packed[image_id] = detections if isinstance(detections, Packed) else pack(detections)

    def packed(self, image_id: int) -> Packed:
        """The detections of one picture as they are kept."""
        return self._packed[image_id]

    def __getitem__(self, image_id: int) -> Detections:
        return unpack(self._packed[image_id])

    def __iter__(self) -> Iterator[int]:
        return iter(self._packed)

    def __len__(self) -> int:
        return len(self._packed)


def pack(detections: Detections) -> Packed:
    """Detections on the CPU, surest first, with masks as run lengths."""
    order = torch.argsort(detections.scores, descending=True, stable=True)
    masks = None
    if detections.masks is not None:
        masks = encode_masks(detections.masks[order].cpu().numpy())
    return Packed(
        boxes=detections.boxes[order].detach().float().cpu().numpy(),
        scores=detections.scores[order].detach().float().cpu().numpy(),
        labels=detections.labels[order].long().cpu().numpy(),
        masks=masks,
    )


def unpack(packed: Packed) -> Detections:
    """The same with dense masks."""
    masks = None if packed.masks is None else torch.from_numpy(decode_masks(packed.masks))
    return Detections(
        boxes=torch.from_numpy(packed.boxes),
        scores=torch.from_numpy(packed.scores),
        labels=torch.from_numpy(packed.labels),
        masks=masks,
    )


def encode_masks(masks: npt.NDArray[np.bool_]) -> tuple[RunLengths, ...]:
    """Masks (N, H, W) as run lengths.

    Raises:
        ConfigError: If the extra `detection` is not installed.
    """
    if not len(masks):
        return ()
    api = import_extra(_MASK_API, "a mask as run lengths")
    # COCO counts down the columns: (N, H, W) -> (H, W, N), the rows of a column side by side in memory
    encoded = api.encode(np.asfortranarray(masks.transpose(1, 2, 0).astype(np.uint8)))
    return tuple({"size": [int(side) for side in rle["size"]], "counts": _text(rle["counts"])} for rle in encoded)


def decode_masks(run_lengths: Sequence[RunLengths]) -> npt.NDArray[np.bool_]:
    """Run lengths of one picture as masks (N, H, W); (0, 0, 0) for none.

    Raises:
        ConfigError: If the extra `detection` is not installed.
    """
    if not run_lengths:
        return np.zeros((0, 0, 0), dtype=np.bool_)
    api = import_extra(_MASK_API, "a mask from run lengths")
    dense = api.decode([dict(rle) for rle in run_lengths])  # (H, W, N)
    return np.ascontiguousarray(dense.transpose(2, 0, 1)).astype(np.bool_)


def _text(counts: bytes | str) -> str:
    return counts.decode("ascii") if isinstance(counts, bytes) else counts
