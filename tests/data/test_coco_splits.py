from __future__ import annotations

import dataclasses
import json
import random
from collections import Counter
from pathlib import Path

import pytest
from coco_files import coco, image, thing, write_coco
from hypothesis import given
from hypothesis import strategies as st

from effvit.data.coco import read_coco
from effvit.data.coco_records import CocoData, CocoPicture, CocoThing
from effvit.data.coco_splits import coco_split_from_dict, coco_split_to_dict, split_coco
from effvit.errors import ConfigError, DataError, RunError


def data_of(labels: list[set[int]], folder: str = "a") -> CocoData:
    """A picture for each set of labels."""
    pictures = [
        CocoPicture(
            Path(folder, f"{number}.png"), number, 30, 40,
            tuple(CocoThing(10 * number + label, label, (0.0, 0.0, 9.0, 9.0), 81.0, False) for label in found),
        )
        for number, found in enumerate(labels)
    ]  # fmt: skip
    return CocoData(
        source=Path("a.json"), root=Path(folder), class_names=("a", "b", "c"), category_ids=(1, 2, 3),
        pictures=tuple(pictures),
    )  # fmt: skip


LABELS = st.lists(st.sets(st.integers(0, 2)), min_size=2, max_size=60)


@given(LABELS, st.floats(0.01, 0.99), st.integers(0, 99))
def test_every_picture_is_in_one_part_and_the_share_is_kept(
    labels: list[set[int]], val_fraction: float, seed: int
) -> None:
    data = data_of(labels)
    train, val = split_coco(data, val_fraction, seed)
    assert sorted([*train, *val], key=lambda picture: picture.image_id) == [*data.pictures]
    assert len(val) == min(max(round(len(labels) * val_fraction), 1), len(labels) - 1)
    assert [*val] == sorted(val, key=lambda picture: picture.image_id)
    assert [*train] == sorted(train, key=lambda picture: picture.image_id)


@given(LABELS, st.integers(0, 99))
def test_neither_the_order_nor_the_place_decides(labels: list[set[int]], seed: int) -> None:
    expected = [[picture.image_id for picture in part] for part in split_coco(data_of(labels), 0.3, seed)]
    moved = data_of(labels, folder="elsewhere")
    pictures = list(moved.pictures)
    random.Random(seed).shuffle(pictures)
    shuffled = dataclasses.replace(moved, pictures=tuple(pictures))
    assert [sorted(picture.image_id for picture in part) for part in split_coco(shuffled, 0.3, seed)] == expected


def test_the_seed_decides() -> None:
    data = data_of([{0}] * 40)
    assert split_coco(data, 0.25, 1) == split_coco(data, 0.25, 1)
    assert split_coco(data, 0.25, 1) != split_coco(data, 0.25, 2)


def test_rare_classes_are_in_both_parts() -> None:
    """By chance alone, ten pictures with the rarest class of 500 would often be in one part."""
    labels = [{0}] * 390 + [{0, 1}] * 90 + [{0, 1, 2}] * 10 + [set()] * 10
    for seed in range(20):
        random.Random(seed).shuffle(labels)
        _, val = split_coco(data_of(labels), 0.2, seed)
        counts = Counter(max((thing.label for thing in picture.things), default=-1) for picture in val)
        assert counts[2] in (1, 2, 3) and counts[1] in (17, 18, 19) and counts[0] in (77, 78, 79)
        assert counts[-1] in (1, 2, 3)


def test_real_classes_are_spread(data_dir: Path) -> None:
    data = read_coco(data_dir / "bccd" / "annotations" / "instances_train.json", data_dir / "bccd" / "train")
    _, val = split_coco(data, 0.2, 0)
    of_val = Counter(thing.label for picture in val for thing in picture.things)
    of_all = Counter(thing.label for picture in data.pictures for thing in picture.things)
    assert all(0.1 < of_val[label] / of_all[label] < 0.3 for label in range(3))


def test_bad_requests_are_refused() -> None:
    with pytest.raises(DataError, match=r"a\.json has 1 picture to train and to validate on; it takes 2 at least"):
        split_coco(data_of([{0}]), 0.2, 0)
    for fraction in (0, 1, -0.1, float("nan")):
        with pytest.raises(ConfigError, match="val_fraction must be above 0 and below 1, got"):
            split_coco(data_of([{0}, {0}]), fraction, 0)
    with pytest.raises(ConfigError, match="seed must be at least 0, got -1"):
        split_coco(data_of([{0}, {0}]), 0.5, -1)


def test_a_split_that_was_written_is_read_back_elsewhere(tmp_path: Path) -> None:
    document = coco([image(number, file_name=f"sub/{number}.png") for number in range(6)], [thing(1, 1), thing(2, 9)])
    data = read_coco(write_coco(tmp_path / "here", document))
    train, val = split_coco(data, 0.3, 0)
    written = json.loads(json.dumps(coco_split_to_dict(data, train, val)))
    assert written["split"] == "seeded" and written["val"][0][1].startswith("sub/")
    assert written["skipped"] == [[str(data.source), "1 annotations are left out: the file lists no picture with id 9"]]
    moved = read_coco(write_coco(tmp_path / "there", document))
    found = coco_split_from_dict(written, moved)
    assert [[picture.image_id for picture in part] for part in found] == [
        [picture.image_id for picture in part] for part in (train, val)
    ]
    assert all(picture.path.is_relative_to(tmp_path / "there") for part in found for picture in part)


def test_parts_of_two_files_are_read_back(tmp_path: Path) -> None:
    train = read_coco(write_coco(tmp_path / "train"))
    val = read_coco(write_coco(tmp_path / "val", coco([image(1), image(3)], [thing(1, 3)])))
    written = json.loads(json.dumps(coco_split_to_dict(train, train.pictures, val.pictures, val)))
    assert written["split"] == "given"
    assert coco_split_from_dict(written, train, val) == (train.pictures, val.pictures)


def test_a_picture_that_is_gone_or_another_is_told(tmp_path: Path) -> None:
    data = read_coco(write_coco(tmp_path))
    written = coco_split_to_dict(data, data.pictures[:1], data.pictures[1:])
    fewer = read_coco(write_coco(tmp_path, coco([image(1)])))
    message = r"instances\.json has no picture 2 \(2\.png\) any more, which the run was split with"
    with pytest.raises(RunError, match=message):
        coco_split_from_dict(written, fewer)
    other = read_coco(write_coco(tmp_path, coco([image(1), image(2, file_name="3.png")])))
    with pytest.raises(
        RunError, match=r"picture 2 of .*instances\.json is 3\.png now, and was 2\.png when the run was"
    ):
        coco_split_from_dict(written, other)
