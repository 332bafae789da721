from __future__ import annotations

import re
import shutil
import unicodedata
from collections import Counter
from pathlib import Path

import pytest

from effvit.data.datasets import find_data, find_samples
from effvit.data.samples import Sample
from effvit.errors import ConfigError, DataError


def make(root: Path, *names: str) -> Path:
    """Empty files: finding pictures does not open them."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def make_classes(root: Path, **counts: int) -> Path:
    return make(root, *(f"{name}/{index:03}.jpg" for name, count in counts.items() for index in range(count)))


def names(samples: tuple[Sample, ...], root: Path) -> list[tuple[str, int]]:
    return [(sample.path.relative_to(root).as_posix(), sample.target) for sample in samples]


@pytest.mark.parametrize("val_name", ["val", "validation", "valid", "test"])
def test_given_split_is_taken_as_it_is(tmp_path: Path, val_name: str) -> None:
    make(tmp_path, "train/b/1.jpg", "train/a/2.png", f"{val_name}/a/3.jpg", f"{val_name}/b/deeper/4.jpg")
    data = find_data(tmp_path)
    assert data.split == "folders" and data.class_names == ("a", "b")
    assert names(data.train, tmp_path) == [("train/a/2.png", 0), ("train/b/1.jpg", 1)]
    assert names(data.val, tmp_path) == [(f"{val_name}/a/3.jpg", 0), (f"{val_name}/b/deeper/4.jpg", 1)]


def test_val_goes_before_test_which_is_reported(tmp_path: Path) -> None:
    make(tmp_path, *(f"{part}/{name}/1.jpg" for part in ("train", "val", "test") for name in "ab"))
    data = find_data(tmp_path)
    assert all("val" in sample.path.parts for sample in data.val)
    assert [(entry.path.name, entry.reason) for entry in data.skipped] == [("test", "not train/ or val/")]


@pytest.mark.parametrize("val_fraction", [0.01, 0.2, 0.5, 0.99])
def test_seeded_split_is_stratified_and_disjoint(tmp_path: Path, val_fraction: float) -> None:
    counts = {"tiny": 2, "small": 7, "large": 40}
    data = find_data(make_classes(tmp_path, **counts), val_fraction=val_fraction)
    assert data.split == "seeded"
    assert not set(data.train) & set(data.val)
    assert len({*data.train, *data.val}) == sum(counts.values())
    held_out = Counter(data.class_names[sample.target] for sample in data.val)
    for name, count in counts.items():
        assert 1 <= held_out[name] <= count - 1
        assert abs(held_out[name] - count * val_fraction) < 1 or held_out[name] in (1, count - 1)


def test_seeded_split_depends_on_seed_and_names_only(tmp_path: Path, photos: Path) -> None:
    moved = tmp_path / "elsewhere" / "photos"
    shutil.copytree(photos, moved)
    first, again, other = find_data(photos), find_data(moved), find_data(photos, seed=1)
    assert names(first.val, photos) == names(again.val, moved)
    assert names(first.val, photos) != names(other.val, photos)
    make_classes(moved, added=5)
    grown = find_data(moved)
    assert set(names(first.val, photos)) <= set(names(grown.val, moved))


def test_what_is_skipped_is_told_with_its_reason(tmp_path: Path) -> None:
    make_classes(tmp_path, a=3, b=3)
    make(tmp_path, "readme.md", "a/notes.txt", "b/Makefile", "a/.hidden.jpg", ".DS_Store", ".git/x.jpg")
    (tmp_path / "b" / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    (tmp_path / "b" / "linked.jpg").symlink_to(tmp_path / "a" / "000.jpg")
    data = find_data(tmp_path)
    assert {entry.path.name: entry.reason for entry in data.skipped} == {
        "readme.md": "outside any class folder",
        "notes.txt": "not a picture (.txt)",
        "Makefile": "not a picture (no suffix)",
        "gone.jpg": "broken link",
    }
    assert len(data.train) + len(data.val) == 7


def test_class_names_in_any_script_match_across_unicode_forms(tmp_path: Path) -> None:
    composed, decomposed = (unicodedata.normalize(form, "Äpfel") for form in ("NFC", "NFD"))
    make(tmp_path, f"train/{composed}/1.jpg", "train/りんご/1.jpg", "train/تفاح/1.jpg")
    make(tmp_path, f"val/{decomposed}/1.jpg", "val/りんご/1.jpg", "val/تفاح/1.jpg")
    assert find_data(tmp_path).class_names == tuple(sorted([composed, "りんご", "تفاح"]))


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    assert find_data(make_classes(tmp_path, bus=3, train=3)).class_names == ("bus", "train")


def bad_folders(root: Path) -> dict[str, tuple[Path, str]]:
    """A folder for each way to go wrong, and what must be said about it."""
    (root / "empty").mkdir()
    make(root / "flat", "1.jpg", "2.jpg")
    make_classes(root / "one", only=4)
    make_classes(root / "hollow", full=4, other=4)
    (root / "hollow" / "bare").mkdir()
    make(root / "hollow", "text/notes.txt")
    make(root / "differ", "train/a/1.jpg", "train/b/1.jpg", "val/a/1.jpg", "val/c/1.jpg")
    make_classes(root / "single", a=4, b=1)
    make(root / "no_val", "train/a/1.jpg", "train/b/1.jpg")
    make(root / "empty_val", "train/a/1.jpg", "train/b/1.jpg")
    (root / "empty_val" / "val").mkdir()
    return {
        "missing": (root / "missing", "no such folder: .*missing"),
        "file": (root / "flat" / "1.jpg", r"not a folder: .*1\.jpg"),
        "empty": (root / "empty", "no pictures in .*empty: it is empty"),
        "flat": (root / "flat", "it holds 2 files and no class folder; expected .*CLASS"),
        "one": (root / "one", "has one class, 'only'; training needs at least 2"),
        "hollow": (root / "hollow", "class folders without pictures in .*hollow: bare, text"),
        "differ": (root / "differ", "different classes: only in train/: b; only in val/: c"),
        "single": (root / "single", "single picture cannot be split .*: b in"),
        "no_val": (root / "no_val", "has train/ with class folders but no val/, .* or give .*train itself"),
        "empty_val": (root / "empty_val", "no pictures in .*val: it is empty"),
    }


@pytest.mark.parametrize(
    "case",
    ["missing", "file", "empty", "flat", "one", "hollow", "differ", "single", "no_val", "empty_val"],
)
def test_unusable_folder_is_one_line(tmp_path: Path, case: str) -> None:
    folder, message = bad_folders(tmp_path)[case]
    with pytest.raises(DataError, match=message) as caught:
        find_data(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("val_fraction", [0.0, 1.0, -0.1])
def test_val_fraction_must_be_a_share(tmp_path: Path, val_fraction: float) -> None:
    with pytest.raises(ConfigError, match=f"val_fraction must be above 0 and below 1, got {val_fraction}"):
        find_data(tmp_path, val_fraction=val_fraction)


def test_samples_follow_the_order_of_the_trained_classes(tmp_path: Path) -> None:
    make_classes(tmp_path, b=1, a=2)
    found = find_samples(tmp_path, ["z", "b", "a"])
    assert names(found.samples, tmp_path) == [("b/000.jpg", 1), ("a/000.jpg", 2), ("a/001.jpg", 2)]
    assert found.class_names == ("z", "b", "a")


def test_unknown_classes_are_listed(tmp_path: Path) -> None:
    make_classes(tmp_path, a=1, new=1)
    with pytest.raises(DataError, match=r"1 class folders the network does not know: new \(its 2 classes: a, b\)"):
        find_samples(tmp_path, ["a", "b"])
    make(tmp_path, "alone/Train/a/1.jpg")
    with pytest.raises(DataError, match=r"does not know: Train; did you mean .*alone/Train\?"):
        find_samples(tmp_path / "alone", ["a", "b"])


@pytest.mark.parametrize("val_name", ["val", "Test"])
def test_of_a_folder_with_parts_the_validation_part_is_evaluated(tmp_path: Path, val_name: str) -> None:
    make(tmp_path, "train/a/1.jpg", f"{val_name}/a/2.jpg", f"{val_name}/b/3.jpg")
    for class_names in (None, ["a", "b"]):
        found = find_samples(tmp_path, class_names)
        assert names(found.samples, tmp_path) == [(f"{val_name}/a/2.jpg", 0), (f"{val_name}/b/3.jpg", 1)]


def test_classes_called_train_and_val_are_classes_to_a_network_that_knows_them(tmp_path: Path) -> None:
    make_classes(tmp_path, train=1, val=1)
    found = find_samples(tmp_path, ["bus", "train", "val"])
    assert names(found.samples, tmp_path) == [("train/000.jpg", 1), ("val/000.jpg", 2)]


@pytest.mark.parametrize("case", ["one", "hollow", "differ", "single", "no_val"])
def test_what_stops_a_training_need_not_stop_a_look(tmp_path: Path, case: str) -> None:
    folder, message = bad_folders(tmp_path)[case]
    obstacles: list[str] = []
    data = find_data(folder, on_obstacle=obstacles.append)
    assert len(obstacles) == 1 and re.search(message, obstacles[0])
    found = sorted(sample.path for sample in (*data.train, *data.val))
    assert found == sorted(folder.rglob("*.jpg"))
    assert all(data.class_names[sample.target] in sample.path.parts for sample in (*data.train, *data.val))


def test_obstacles_of_other_sources_are_told_too(tmp_path: Path) -> None:
    make(tmp_path, "1.jpg", "2.jpg")
    (tmp_path / "classes.txt").write_text("a\nb\n")
    (tmp_path / "list.csv").write_text("path,label\n1.jpg,a\n2.jpg,a\n")
    obstacles: list[str] = []
    data = find_data(tmp_path / "list.csv", on_obstacle=obstacles.append)
    assert len(data.train) == len(data.val) == 1
    assert len(obstacles) == 1 and re.match("classes without pictures in .*: b$", obstacles[0])


def test_a_difference_of_one_side_names_that_side_alone(tmp_path: Path) -> None:
    make(tmp_path, "train/a/1.jpg", "train/b/1.jpg", "val/a/1.jpg")
    with pytest.raises(DataError, match=r"different classes: only in train/: b$"):
        find_data(tmp_path)


@pytest.mark.parametrize("source", ["", " "])
def test_an_empty_name_is_not_the_current_folder(source: str, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(photos)
    assert find_data(".").train
    for find in (find_data, find_samples):
        with pytest.raises(DataError, match="an empty name stands for no data"):
            find(source)


def test_a_negative_seed_is_refused(photos: Path) -> None:
    with pytest.raises(ConfigError, match="seed must be at least 0, got -1"):
        find_data(photos, seed=-1)
