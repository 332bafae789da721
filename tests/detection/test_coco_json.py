"""Result files: what COCO's tools read, and what comes back from them."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made_detections import coco_mini, detections, disturbed, picture_of
from pycocotools import mask as mask_api
from pycocotools.coco import COCO

from effvit.detection.coco_json import read_results, result_rows, write_results, write_rows
from effvit.detection.evaluate import evaluate_detections
from effvit.detection.kept import KeptDetections, decode_masks, encode_masks
from effvit.errors import DataError, RunError

IDS = (3, 7)


# pycocotools' own call of numpy 2, not ours.
IGNORE_COPY = "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"


@pytest.mark.parametrize("with_masks", [False, True])
def test_file_is_read_back_and_by_pycocotools(data_dir: Path, tmp_path: Path, with_masks: bool) -> None:
    data = coco_mini(data_dir)
    found = disturbed(data, 0, with_masks=with_masks)
    path = tmp_path / "detections.json"
    write_results(path, found, data.category_ids)
    with contextlib.redirect_stdout(io.StringIO()):
        theirs = COCO(str(data.source)).loadRes(str(path))
    assert len(theirs.anns) == sum(map(len, found.values()))
    back = read_results(path, data.pictures, data.category_ids)
    assert list(back) == [picture.image_id for picture in data.pictures]
    for image_id, entry in found.items():
        read = back[image_id]
        assert torch.equal(read.scores, entry.scores) and torch.equal(read.labels, entry.labels)
        torch.testing.assert_close(read.boxes, entry.boxes, rtol=0, atol=2e-3)
        if with_masks and len(entry):
            assert read.masks is not None and entry.masks is not None and torch.equal(read.masks, entry.masks)
        else:
            assert read.masks is None or not with_masks or not len(entry)
    task = "masks" if with_masks else "boxes"
    numbers = [
        evaluate_detections(
            mapping, data.pictures, class_names=data.class_names, category_ids=data.category_ids, task=task
        ).main.numbers.ap
        for mapping in (found, back)
    ]
    assert numbers[1] == pytest.approx(numbers[0], abs=1e-3)


@pytest.mark.filterwarnings(IGNORE_COPY)
def test_row_is_as_coco_says() -> None:
    mask = torch.zeros(1, 80, 100, dtype=torch.bool)
    mask[0, 10:30, 20:60] = True
    (row,) = result_rows(5, detections([[20.12345, 10, 60.0, 30]], [0.1], [1], mask), IDS)
    assert (
        row["bbox"] == [20.123, 10, 39.877, 20] and row["score"] == 0.1 and type(row["segmentation"]["counts"]) is str
    )
    assert (row["image_id"], row["category_id"], row["segmentation"]["size"]) == (5, 7, [80, 100])
    assert np.array_equal(mask_api.decode(row["segmentation"]), mask[0].numpy())
    json.dumps(row)


def test_masks_as_run_lengths_are_exact() -> None:
    masks = np.random.default_rng(0).random((5, 37, 53)) < 0.5
    masks[3] = False
    assert np.array_equal(decode_masks(encode_masks(masks)), masks)
    assert encode_masks(masks[:0]) == () and decode_masks(()).shape == (0, 0, 0)


def test_kept_detections_are_a_mapping_of_the_same() -> None:
    mask = torch.rand(2, 8, 9) < 0.5
    entry = detections([[1, 1, 3, 3], [2, 2, 5, 5]], [0.25, 0.75], [0, 1], mask)
    kept = KeptDetections({4: entry})
    assert list(kept) == [4] and 4 in kept and 5 not in kept and len(kept) == 1
    read = kept[4]
    assert read.scores.tolist() == [0.75, 0.25] and read.labels.tolist() == [1, 0]  # the surest first
    assert (
        read.masks is not None and torch.equal(read.masks, mask.flip(0)) and torch.equal(read.boxes[1], entry.boxes[0])
    )
    kept.add(4, detections([], [], []))
    assert len(kept[4]) == 0 and kept[4].masks is None


def test_other_tools_files_are_read(tmp_path: Path) -> None:
    """Polygons, run lengths as numbers, no box, any order; no masks unless each has one."""
    square = [[20, 10, 60, 10, 60, 30, 20, 30]]
    runs = {"size": [80, 100], "counts": [20 * 80 + 10, 20, 100 * 80 - 20 - 20 * 80 - 10]}
    common = {"image_id": 1, "category_id": 7}
    rows: list[dict[str, Any]] = [
        {**common, "score": 0.25, "segmentation": square},
        {**common, "score": 1, "bbox": [1, 2, 3, 4], "segmentation": runs},
    ]
    write_rows(tmp_path / "r.json", rows)
    read = read_results(tmp_path / "r.json", [picture_of()], IDS)[1]
    assert read.scores.tolist() == [1, 0.25] and read.boxes.tolist() == [[1, 2, 4, 6], [20, 10, 60, 30]]
    assert read.masks is not None and read.masks.sum(dim=(1, 2)).tolist() == [20, 40 * 20]
    write_rows(tmp_path / "r.json", [*rows, {**common, "score": 0.5, "bbox": [1, 2, 3, 4]}])
    assert read_results(tmp_path / "r.json", [picture_of()], IDS)[1].masks is None
    write_rows(tmp_path / "r.json", [])
    assert len(read_results(tmp_path / "r.json", [picture_of()], IDS)[1]) == 0


def test_damaged_files_are_one_line(tmp_path: Path) -> None:
    good: dict[str, Any] = {"image_id": 1, "category_id": 3, "score": 0.5, "bbox": [1, 2, 3, 4]}
    faults: dict[str, Any] = {
        "it must be an object, got 5": 5,
        "it has no score": {"image_id": 1, "category_id": 3},
        "image_id 2 is none of the 1 pictures evaluated on": {**good, "image_id": 2},
        "image_id None is none of": {**good, "image_id": None},
        "category_id 4 is unknown; known: 3, 7": {**good, "category_id": 4},
        "category_id 'cat' is unknown": {**good, "category_id": "cat"},
        "score must be a number, got 'sure'": {**good, "score": "sure"},
        r"bbox must be x, y, width, height with no side below 0, got \[1, 2, -3, 4\]": {**good, "bbox": [1, 2, -3, 4]},
        "bbox must be x, y, width, height .* got 'x'": {**good, "bbox": "x"},
        "it has neither bbox nor segmentation": {**good, "bbox": None},
        r"segmentation has size \[5, 5\]; the picture is \[80, 100\]": {
            **good,
            "segmentation": {"size": [5, 5], "counts": [25]},
        },
    }
    path = tmp_path / "r.json"
    for message, row in faults.items():
        path.write_text(json.dumps([good, row]))
        with pytest.raises(DataError, match=rf"r.json, detection 2: {message}"):
            read_results(path, [picture_of()], IDS)
    path.write_text("{}")
    with pytest.raises(DataError, match="is no COCO result file: it must be a list of detections, got a dict"):
        read_results(path, [picture_of()], IDS)
    path.write_text("[")
    with pytest.raises(RunError, match="is not valid JSON"):
        read_results(path, [picture_of()], IDS)
    path.write_text('[{"image_id": 1, "category_id": 3, "score": NaN, "bbox": [1, 2, 3, 4]}]')
    with pytest.raises(DataError, match="score must be a number, got nan"):
        read_results(path, [picture_of()], IDS)
