"""The numbers of pycocotools, and an honest None where there is nothing to count."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made_detections import bccd, coco_mini, detections, disturbed, picture_of, thing, truth
from pycocotools import mask as mask_api
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from effvit.data.coco_records import CocoData
from effvit.detection import evaluate as evaluate_module
from effvit.detection.config import TASKS
from effvit.detection.evaluate import evaluate_detections
from effvit.detection.kept import KeptDetections
from effvit.detection.records import Detections
from effvit.detection.scores import RECALLS, DetectionScores, KindScores
from effvit.errors import ConfigError, DataError, RunError

NAMES, IDS = ("cat", "dog"), (3, 7)


def evaluated(data: CocoData, found: Mapping[int, Detections], task: str) -> DetectionScores:
    return evaluate_detections(
        found, data.pictures, class_names=data.class_names, category_ids=data.category_ids, task=task
    )


def pycocotools_numbers(file: Path, found: Mapping[int, Detections], ids: tuple[int, ...], kind: str) -> COCOeval:
    """pycocotools on the file itself, with the detections as everyone hands them over."""
    rows: list[dict[str, Any]] = []
    for image_id, entry in found.items():
        for index in range(len(entry)):
            row: dict[str, Any] = {
                "image_id": image_id,
                "category_id": ids[int(entry.labels[index])],
                "score": float(entry.scores[index]),
            }
            if kind == "bbox":
                left, top, right, bottom = entry.boxes[index].double().tolist()
                row["bbox"] = [left, top, right - left, bottom - top]
            else:
                assert entry.masks is not None
                row["segmentation"] = mask_api.encode(np.asfortranarray(entry.masks[index].numpy().astype(np.uint8)))
            rows.append(row)
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(file))
        evaluation = COCOeval(coco, coco.loadRes(rows), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def same_numbers(scores: KindScores, expected: COCOeval) -> None:
    numbers = [-1.0 if number is None else number for number in asdict(scores.numbers).values()]
    np.testing.assert_allclose(numbers, expected.stats, rtol=0, atol=1e-12)
    precision, recall = expected.eval["precision"][:, :, :, 0, 2], expected.eval["recall"][:, :, 0, 2]
    for label, (score, curve) in enumerate(zip(scores.classes, scores.class_curves, strict=True)):
        if (precision[:, :, label] == -1).all():
            assert (curve, score.ap, score.ap50, score.recall, score.num_things) == (None, None, None, None, 0)
            continue
        assert curve is not None
        np.testing.assert_allclose(curve.at_50, precision[0, :, label], rtol=0, atol=1e-12)
        np.testing.assert_allclose(curve.at_75, precision[5, :, label], rtol=0, atol=1e-12)
        np.testing.assert_allclose(curve.mean, precision[:, :, label].mean(axis=0), rtol=0, atol=1e-12)
        assert score.ap == pytest.approx(precision[:, :, label].mean(), abs=1e-12)
        assert score.ap50 == pytest.approx(precision[0, :, label].mean(), abs=1e-12)
        assert score.recall == recall[0, label]


@pytest.mark.parametrize("part", ["train", "val"])
@pytest.mark.parametrize(("kind", "task"), [("bbox", "boxes"), ("segm", "masks")])
def test_what_is_there_scores_one(data_dir: Path, part: str, kind: str, task: str) -> None:
    data = coco_mini(data_dir, part)
    found = {picture.image_id: truth(picture, with_masks=task == "masks") for picture in data.pictures}
    scores = evaluated(data, found, task)
    assert scores.main.numbers.ap == pytest.approx(1, abs=1e-12)
    assert scores.main.numbers.ar_100 == pytest.approx(1, abs=1e-12)
    same_numbers(scores.main, pycocotools_numbers(data.source, found, data.category_ids, kind))
    for score in scores.main.classes:
        assert (score.ap, score.num_things) == (None, 0) if score.ap is None else score.ap == pytest.approx(1)


@pytest.mark.parametrize("seed", [0, 1])
def test_numbers_are_those_of_pycocotools(data_dir: Path, seed: int) -> None:
    """Boxes and masks, with crowds, mistakes of every kind, equal scores and more than 100 of a class."""
    data = coco_mini(data_dir, "val")
    found = disturbed(data, seed, with_masks=True)
    assert max(map(len, found.values())) > 100 and len(found) < len(data.pictures)
    assert sum(entry.is_crowd for picture in data.pictures for entry in picture.things)
    kept = KeptDetections(found)
    for mapping in (found, kept):
        scores = evaluated(data, mapping, "masks")
        assert scores.masks is not None and 0 < (scores.masks.numbers.ap or 0) < 0.9
        assert 0 < (scores.boxes.numbers.ap or 0) < 0.9 and scores.boxes.numbers != scores.masks.numbers
        same_numbers(scores.boxes, pycocotools_numbers(data.source, found, data.category_ids, "bbox"))
        same_numbers(scores.masks, pycocotools_numbers(data.source, found, data.category_ids, "segm"))


def test_numbers_are_those_of_pycocotools_on_many_boxes(data_dir: Path) -> None:
    data = bccd(data_dir)
    found = disturbed(data, 0)
    scores = evaluated(data, found, "boxes")
    assert scores.masks is None and scores.main is scores.boxes
    same_numbers(scores.boxes, pycocotools_numbers(data.source, found, data.category_ids, "bbox"))
    assert scores.num_things == sum(score.num_things for score in scores.boxes.classes)
    assert scores.num_detections == sum(score.num_detections for score in scores.boxes.classes)


def test_curves_are_what_ap_is_the_mean_of(data_dir: Path) -> None:
    data = coco_mini(data_dir)
    scores = evaluated(data, disturbed(data, 1), "boxes").boxes
    curve, numbers = scores.curve, scores.numbers
    assert curve is not None and curve.at_50.shape == RECALLS.shape == (101,)
    for points, number in ((curve.at_50, numbers.ap50), (curve.at_75, numbers.ap75), (curve.mean, numbers.ap)):
        assert points.mean() == pytest.approx(number, abs=1e-12)
    written = json.loads(json.dumps(scores.curves_to_dict()))
    assert written["recall"][1] == 0.01 and len(written["all"]["at_50"]) == 101
    assert list(written["classes"]) == list(data.class_names)
    without = {score.name for score in scores.classes if not score.num_things}
    assert without and {name for name, entry in written["classes"].items() if entry is None} == without


@pytest.mark.parametrize("task", TASKS)
def test_no_detections_score_zero_and_no_things_none(data_dir: Path, task: str) -> None:
    data = coco_mini(data_dir)
    missed = evaluated(data, {}, task).to_dict()
    assert missed["num_detections"] == 0 and missed[task]["ap"] == missed[task]["ar_100"] == 0
    empty = replace(data, pictures=tuple(picture._replace(things=()) for picture in data.pictures))
    nothing = {p.image_id: truth(p, with_masks=task == "masks") for p in empty.pictures}
    for found in (disturbed(data, 0, with_masks=task == "masks"), nothing, {}):
        scores = evaluated(empty, found, task)
        assert scores.num_things == 0 and scores.main.curve is None
        assert set(asdict(scores.main.numbers).values()) == {None}
        assert {score.ap for score in scores.main.classes} == {None}
        text = json.dumps([scores.to_dict(), scores.curves_to_dict()], allow_nan=False)
        assert "-1" not in text


def test_class_without_things_is_in_no_mean() -> None:
    pictures = [picture_of(thing(0, 10, 10, 40, 40))]
    found = {1: detections([[10, 10, 40, 40], [50, 50, 70, 70]], [0.5, 0.9], [0, 1])}
    scores = evaluate_detections(found, pictures, class_names=NAMES, category_ids=IDS, task="boxes")
    cat, dog = scores.boxes.classes
    assert cat == ("cat", 3, pytest.approx(1), pytest.approx(1), 1, 1, 1) and dog == ("dog", 7, None, None, None, 0, 1)
    assert scores.boxes.numbers.ap == pytest.approx(1) and scores.boxes.numbers.ap_large is None
    assert scores.to_dict()["boxes"]["per_class"][1]["ap"] is None


def test_only_crowds_are_no_things() -> None:
    pictures = [picture_of(thing(0, 0, 0, 100, 80, crowd=True))]
    found = {1: detections([[10, 10, 40, 40]], [0.5], [0], torch.ones(1, 80, 100, dtype=torch.bool))}
    scores = evaluate_detections(found, pictures, class_names=NAMES, category_ids=IDS, task="masks")
    assert (scores.num_things, scores.num_crowds, scores.boxes.numbers.ap) == (0, 1, None)


def test_detection_in_a_crowd_is_no_false_alarm() -> None:
    """A crowd without a segmentation covers its box; by boxes and by masks what lies in it does not count."""
    boxes = [[50, 10, 60, 20], [10, 10, 40, 40]]
    masks = torch.zeros(2, 80, 100, dtype=torch.bool)
    masks[0, 10:20, 50:60] = masks[1, 10:40, 10:40] = True
    square = [[10, 10, 40, 10, 40, 40, 10, 40]]
    things = (thing(0, 10, 10, 40, 40, segmentation=square), thing(0, 45, 0, 100, 80, crowd=True))
    found = {1: detections(boxes, [0.9, 0.5], [0, 0], masks)}
    for pictures, ap in (([picture_of(*things)], 1.0), ([picture_of(things[0])], 0.5)):
        scores = evaluate_detections(found, pictures, class_names=NAMES, category_ids=IDS, task="masks")
        assert scores.masks is not None
        assert scores.boxes.numbers.ap == pytest.approx(ap) and scores.masks.numbers.ap == pytest.approx(ap)


def test_annotation_zero_is_a_thing_like_any_other() -> None:
    """pycocotools takes the id 0 for "not matched" and gives 0 here."""
    picture = picture_of(thing(0, 10, 10, 40, 40)._replace(annotation_id=0))
    found = {1: detections([[10, 10, 40, 40]], [0.5], [0])}
    scores = evaluate_detections(found, [picture], class_names=NAMES, category_ids=IDS, task="boxes")
    assert scores.boxes.numbers.ap == pytest.approx(1)


def test_order_of_ids_does_not_matter(data_dir: Path) -> None:
    data = coco_mini(data_dir)
    found = disturbed(data, 2)
    turned = replace(data, category_ids=data.category_ids[::-1], pictures=data.pictures[::-1])
    scores, other = evaluated(data, found, "boxes"), evaluated(turned, dict(reversed(found.items())), "boxes")
    assert [(s.name, s.ap) for s in other.boxes.classes] == [(s.name, s.ap) for s in scores.boxes.classes]
    assert [s.category_id for s in other.boxes.classes] == list(data.category_ids[::-1])


def test_nothing_is_printed(data_dir: Path, capfd: pytest.CaptureFixture[str]) -> None:
    data = coco_mini(data_dir)
    evaluated(data, disturbed(data, 0, with_masks=True), "masks")
    assert capfd.readouterr() == ("", "")


def test_what_cannot_be_evaluated_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    good = picture_of(thing(0, 10, 10, 40, 40, segmentation=[[10, 10, 40, 10, 40, 40]]))
    box = [[10.0, 10.0, 40.0, 40.0]]
    mask = torch.ones(1, 80, 100, dtype=torch.bool)
    fine = {1: detections(box, [0.5], [0], mask)}

    def evaluate(found: dict[int, Detections], pictures: Any = (good,), task: str = "masks", ids: Any = IDS) -> None:
        evaluate_detections(found, pictures, class_names=NAMES, category_ids=ids, task=task)

    evaluate(fine)
    faults: tuple[tuple[type[Exception], str, tuple[Any, ...]], ...] = (
        (ConfigError, "^task must be one of boxes, masks, got 'all'$", (fine, (good,), "all")),
        (ConfigError, "^category_ids must be one for each of 2 classes, got 1$", (fine, (good,), "boxes", (1,))),
        (DataError, "^there are no pictures to evaluate on$", (fine, ())),
        (DataError, "of pictures that are not evaluated on: image ids 5, 6$", ({5: fine[1], 6: fine[1]},)),
        (DataError, "^the detections of 1.png have no masks; evaluate boxes", ({1: detections(box, [0.5], [0])},)),
        (DataError, "1.png has label 2; there are 2 classes, from 0$", ({1: detections(box, [0.5], [2], mask)},)),
        (DataError, "1.png has label -1; there are 2 classes", ({1: detections(box, [0.5], [-1], mask)},)),
        (
            DataError,
            "^a mask of 1.png is 90 x 80 pixels; the COCO file says 100 x 80$",
            ({1: detections(box, [0.5], [0], mask[:, :, :90])},),
        ),
        (RunError, "not finite", ({1: detections(box, [float("nan")], [0], mask)},)),
        (RunError, "of 1.png that are not finite", ({1: detections([[0, 0, float("inf"), 1]], [0.5], [0], mask)},)),
        (
            DataError,
            "^annotation 1 of 1.png has no segmentation, so masks cannot be evaluated",
            (fine, (picture_of(thing(0, 1, 1, 5, 5)),)),
        ),
    )
    for kind, message, arguments in faults:
        with pytest.raises(kind, match=message):
            evaluate(*arguments)

    def missing(module: str, what_for: str) -> Any:
        raise ConfigError(f"{what_for} needs {module}: pip install 'effvit[detection]'")

    monkeypatch.setattr(evaluate_module, "import_extra", missing)
    with pytest.raises(ConfigError, match=r"^the evaluation of detections needs .*effvit\[detection\]"):
        evaluate(fine)
