"""What counts as found, as missed and as a false alarm on a picture, and which picture is worst."""

from __future__ import annotations

from pathlib import Path

import pytest
from made_detections import bccd, detections, disturbed, picture_of, thing, truth

from effvit.detection.kept import KeptDetections
from effvit.detection.mistakes import KINDS, count_mistakes, find_mistakes

CAT, DOG = 0, 1


def test_each_kind_of_mistake_is_told_from_the_others() -> None:
    things = (
        thing(CAT, 0, 0, 20, 20),
        thing(DOG, 40, 0, 60, 20),
        thing(CAT, 0, 40, 20, 60),
        thing(CAT, 60, 40, 100, 80, crowd=True),
        thing(DOG, 80, 0, 100, 20),
    )
    boxes = [
        [0, 0, 20, 20],  # the cat
        [0, 0, 20, 18],  # the cat again
        [40, 0, 60, 20],  # the dog as a cat
        [0, 52, 20, 72],  # a cat, too low
        [24, 24, 38, 38],  # nothing
        [62, 42, 70, 50],  # in the crowd of cats
        [62, 42, 70, 50],  # a dog there
        [80, 0, 100, 20],  # the second dog, but too unsure
    ]
    labels = [CAT, CAT, CAT, CAT, CAT, CAT, DOG, DOG]
    found = {1: detections(boxes, [0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.35, 0.29], labels)}
    (entry,) = find_mistakes(found, [picture_of(*things)], score=0.3)
    assert entry.right == (0,) and entry.missed == (1, 2, 4) and len(entry.detections) == 7
    assert entry.false_alarms == (
        (1, "second box"), (2, "wrong class"), (3, "badly placed"), (4, "nothing there"), (6, "nothing there"),
    )  # fmt: skip
    assert entry.num_mistakes == 8 and entry.share_right == pytest.approx(2 / 10)
    counts = count_mistakes([entry], score=0.3)
    assert list(counts["false_alarms"]) == list(KINDS) and list(counts["false_alarms"].values()) == [1, 1, 1, 2]
    assert (counts["precision"], counts["recall"]) == (pytest.approx(1 / 6), pytest.approx(1 / 4))


def test_surest_takes_the_thing_it_overlaps_most() -> None:
    things = (thing(CAT, 0, 0, 20, 20), thing(CAT, 4, 0, 24, 20))
    found = {1: detections([[4, 0, 24, 20], [3, 0, 23, 20]], [0.9, 0.8], [CAT, CAT])}
    (entry,) = find_mistakes(found, [picture_of(*things)])
    assert entry.right == (0, 1) and entry.num_mistakes == 0 and entry.share_right == 1


def test_worst_comes_first_and_empty_pictures_are_right() -> None:
    one, two = thing(CAT, 0, 0, 20, 20), thing(CAT, 40, 0, 60, 20)
    pictures = [
        picture_of(image_id=1),
        picture_of(one, image_id=2),
        picture_of(one, two, image_id=3),
        picture_of(one, two, image_id=4),
        picture_of(one, image_id=5),
    ]
    found = KeptDetections({3: detections([[0, 0, 20, 20]], [0.9], [CAT]), 1: detections([], [], [])})
    ranked = find_mistakes(found, pictures)
    assert [entry.picture.image_id for entry in ranked] == [4, 2, 5, 3, 1]  # of one mistake the less right, then the id
    assert ranked[-1].share_right == 1
    counts = count_mistakes(ranked, score=0.3)
    assert (counts["num_missed"], counts["num_right"], counts["num_pictures_without_mistakes"]) == (5, 1, 1)
    assert (counts["precision"], counts["recall"]) == (1, pytest.approx(1 / 6))
    nothing = count_mistakes(find_mistakes({}, pictures[:1]), score=0.3)
    assert nothing["precision"] is None and nothing["recall"] is None


def test_counts_add_up_on_real_pictures(data_dir: Path) -> None:
    data = bccd(data_dir)
    found = disturbed(data, 0)
    counts = count_mistakes(find_mistakes(found, data.pictures, score=0.3), score=0.3)
    num_things = sum(len(picture.things) for picture in data.pictures)
    assert counts["num_right"] + counts["num_missed"] == num_things
    sure = sum(len(entry.above(0.3)) for entry in found.values())
    assert counts["num_right"] + counts["num_false_alarms"] == sure
    perfect = find_mistakes({picture.image_id: truth(picture) for picture in data.pictures}, data.pictures)
    assert count_mistakes(perfect, score=0.3)["num_right"] == num_things
