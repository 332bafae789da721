from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from effvit.data.check import CheckedPicture, DataReport, check_data
from effvit.data.contact_sheet import write_contact_sheet
from effvit.data.datasets import find_data
from effvit.data.inspection import inspect_pictures
from effvit.data.samples import Sample
from effvit.errors import ConfigError


@pytest.fixture(scope="module")
def messy(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """train/ and val/ of two classes with one of every fault."""
    root = tmp_path_factory.mktemp("messy")
    first, second = sorted(folder for folder in photos.iterdir())[:2]
    for name, source in (("apple", first), ("Pear", second)):
        files = sorted(source.iterdir())
        for part, chosen in (("train", files[:6]), ("val", files[6:])):
            (root / part / name).mkdir(parents=True)
            for path in chosen:
                shutil.copy(path, root / part / name)
    train, val = root / "train", root / "val"
    apples = sorted((train / "apple").iterdir())
    with Image.open(apples[0]) as picture:
        picture.save(val / "apple" / "leaked.png")  # the same pixels in another file
        picture.resize((60, 60)).save(val / "apple" / "small leak.jpg")
    shutil.copy(apples[1], train / "Pear" / "contradiction.jpg")
    Image.new("RGB", (300, 300), "white").save(train / "apple" / "blank.jpg")
    Image.new("L", (300, 200), "black").save(val / "Pear" / "lens cap.jpg")
    (train / "Pear" / "text.jpg").write_text("not a picture")
    apples[2].rename(apples[2].with_suffix(".png"))
    (train / "apple" / "notes.txt").touch()
    return root


@pytest.fixture(scope="module")
def report(messy: Path) -> DataReport:
    return check_data(find_data(messy), input_size=(128, 128))


def names(pictures: list[CheckedPicture] | tuple[CheckedPicture, ...]) -> set[str]:
    return {Path(picture.name).name for picture in pictures}


def test_every_fault_is_found_and_nothing_else(report: DataReport) -> None:
    assert [(picture.name, picture.facts.fault) for picture in report.unreadable] == [
        ("train/Pear/text.jpg", "not a picture")
    ]
    assert names(report.near_empty) == {"blank.jpg", "lens cap.jpg"}
    found = {(group.kind, group.leaks, group.contradicts): names(group.pictures) for group in report.duplicates}
    original = next(iter(found["exact", True, False] - {"leaked.png"}))
    twin = next(iter(found["exact", False, True] - {"contradiction.jpg"}))
    assert found == {
        ("exact", True, False): {original, "leaked.png"},
        ("near", True, False): {original, "leaked.png", "small leak.jpg"},
        ("exact", False, True): {twin, "contradiction.jpg"},
    }
    assert names(report.leaked) == {"leaked.png", "small leak.jpg"}
    assert [fault.reason for fault in report.name_faults] == ["it is a JPEG file"]


def test_the_report_counts(report: DataReport) -> None:
    values = json.loads(json.dumps(report.to_dict()))
    assert values["num_pictures"] == {"train": 15, "val": 11}
    assert values["classes"] == [
        {"name": "Pear", "num_train": 8, "num_val": 5},
        {"name": "apple", "num_train": 7, "num_val": 6},
    ]
    assert values["imbalance"]["largest_to_smallest"] == pytest.approx(8 / 7)
    assert values["imbalance"]["effective_num_classes"] == pytest.approx(1.99556, abs=1e-5)
    assert values["formats"] == {"JPEG": 24, "PNG": 1} and values["modes"] == {"RGB": 24, "L": 1}
    assert values["sizes"]["num_below_input"] == 1 and values["sizes"]["height"]["min"] == 60
    assert values["num_leaked"] == 2 and len(values["duplicates"]) == 3
    assert [entry["reason"] for entry in values["skipped"]] == ["not a picture (.txt)"]


def test_workers_change_nothing(messy: Path) -> None:
    data = find_data(messy)
    samples = [*data.train, *data.val]
    done: list[tuple[int, int]] = []
    alone = inspect_pictures(samples, on_picture=lambda *now: done.append(now))
    assert inspect_pictures(samples, num_workers=2) == alone
    assert done == [(count, len(samples)) for count in range(1, len(samples) + 1)]
    with pytest.raises(ConfigError, match="num_workers must be at least 0, got -1"):
        inspect_pictures(samples, num_workers=-1)


def test_a_file_that_is_gone_is_told_and_not_raised(tmp_path: Path) -> None:
    (facts,) = inspect_pictures([Sample(tmp_path / "gone.jpg", 0)])
    assert facts.fault == "No such file or directory" and facts.fingerprint is None


def test_clean_photos_give_no_finding(photos: Path) -> None:
    report = check_data(find_data(photos))
    assert not (report.unreadable or report.near_empty or report.duplicates or report.name_faults or report.leaked)


def test_troublesome_names_are_told(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for name in ("cat", "Cat", "dog "):
        for file in ("a.png", "A.png", "what?.png", "turn\u202e.png"):
            (tmp_path / name).mkdir(exist_ok=True)
            pixels = generator.integers(0, 256, (40, 40, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / file)
    reasons = {(fault.name, fault.reason) for fault in check_data(find_data(tmp_path)).name_faults}
    assert ("cat", "differs from Cat by case alone: one name on macOS and Windows") in reasons
    assert ("dog ", "blanks before or after it") in reasons
    assert ("cat/what?.png", "Windows allows no ? in names") in reasons
    assert (r"cat/turn\u202e.png", "signs that nobody sees, or that turn or break the line") in reasons
    assert any(name == "cat/a.png" and "by case alone" in reason for name, reason in reasons)


def test_the_contact_sheet_shows_the_pictures(report: DataReport, tmp_path: Path) -> None:
    write_contact_sheet(tmp_path / "sheet.png", report)
    with Image.open(tmp_path / "sheet.png") as sheet:
        pixels = np.asarray(sheet.convert("RGB"))
    thumbnails = (pixels != 255).any(axis=2).sum()
    assert thumbnails > 10 * 96 * 96 * 0.9  # five pictures of each class, at least
    (black,) = np.nonzero((pixels == 0).all(axis=2).sum(axis=1) >= 90)
    assert len(black) >= 60  # the lens cap


def test_a_class_without_training_pictures_is_reported(photos: Path, tmp_path: Path) -> None:
    first, second = sorted(photos.iterdir())[:2]
    shutil.copytree(first, tmp_path / "full")
    shutil.copytree(second, tmp_path / "fuller")
    (tmp_path / "bare").mkdir()
    obstacles: list[str] = []
    data = find_data(tmp_path, on_obstacle=obstacles.append)
    report = check_data(data, obstacles=obstacles)
    values = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert values["obstacles"] == obstacles != []
    assert values["classes"][0] == {"name": "bare", "num_train": 0, "num_val": 0}
    assert values["imbalance"]["effective_num_classes"] == pytest.approx(2)
    write_contact_sheet(tmp_path / "sheet.png", report)


def test_all_unreadable_is_a_report_too(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
        for index in range(2):
            (tmp_path / name / f"{index}.jpg").touch()
    report = check_data(find_data(tmp_path))
    assert len(report.unreadable) == 4 and report.to_dict()["sizes"] == {}
    write_contact_sheet(tmp_path / "sheet.png", report)
