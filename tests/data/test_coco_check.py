from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from coco_files import HEIGHT, WIDTH, coco, image, thing, write_coco
from PIL import ExifTags, Image

from effvit.data.coco import read_coco
from effvit.data.coco_check import CocoReport, check_coco
from effvit.data.coco_records import CocoPicture
from effvit.data.coco_sheet import draw_boxes, write_coco_sheet
from effvit.errors import ConfigError


@pytest.fixture(scope="module")
def messy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One of every fault in pictures of noise."""
    folder = tmp_path_factory.mktemp("messy")
    triangle = [[1, 1, 9, 1, 5, 9]]
    document = coco(
        [*map(image, range(12)), image(12, width=80)],
        [
            thing(1, 0, segmentation=triangle),
            thing(2, 0, bbox=[0, 0, 40, 30], area=32**2),
            thing(3, 1, bbox=[0, 0, 99, 99], area=96**2),
            thing(4, 1, category_id=7, iscrowd=1),
            thing(5, 2, bbox=[50, 0, 9, 9]),
            thing(6, 99),
        ],
    )
    source = write_coco(folder, document)
    (folder / "3.png").unlink()
    (folder / "4.png").write_text("not a picture")
    shutil.copy(folder / "5.png", folder / "6.png")
    Image.new("RGB", (WIDTH, HEIGHT), "white").save(folder / "7.png")
    with Image.open(folder / "8.png") as picture:
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = 3
        picture.save(folder / "8.png", exif=exif)
        picture.rotate(90, expand=True).save(folder / "9.png")
        exif[ExifTags.Base.Orientation] = 6
        picture.save(folder / "10.png", exif=exif)  # the file's size is that of the pixels as they are stored
    with Image.open(folder / "12.png") as picture:
        picture.crop((0, 0, WIDTH, HEIGHT)).save(folder / "12.png")
    return source


@pytest.fixture(scope="module")
def report(messy: Path) -> CocoReport:
    return check_coco(read_coco(messy))


def test_every_fault_is_found_and_nothing_else(report: CocoReport) -> None:
    values = json.loads(json.dumps(report.to_dict()))
    assert {entry["name"]: entry["reason"] for entry in values["unreadable"]} == {"4.png": "not a picture"}
    assert {entry["name"]: entry["reason"] for entry in values["mismatched"]} == {
        "9.png": "it has 30 x 40 pixels, and the COCO file says 40 x 30",
        "12.png": "it has 40 x 30 pixels, and the COCO file says 80 x 30",
    }
    assert [(entry["name"], entry["orientation"]) for entry in values["unclear"]] == [("8.png", 3)]
    assert [entry["name"] for entry in values["near_empty"]] == ["7.png"]
    assert [[picture["name"] for picture in group["pictures"]] for group in values["duplicates"]] == [
        ["5.png", "6.png"]
    ]
    assert values["names"] == [] and values["obstacles"] == []
    assert [entry["reason"].partition(":")[0] for entry in values["skipped"]] == [
        "listed, but there is no such file", "annotation 5 is left out", "1 annotations are left out",
    ]  # fmt: skip
    assert (values["num_missing"], values["num_left_out"], values["num_cut"]) == (1, 2, 1)


def test_the_report_counts(report: CocoReport) -> None:
    values = report.to_dict()
    assert sum(values["num_pictures"].values()) == 12 and values["num_pictures"]["val"] == 2
    assert values["num_empty"] == 10 == len(values["empty"])
    assert (values["num_things"], values["num_crowds"], values["num_with_mask"]) == (3, 1, 1)
    assert values["classes"] == [
        {"name": "cat", "category_id": 1, "num_things": 3, "num_pictures": 2, "num_crowds": 0},
        {"name": "dog", "category_id": 7, "num_things": 0, "num_pictures": 1, "num_crowds": 1},
    ]
    assert values["thing_sizes"] == {"small": 1, "medium": 1, "large": 1}  # 200, 32 x 32 and 96 x 96 pixels
    assert values["things_per_picture"] == {"min": 0, "median": 0.0, "max": 2}
    assert values["sizes"]["width"] == {"min": 40, "median": 40.0, "max": 80}
    assert values["formats"] == {"PNG": 11} and not values["has_masks"]


def test_copies_that_a_split_would_tear_apart_are_leaks(messy: Path) -> None:
    data = read_coco(messy)
    torn = [check_coco(data, val_fraction=0.5, seed=seed) for seed in range(6)]
    parts = [{picture.part for group in report.duplicates for picture in group.pictures} for report in torn]
    assert [len(report.leaked) for report in torn] == [int(len(part) == 2) for part in parts]
    assert {1, 2} == {len(part) for part in parts}


def test_a_single_picture_is_an_obstacle_and_is_looked_at(tmp_path: Path) -> None:
    data = read_coco(write_coco(tmp_path, coco([image(1)], [thing(1, 1)])))
    report = check_coco(data, obstacles=["another"])
    assert report.obstacles[0] == "another" and "has 1 picture to train and to validate on" in report.obstacles[1]
    assert report.to_dict()["num_pictures"] == {"train": 1, "val": 0}
    with pytest.raises(ConfigError, match="num_workers must be at least 0, got -1"):
        check_coco(data, num_workers=-1)


def test_real_data_has_no_finding(data_dir: Path) -> None:
    folder = data_dir / "coco_mini"
    report = check_coco(read_coco(folder / "annotations" / "instances_val.json", folder / "val"))
    values = report.to_dict()
    assert values["num_things"] + values["num_crowds"] == 184 and values["num_crowds"] == 2
    assert sum(values["thing_sizes"].values()) == 182 == values["num_with_mask"]
    for name in ("unreadable", "mismatched", "unclear", "near_empty", "duplicates", "names", "skipped", "obstacles"):
        assert values[name] == [], name


def test_boxes_are_drawn_where_they_are(tmp_path: Path) -> None:
    grey = np.full((30, 40, 3), 90, dtype=np.uint8)
    Image.fromarray(grey).save(tmp_path / "1.png")
    data = read_coco(write_coco(tmp_path, coco([image(1)], [thing(1, 1), thing(2, 1, iscrowd=1)]), pictures=False))
    (picture,) = data.pictures
    drawn = np.asarray(draw_boxes(picture._replace(things=picture.things[:1]), 0, 40))
    changed = np.argwhere((drawn != 90).any(axis=-1))
    assert changed.min(axis=0).tolist() == [5, 10] and changed.max(axis=0).tolist() == [14, 29]
    assert (drawn[8:12, 13:27] == 90).all()  # nothing inside
    crossed = np.asarray(draw_boxes(picture._replace(things=picture.things[1:]), 0, 40))
    assert (crossed[8:12, 13:27] != 90).any()
    small = draw_boxes(picture, 1, 20)
    assert small.size == (20, 15)
    assert (np.asarray(draw_boxes(CocoPicture(tmp_path / "1.png", 1, 30, 40), 0, 40)) == 90).all()


def test_a_sheet_is_drawn_of_usable_pictures_alone(report: CocoReport, tmp_path: Path) -> None:
    write_coco_sheet(tmp_path / "sheet.png", report)
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > 1000 and sheet.height > 500
