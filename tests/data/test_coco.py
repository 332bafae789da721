from __future__ import annotations

import gc
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from coco_files import HEIGHT, WIDTH, coco, image, thing, write_coco

from effvit.data.coco import is_coco, read_coco, with_masks
from effvit.data.coco_records import CocoData
from effvit.errors import DataError

TRIANGLE = [[1, 1, 9, 1, 5, 9]]


def read(folder: Path, document: Any = None, **settings: Any) -> CocoData:
    return read_coco(write_coco(folder, document), folder, **settings)


def refusal(call: Callable[[], Any]) -> str:
    with pytest.raises(DataError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message and len(message) < 800
    return message


@pytest.mark.parametrize(("part", "num_pictures", "num_things", "num_crowds", "num_classes"), [
    ("train", 66, 506, 6, 63),
    ("val", 22, 184, 2, 34),
])  # fmt: skip
def test_real_coco_is_read_whole(
    data_dir: Path, part: str, num_pictures: int, num_things: int, num_crowds: int, num_classes: int
) -> None:
    folder = data_dir / "coco_mini"
    source = folder / "annotations" / f"instances_{part}.json"
    data = read_coco(source, folder / part)
    things = [thing for picture in data.pictures for thing in picture.things]
    assert (len(data.pictures), len(things)) == (num_pictures, num_things)
    assert sum(thing.is_crowd for thing in things) == num_crowds
    assert len({thing.label for thing in things}) == num_classes
    assert sum(not picture.things for picture in data.pictures) == 1
    assert data.has_masks and not data.skipped and data.num_cut == 0 and len(data.category_ids) == 80
    assert data.category_ids == tuple(sorted(data.category_ids)) and max(data.category_ids) == 90
    written = json.loads(source.read_text())
    names = {category["id"]: category["name"] for category in written["categories"]}
    by_id = {thing.annotation_id: thing for thing in things}
    for annotation in written["annotations"]:
        found = by_id[annotation["id"]]
        left, top, width, height = annotation["bbox"]
        assert found.box == pytest.approx((left, top, left + width, top + height))
        assert data.class_names[found.label] == names[annotation["category_id"]]
        assert found.area == annotation["area"] and found.segmentation == annotation["segmentation"]
    assert [picture.image_id for picture in data.pictures] == sorted(entry["id"] for entry in written["images"])


def test_boxes_without_masks_are_read(data_dir: Path) -> None:
    data = read_coco(data_dir / "bccd" / "annotations" / "instances_train.json", data_dir / "bccd" / "train")
    assert sum(len(picture.things) for picture in data.pictures) == 2804 and len(data.pictures) == 205
    assert data.class_names == ("RBC", "WBC", "Platelets") and not data.has_masks and not data.skipped


def test_a_tidy_file(tmp_path: Path) -> None:
    crowd = thing(3, 1, iscrowd=1, category_id=7, area=12.5)
    data = read(tmp_path, coco([image(9), image(1), image(2)], [thing(1, 1), thing(2, 2), crowd]))
    assert [picture.image_id for picture in data.pictures] == [1, 2, 9]
    assert data.class_names == ("cat", "dog") and data.category_ids == (1, 7)
    first, _, last = data.pictures
    assert last.things == () and (last.width, last.height) == (WIDTH, HEIGHT)
    assert first.path == tmp_path / "1.png" and first.name == str(first.path)
    cat, dogs = first.things
    assert cat.box == (10, 5, 30, 15) and cat.area == 200 and cat.label == 0 and not cat.is_crowd
    assert dogs.is_crowd and dogs.label == 1 and dogs.area == 12.5
    assert read_coco(tmp_path / "instances.json") == data  # the folder of the file


def test_the_order_in_the_file_decides_nothing(tmp_path: Path) -> None:
    document = coco([image(number) for number in range(9)], [thing(number, number) for number in range(9)])
    expected = read(tmp_path, document)
    for part in ("images", "categories", "annotations"):
        document[part].reverse()
    assert read(tmp_path, document) == expected


@pytest.mark.parametrize(("bbox", "reason"), [
    ([50, 5, 4, 4], r"its box \[50, 5, 4, 4\] \(left, top, width, height\) is outside the picture of 40 x 30"),
    ([-9, 5, 9, 4], "outside the picture"),
    ([1, 30, 9, 4], "outside the picture"),
    ([10, 5, 0, 10], r"its box \[10, 5, 0, 10\] \(left, top, width, height\) has no area"),
    ([10, 5, 10, -4], "has no area"),
    ([10, 5, float("nan"), 4], r"its bbox must be four numbers, got \[10, 5, nan, 4\]"),
    ([10, 5, float("inf"), 4], "must be four numbers"),
    ([10, 5, 10**400, 4], "must be four numbers"),
    ([10, 5, 4], "must be four numbers"),
    (["1", "2", "3", "4"], "must be four numbers"),
    ({"x": 1}, "must be four numbers"),
    (None, "must be four numbers, got None"),
])  # fmt: skip
def test_an_unusable_box_is_left_out_and_named(tmp_path: Path, bbox: Any, reason: str) -> None:
    data = read(tmp_path, coco(annotations=[thing(1, 1), thing(77, 2, bbox=bbox)]))
    (left_out,) = data.skipped
    assert left_out.path == tmp_path / "2.png" and left_out.reason.startswith("annotation 77 is left out: ")
    assert data.num_left_out == 1 and data.num_cut == 0 and len(data.pictures) == 2 and data.pictures[1].things == ()
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(left_out.reason)


def test_a_box_partly_outside_is_cut_and_counted(tmp_path: Path) -> None:
    boxes = [[-5, -5, 10, 10], [30, 20, 20.5, 20], [0, 0, 40, 30], [0, 0, 40.000001, 30]]
    data = read(tmp_path, coco(annotations=[thing(number, 1, bbox=box) for number, box in enumerate(boxes)]))
    found = [thing.box for thing in data.pictures[0].things]
    assert found == [(0, 0, 5, 5), (30, 20, 40, 30), (0, 0, 40, 30), (0, 0, 40, 30)]
    assert data.num_cut == 2 and not data.skipped  # rounding in the last place is no fault
    assert data.pictures[0].things[0].area == 25


@pytest.mark.parametrize(("area", "expected"), [(17.5, 17.5), (None, 200), (-1, 200), (float("nan"), 200), ("x", 200)])
def test_the_area_is_the_files_or_the_boxs(tmp_path: Path, area: Any, expected: float) -> None:
    data = read(tmp_path, coco(annotations=[thing(1, 1, area=area)]))
    assert data.pictures[0].things[0].area == expected


def test_missing_pictures_are_left_out_until_they_are_many(tmp_path: Path) -> None:
    source = write_coco(tmp_path)
    (tmp_path / "2.png").unlink()
    data = read_coco(source, tmp_path)
    assert [(path.name, reason) for path, reason in data.skipped] == [("2.png", "listed, but there is no such file")]
    assert data.num_missing == 1 and len(data.pictures) == 1 and data.num_left_out == 0
    many = coco([image(number) for number in range(6)], [thing(1, 5)])
    source = write_coco(tmp_path / "many", many)
    for number in (3, 4):
        (tmp_path / "many" / f"{number}.png").unlink()
    message = refusal(lambda: read_coco(source, tmp_path / "many"))
    assert "2 of 6 pictures are missing in" in message and message.endswith("3.png, 4.png")
    obstacles: list[str] = []
    assert len(read_coco(source, tmp_path / "many", on_obstacle=obstacles.append).pictures) == 4
    assert obstacles == [message]


def test_no_picture_at_all_names_the_folder(tmp_path: Path) -> None:
    source = write_coco(tmp_path / "json", pictures=False)
    message = refusal(lambda: read_coco(source, on_obstacle=print))
    assert f"none of its 2 pictures is in {source.parent}, name their folder (--images): 1.png, 2.png" in message
    assert "no such folder of pictures" in refusal(lambda: read_coco(source, tmp_path / "nowhere"))


def test_names_may_lie_deeper_but_never_outside(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    inside = [
        image(1, file_name="train/deep/1.png"),
        image(2, file_name="train/../2.png"),
        image(3, file_name=str(folder / "3.png")),
    ]
    (folder / "train").mkdir(parents=True)
    source = write_coco(folder, coco(inside))
    assert [picture.path.is_file() for picture in read_coco(source, folder).pictures] == [True] * 3
    document = coco([image(1, file_name="sub\\1.png"), image(2)])
    source = write_coco(folder, document, pictures=False)
    write_coco(folder / "sub")
    write_coco(folder)
    source = write_coco(folder, document, pictures=False)
    assert [picture.path for picture in read_coco(source).pictures] == [folder / "sub" / "1.png", folder / "2.png"]
    write_coco(tmp_path)
    for name in (
        "../1.png",
        "sub/../../1.png",
        str(tmp_path / "1.png"),
        "..\\1.png",
        "C:\\1.png",
        f"{folder}/../1.png",
    ):
        source = write_coco(folder, coco([image(1), image(2, file_name=name)]), pictures=False)
        message = refusal(lambda source=source: read_coco(source, folder))
        assert "1 file names lead out of the folder of the pictures" in message and name in message


def test_annotations_of_pictures_nobody_lists_are_left_out(tmp_path: Path) -> None:
    data = read(tmp_path, coco(annotations=[thing(1, 1), thing(2, 5), thing(3, 5), thing(4, 6)]))
    assert [reason for _, reason in data.skipped] == [
        "2 annotations are left out: the file lists no picture with id 5",
        "1 annotations are left out: the file lists no picture with id 6",
    ]
    assert data.num_left_out == 3


def test_annotations_of_categories_nobody_lists_stop(tmp_path: Path) -> None:
    document = coco(annotations=[thing(1, 1), thing(2, 1, category_id=0), thing(3, 2, category_id=0)])
    assert refusal(lambda: read(tmp_path, document)).endswith("of categories that it does not list: 0 (2 times)")
    obstacles: list[str] = []
    data = read(tmp_path, document, on_obstacle=obstacles.append)
    assert len(obstacles) == 1 and data.num_left_out == 2 and len(data.pictures[0].things) == 1


@pytest.mark.parametrize(("document", "message"), [
    (coco([image(1), image(1)]), "ids of pictures must all be different, and some occur more than once: 1"),
    (coco(categories=[{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]), "ids of categories must all be different"),
    (coco(images=[]), "has no pictures"),
    (coco(categories=[]), "has no categories"),
    (coco([{"id": 1, "file_name": "1.png"}]), "1 faulty entry: images[0] has no width and no height"),
    (coco(annotations=[{"id": 1, "bbox": []}, 5]), "annotations[0] has no image_id and no category_id, annot"),
    (coco(annotations=[thing(1, 1), thing("2", 1)]), "annotations[1].id must be a whole number, got '2'"),
    (coco(annotations=[thing(1, True)]), "annotations[0].image_id must be a whole number, got True"),
    (coco(annotations=[thing(1, 1, category_id=1.5)]), "annotations[0].category_id must be a whole number, got 1.5"),
    (coco(annotations=[thing(1, 1, iscrowd=2)]), "annotations[0].iscrowd must be 0 or 1, got 2"),
    (coco([image(1, width=0)]), "images[0]: width and height must be whole numbers from 1, got 0 and 30"),
    (coco([image(1, height="30")]), "width and height must be whole numbers from 1, got 40 and '30'"),
    (coco([image(1, file_name="")]), "images[0].file_name must be a name, got ''"),
    (coco([image(1, file_name=5)]), "images[0].file_name must be a name, got 5"),
    (coco([image(float("nan"))]), "images[0].id must be a whole number, got nan"),
    (coco(categories=[{"id": 1, "name": " "}]), "categories[0].name must be a name in UTF-8, got ' '"),
    (coco(categories=[{"id": 1, "name": "\ud800"}]), "categories[0].name must be a name in UTF-8"),
    (coco(categories=[{"id": None, "name": "a"}]), "categories[0].id must be a whole number, got None"),
    (coco([image(None) for _ in range(90)]), "90 faulty entries: images[0].id must be a whole number"),
    ([{"image_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}], "is a list of 1, as detections are saved; a COCO file is"),
    ("text", "is a single value; a COCO file is an object with images, annotations, categories"),
    ({"images": [image(1)], "categories": []}, "has no list of annotations; it has images, categories"),
    ({"images": [image(1)], "annotations": [{"id": 1, "image_id": 1, "caption": "A cat."}]},
     "has no list of categories: its annotations are captions, which have no boxes; it has images, annotations"),
    (coco(annotations=[{"image_id": 1, "segments_info": []}]), "none of them a bbox: it is a panoptic file"),
    (coco(annotations=[{"id": 1, "image_id": 1, "category_id": 1}]), "has annotations, and none of them a bbox; it"),
    ({**coco(), "images": {"1": image(1)}}, "has no list of images; it has images, annotations, categories"),
])  # fmt: skip
def test_what_is_no_coco_file_is_one_line(tmp_path: Path, document: Any, message: str) -> None:
    source = write_coco(tmp_path, document, pictures=False)
    assert message in refusal(lambda: read_coco(source, on_obstacle=lambda _: None))


@pytest.mark.parametrize(("document", "message"), [
    (coco(annotations=[thing(3, 1), thing(3, 2)]), "ids of annotations must all be different"),
    (coco(categories=[{"id": 1, "name": "a"}, {"id": 2, "name": "a"}]), "names of categories must all be different"),
    (coco([image(1), image(2, file_name="1.png")]), "lists pictures under more than one id: "),
    (coco(annotations=[]), "has nothing to learn from: of 0 annotations none is a usable box of a single thing"),
    (coco(annotations=[thing(1, 1, bbox=[0, 0, 0, 0])]), "has nothing to learn from: of 1 annotations"),
    (coco(annotations=[thing(1, 1, iscrowd=1)]), "has nothing to learn from"),
    (coco(annotations=[thing(1, 3)]), "has nothing to learn from"),
])  # fmt: skip
def test_what_stops_a_training_can_be_looked_at(tmp_path: Path, document: Any, message: str) -> None:
    assert message in refusal(lambda: read(tmp_path, document))
    obstacles: list[str] = []
    data = read(tmp_path, document, on_obstacle=obstacles.append)
    assert len(data.pictures) == 2 and len(obstacles) == 1 and message in obstacles[0]


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    assert refusal(lambda: read_coco("")) == "an empty name stands for no COCO file"
    assert refusal(lambda: read_coco(tmp_path / "x.json")).startswith("no such COCO file: ")
    assert refusal(lambda: read_coco(tmp_path)).endswith(": Is a directory")
    for content in (b"", b"{", b"\xff\xfe\xff", b"[" * 100_000, b'{"images": [}'):
        (tmp_path / "broken.json").write_bytes(content)
        assert "is not JSON: " in refusal(lambda: read_coco(tmp_path / "broken.json"))


def test_a_byte_order_mark_and_whole_numbers_with_a_point_are_understood(tmp_path: Path) -> None:
    source = write_coco(tmp_path)
    expected = read_coco(source)
    document = coco([{**image(1, width=40.0), "id": 1.0}, image(2)], [thing(1, 1.0, iscrowd=False), thing(2, 2)])
    source.write_bytes(b"\xef\xbb\xbf" + json.dumps(document).encode())
    assert read_coco(source) == expected


def test_the_garbage_collector_is_on_again(tmp_path: Path) -> None:
    read(tmp_path)
    assert gc.isenabled()
    refusal(lambda: read_coco(tmp_path / "x.json"))
    assert gc.isenabled()


def test_names_cannot_command_the_terminal(tmp_path: Path) -> None:
    evil = "red\x1b[31m\nturn\u202e.png"
    source = write_coco(tmp_path, coco([image(1, file_name=evil)]), pictures=False)
    message = refusal(lambda: read_coco(source))
    assert r"red\x1b[31m\nturn\u202e.png" in message and "\x1b" not in message


def test_only_what_is_named_json_is_a_coco_file(tmp_path: Path) -> None:
    (tmp_path / "folder.json").mkdir()
    assert is_coco("a/b.json") and is_coco("B.JSON") and not is_coco("a.csv") and not is_coco(tmp_path / "folder.json")


@pytest.mark.parametrize(("segmentation", "kept", "fault"), [
    (TRIANGLE, TRIANGLE, ""),
    ([[1, 2, 3, 4], *TRIANGLE], TRIANGLE, "is used with the rest of it: a polygon has 2 points, and 3 are the fewest"),
    ([[1, 2, 3, 4, 5, 6, 7]], None, "is used without its segmentation: a polygon has an odd length, 7"),
    ({"size": [HEIGHT, WIDTH], "counts": [0, WIDTH * HEIGHT]}, {"size": [HEIGHT, WIDTH], "counts": [0, 1200]}, ""),
    ({"size": [WIDTH, HEIGHT], "counts": "x"}, None,
     "is used without its segmentation: the size of its runs is [40, 30], and the picture's is [30, 40]"),
    ([], None, ""),
    ([[]], None, ""),
])  # fmt: skip
def test_a_faulty_segmentation_leaves_the_box(tmp_path: Path, segmentation: Any, kept: Any, fault: str) -> None:
    data = read(
        tmp_path, coco(annotations=[thing(5, 1, segmentation=segmentation), thing(6, 1, segmentation=TRIANGLE)])
    )
    assert [thing.segmentation for thing in data.pictures[0].things] == [kept, TRIANGLE]
    assert data.has_masks == (kept is not None) and data.num_left_out == 0
    assert len(data.skipped) == bool(fault)
    assert all(f"annotation 5 {fault}" in reason for _, reason in data.skipped)


def test_for_masks_a_thing_without_one_is_left_out(tmp_path: Path) -> None:
    crowd = thing(3, 2, iscrowd=1)
    data = read(tmp_path, coco(annotations=[thing(1, 1, segmentation=TRIANGLE), thing(2, 1), crowd]))
    masked = with_masks(data)
    assert [[thing.annotation_id for thing in picture.things] for picture in masked.pictures] == [[1], [3]]
    assert masked.has_masks and masked.num_left_out == 1
    assert masked.skipped[0].reason == "annotation 2 is left out: it has no usable segmentation"
    assert with_masks(masked) == masked
    bare = read(tmp_path, coco())
    assert "2 of 2 things have no usable segmentation (allowed: 1, or 1%)" in refusal(lambda: with_masks(bare))
