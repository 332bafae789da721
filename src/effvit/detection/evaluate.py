"""Compare detections with what is on the pictures, by COCO's rules (the numbers of pycocotools, to the last digit)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from effvit.data.coco_records import CocoPicture, CocoThing
from effvit.data.samples import listed
from effvit.detection.config import TASKS
from effvit.detection.extras import import_extra
from effvit.detection.kept import KeptDetections, Packed, pack
from effvit.detection.records import Detections
from effvit.detection.scores import ClassScore, CocoNumbers, Curve, DetectionScores, KindScores
from effvit.errors import ConfigError, DataError, RunError

_AT_50, _AT_75 = 0, 5
"""Positions of these overlaps among COCO's ten."""
_ALL_SIZES, _MOST_DETECTIONS = 0, -1


def evaluate_detections(
    found: Mapping[int, Detections],
    pictures: Sequence[CocoPicture],
    *,
    class_names: Sequence[str],
    category_ids: Sequence[int],
    task: str,
) -> DetectionScores:
    """COCO's scores of a detector.

    Things are numbered anew for the evaluator, so that an annotation id of 0, which pycocotools takes for "not
    matched", is a thing like any other.

    Args:
        found: The detections by image id. A picture without an entry has none, and its things are missed. For
            masks of many pictures give `KeptDetections`, which holds them in little memory.
        pictures: What is on the pictures.
        class_names: Names by label.
        category_ids: Ids in the COCO file by label.
        task: boxes, or masks for the scores of both.

    Returns:
        The scores. What has no things has None for a score: nothing can be said of it.

    Raises:
        ConfigError: If the task is unknown, the ids are not one for each class, or the extra `detection` is missing.
        DataError: If there are no pictures, or detections are of other pictures or of unknown classes, or lack
            masks of their picture's size.
        RunError: If a box or a score is not finite.
    """
    if task not in TASKS:
        raise ConfigError(f"task must be one of {', '.join(TASKS)}, got {task!r}")
    if len(class_names) != len(category_ids):
        raise ConfigError(f"category_ids must be one for each of {len(class_names)} classes, got {len(category_ids)}")
    if not pictures:
        raise DataError("there are no pictures to evaluate on")
    by_id = {picture.image_id: picture for picture in pictures}
    others = [image_id for image_id in found if image_id not in by_id]
    if others:
        raise DataError(f"there are detections of pictures that are not evaluated on: image ids {listed(others)}")
    packed = {image_id: _packed(found, image_id) for image_id in by_id if image_id in found}
    for image_id, detections in packed.items():
        _check(detections, by_id[image_id], num_classes=len(class_names), task=task)
    named = list(zip(class_names, category_ids, strict=True))
    crowds = [thing.is_crowd for picture in pictures for thing in picture.things]
    return DetectionScores(
        task=task,
        num_pictures=len(pictures),
        num_things=len(crowds) - sum(crowds),
        num_crowds=sum(crowds),
        num_detections=sum(map(len, packed.values())),
        boxes=_kind_scores("bbox", packed, pictures, named),
        masks=_kind_scores("segm", packed, pictures, named) if task == "masks" else None,
    )


def _packed(found: Mapping[int, Detections], image_id: int) -> Packed:
    return found.packed(image_id) if isinstance(found, KeptDetections) else pack(found[image_id])


def _check(detections: Packed, picture: CocoPicture, *, num_classes: int, task: str) -> None:
    """Refuse what no evaluator would notice."""
    if not np.isfinite(detections.scores).all() or not np.isfinite(detections.boxes).all():
        raise RunError(f"the detector gives boxes or scores of {picture.name} that are not finite (nan or inf)")
    wrong = detections.labels[(detections.labels < 0) | (detections.labels >= num_classes)]
    if len(wrong):
        raise DataError(f"a detection of {picture.name} has label {wrong[0]}; there are {num_classes} classes, from 0")
    if task == "boxes":
        return
    if detections.masks is None:
        raise DataError(f"the detections of {picture.name} have no masks; evaluate boxes instead")
    for mask in detections.masks:
        if tuple(mask["size"]) != (picture.height, picture.width):
            raise DataError(
                f"a mask of {picture.name} is {mask['size'][1]} x {mask['size'][0]} pixels; the COCO file says"
                f" {picture.width} x {picture.height}"
            )


