"""Detections as COCO's result files: what pycocotools' `loadRes` and every COCO tool read.

Rounding: a score is written with the fewest digits that give the same float32 again, so that no order
changes; sides of boxes to 1/1000 of a pixel; masks are exact.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from effvit.data.coco_masks import mask_of
from effvit.data.coco_records import CocoPicture
from effvit.data.samples import listed
from effvit.detection.extras import import_extra
from effvit.detection.kept import KeptDetections, Packed, RunLengths, encode_masks, pack
from effvit.detection.records import Detections
from effvit.errors import DataError
from effvit.files import read_json, write_text

_DIGITS = 3
"""Of a box, after the point."""


def result_rows(image_id: int, detections: Detections | Packed, category_ids: Sequence[int]) -> list[dict[str, Any]]:
    """The detections of one picture as rows of a result file, the surest first.

    Args:
        image_id: The picture.
        detections: On it.
        category_ids: Ids in the COCO file by label.
    """
    packed = detections if isinstance(detections, Packed) else pack(detections)
    rows = []
    for index, (box, score, label) in enumerate(zip(packed.boxes, packed.scores, packed.labels, strict=True)):
        left, top, right, bottom = (float(side) for side in box)
        row: dict[str, Any] = {
            "image_id": image_id,
            "category_id": int(category_ids[label]),
            "bbox": [round(side, _DIGITS) for side in (left, top, right - left, bottom - top)],
            "score": float(str(np.float32(score))),
        }
        if packed.masks is not None:
            row["segmentation"] = dict(packed.masks[index])
        rows.append(row)
    return rows


def results(found: Mapping[int, Detections], category_ids: Sequence[int]) -> list[dict[str, Any]]:
    """The detections of many pictures as a result list, by image id."""
    rows: list[dict[str, Any]] = []
    for image_id in sorted(found):
        kept = found.packed(image_id) if isinstance(found, KeptDetections) else found[image_id]
        rows.extend(result_rows(image_id, kept, category_ids))
    return rows


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows as a JSON list, a detection a line; RunError if the place cannot be written."""
    lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    write_text(path, f"[\n{lines}\n]\n" if rows else "[]\n")


def read_results(path: Path | str, pictures: Sequence[CocoPicture], category_ids: Sequence[int]) -> KeptDetections:
    """Read a result file of this or any other tool.

    Every picture has an entry, an empty one where the file has nothing for it. Masks are kept only if every
    detection has one; a detection without a box gets that of its mask.

    Args:
        path: The file.
        pictures: Those it is about.
        category_ids: Ids in the COCO file by label.

    Raises:
        DataError: If it is no such file, or a detection is of another picture or class, or is damaged; says which.
        RunError: If it cannot be read or is no JSON.
    """
    rows = read_json(path)
    if not isinstance(rows, list):
        raise DataError(f"{path} is no COCO result file: it must be a list of detections, got a {type(rows).__name__}")
    by_id = {picture.image_id: picture for picture in pictures}
    labels = {category_id: label for label, category_id in enumerate(category_ids)}
    of_picture: dict[int, list[_Row]] = defaultdict(list)
    for number, row in enumerate(rows, start=1):
        try:
            read = _read_row(row, by_id, labels)
        except DataError as error:
            raise DataError(f"{path}, detection {number}: {error}") from error
        of_picture[row["image_id"]].append(read)
    with_masks = bool(rows) and all(mask is not None for found in of_picture.values() for *_, mask in found)
    kept = KeptDetections()
    for image_id in by_id:
        kept.add(image_id, _packed(of_picture[image_id], with_masks=with_masks))
    return kept


_Row = tuple[list[float], float, int, RunLengths | None]
"""Box, score, label, mask."""


def _read_row(row: Any, pictures: Mapping[int, CocoPicture], labels: Mapping[int, int]) -> _Row:
    if not isinstance(row, dict):
        raise DataError(f"it must be an object, got {row!r:.60}")
    missing = [key for key in ("image_id", "category_id", "score") if key not in row]
    if missing:
        raise DataError(f"it has no {missing[0]}")
    image_id, category_id, score = row["image_id"], row["category_id"], row["score"]
    if image_id not in pictures if isinstance(image_id, int) else True:
        raise DataError(f"image_id {image_id!r:.40} is none of the {len(pictures)} pictures evaluated on")
    if category_id not in labels if isinstance(category_id, int) else True:
        raise DataError(f"category_id {category_id!r:.40} is unknown; known: {listed(list(labels))}")
    if not _is_number(score):
        raise DataError(f"score must be a number, got {score!r:.40}")
    picture = pictures[image_id]
    mask = _run_lengths(row["segmentation"], picture) if row.get("segmentation") else None
    return _box(row.get("bbox"), mask), float(score), labels[category_id], mask


def _box(box: Any, mask: RunLengths | None) -> list[float]:
    """x, y, width, height -> left, top, right, bottom."""
    if box is None:
        if mask is None:
            raise DataError("it has neither bbox nor segmentation")
        box = import_extra("faster_coco_eval.core.mask", "the box of a mask").toBbox(dict(mask)).tolist()
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box)) or min(box[2:]) < 0:
        raise DataError(f"bbox must be x, y, width, height with no side below 0, got {box!r:.60}")
    left, top, width, height = map(float, box)
    return [left, top, left + width, top + height]


def _run_lengths(segmentation: Any, picture: CocoPicture) -> RunLengths:
    """Polygons or run lengths of any kind as compressed run lengths; those of another size are refused."""
    size = segmentation.get("size") if isinstance(segmentation, dict) else None
    if size is not None and list(size) != [picture.height, picture.width]:
        raise DataError(f"segmentation has size {size}; the picture is {[picture.height, picture.width]}")
    return encode_masks(mask_of(segmentation, picture.height, picture.width)[None])[0]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and bool(np.isfinite(value))


def _packed(rows: Sequence[_Row], *, with_masks: bool) -> Packed:
    order = np.argsort([-score for _, score, _, _ in rows], kind="stable")
    rows = [rows[index] for index in order]
    return Packed(
        boxes=np.array([box for box, *_ in rows], dtype=np.float32).reshape(-1, 4),
        scores=np.array([score for _, score, _, _ in rows], dtype=np.float32),
        labels=np.array([label for _, _, label, _ in rows], dtype=np.int64),
        masks=tuple(mask for *_, mask in rows if mask is not None) if with_masks else None,
    )


def write_results(path: Path, found: Mapping[int, Detections], category_ids: Sequence[int]) -> None:
    """Write a result file; RunError if the place cannot be written."""
    write_rows(path, results(found, category_ids))