def _kind_scores(
    kind: str, found: Mapping[int, Packed], pictures: Sequence[CocoPicture], named: Sequence[tuple[str, int]]
) -> KindScores:
    """Scores of boxes (`bbox`) or masks (`segm`)."""
    library = import_extra("faster_coco_eval", "the evaluation of detections")
    truth = library.COCO(_truth(kind, pictures, len(named)))
    evaluation = library.COCOeval_faster(truth, truth.loadRes(_results(kind, found)), iouType=kind)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    precision, recall = evaluation.eval["precision"], evaluation.eval["recall"]
    # (overlaps, recalls, classes, sizes, most detections) -> (overlaps, recalls, classes)
    precision = precision[:, :, :, _ALL_SIZES, _MOST_DETECTIONS]
    recall = recall[_AT_50, :, _ALL_SIZES, _MOST_DETECTIONS]
    num_things = Counter(thing.label for picture in pictures for thing in picture.things if not thing.is_crowd)
    num_detections = Counter(label for detections in found.values() for label in detections.labels.tolist())
    curves = [_curve(precision[:, :, label]) if num_things[label] else None for label in range(len(named))]
    classes = [
        ClassScore(
            name=name,
            category_id=category_id,
            ap=None if curve is None else float(curve.mean.mean()),
            ap50=None if curve is None else float(curve.at_50.mean()),
            recall=None if curve is None else float(recall[label]),
            num_things=num_things[label],
            num_detections=num_detections[label],
        )
        for label, ((name, category_id), curve) in enumerate(zip(named, curves, strict=True))
    ]
    with_things = [label for label, curve in enumerate(curves) if curve is not None]
    return KindScores(
        numbers=CocoNumbers(**dict(zip(CocoNumbers.__dataclass_fields__, map(_known, evaluation.stats), strict=True))),
        classes=tuple(classes),
        curve=_curve(precision[:, :, with_things].mean(axis=2)) if with_things else None,
        class_curves=tuple(curves),
    )


def _curve(precision: Any) -> Curve:
    """(overlaps, recalls) -> the curve."""
    return Curve(at_50=precision[_AT_50].copy(), at_75=precision[_AT_75].copy(), mean=precision.mean(axis=0))


def _known(number: float) -> float | None:
    """The evaluator's -1 stands for "there is nothing to count"."""
    return None if number < 0 else float(number)


def _truth(kind: str, pictures: Sequence[CocoPicture], num_classes: int) -> dict[str, Any]:
    """What is on the pictures, as the evaluator wants it; labels from 1 stand for the classes."""
    annotations: list[dict[str, Any]] = []
    for picture in pictures:
        for thing in picture.things:
            left, top, right, bottom = thing.box
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": picture.image_id,
                    "category_id": thing.label + 1,
                    "bbox": [left, top, right - left, bottom - top],
                    "area": thing.area,
                    "iscrowd": int(thing.is_crowd),
                    **({"segmentation": _segmentation(thing, picture)} if kind == "segm" else {}),
                }
            )
    return {
        "images": [{"id": p.image_id, "height": p.height, "width": p.width} for p in pictures],
        "categories": [{"id": label + 1, "name": str(label)} for label in range(num_classes)],
        "annotations": annotations,
    }


def _segmentation(thing: CocoThing, picture: CocoPicture) -> Any:
    """As in the file; a crowd without one covers its box."""
    if thing.segmentation:
        return thing.segmentation
    if not thing.is_crowd:
        raise DataError(
            f"annotation {thing.annotation_id} of {picture.name} has no segmentation, so masks cannot be evaluated;"
            " evaluate boxes instead"
        )
    left, top, right, bottom = thing.box
    return [[left, top, left, bottom, right, bottom, right, top]]


def _results(kind: str, found: Mapping[int, Packed]) -> list[dict[str, Any]]:
    """The detections as the evaluator wants them: of masks nothing but the mask, whose area then counts."""
    rows = []
    for image_id, detections in found.items():
        masks = detections.masks or [None] * len(detections)
        for box, score, label, mask in zip(
            detections.boxes.astype(np.float64).tolist(),
            detections.scores.astype(np.float64).tolist(),
            detections.labels.tolist(),
            masks,
            strict=True,
        ):
            left, top, right, bottom = box
            shape = (
                {"segmentation": dict(mask)}
                if kind == "segm" and mask is not None
                else {"bbox": [left, top, right - left, bottom - top]}
            )
            rows.append({"image_id": image_id, "category_id": label + 1, "score": score, **shape})
    return rows
