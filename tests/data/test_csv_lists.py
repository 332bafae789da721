from __future__ import annotations

import json
from pathlib import Path

import pytest

from effvit.data.datasets import find_data, find_samples
from effvit.data.splits import split_from_dict, split_to_dict
from effvit.errors import DataError


def write_list(folder: Path, text: str, *, name: str = "list.csv", encoding: str = "utf-8") -> Path:
    (folder / name).write_text(text, encoding=encoding)
    return folder / name


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Eight files, a/0.jpg ... b/3.jpg."""
    for name in "ab":
        (tmp_path / name).mkdir()
        for index in range(4):
            (tmp_path / name / f"{index}.jpg").touch()
    return tmp_path


def rows(separator: str = ",", label: dict[str, str] | None = None) -> str:
    return "".join(
        f"{name}/{index}.jpg{separator}{(label or {}).get(name, name)}\n" for name in "ab" for index in range(4)
    )


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize(("path", "label"), [("path", "label"), ("Filename", "Class"), ("image", "target")])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_lists_as_people_write_them(pictures: Path, separator: str, path: str, label: str, encoding: str) -> None:
    source = write_list(pictures, f"{path}{separator}{label}\n{rows(separator)}", encoding=encoding)
    found = find_samples(source)
    assert found.class_names == ("a", "b") and len(found.samples) == 8
    assert all(sample.path.parent.name == found.class_names[sample.target] for sample in found.samples)
    data = find_data(source, val_fraction=0.25)
    assert data.split == "seeded" and len(data.train) == 6 and len(data.val) == 2


def test_quotes_other_columns_and_windows_line_ends(tmp_path: Path) -> None:
    for name in ('one, "two".jpg', "two\nlines.jpg"):
        (tmp_path / name).touch()
    text = 'id,path,label\r\n1,"one, ""two"".jpg",red\r\n\r\n2,"two\nlines.jpg","green; dark"\r\n'
    (tmp_path / "list.csv").write_bytes(text.encode())
    found = find_samples(tmp_path / "list.csv")
    assert {sample.path.name: found.class_names[sample.target] for sample in found.samples} == {
        'one, "two".jpg': "red",
        "two\nlines.jpg": "green; dark",
    }


def test_split_column(pictures: Path) -> None:
    words = ["Train", "training", "val", "test"] * 2
    lines = [f"{line},{word}" for line, word in zip(rows().splitlines(), words, strict=True)]
    source = write_list(pictures, "path,label,split\n" + "\n".join(lines))
    data = find_data(source)
    assert data.split == "given"
    assert [sample.path.name for sample in data.train] == ["0.jpg", "1.jpg", "0.jpg", "1.jpg"]
    assert [sample.path.name for sample in data.val] == ["2.jpg", "2.jpg"]
    assert [(entry.path.name, "another part" in entry.reason) for entry in data.skipped] == [("3.jpg", True)] * 2
    assert find_samples(source).samples == data.val
    with pytest.raises(DataError, match=r"row 2 has split 'maybe'; allowed: train, training, val"):
        find_data(write_list(pictures, "path,label,split\na/0.jpg,a,maybe\n"))


def test_numbers_take_their_names_from_a_list_or_a_column(pictures: Path) -> None:
    numbers = rows(label={"a": "1", "b": "0"})
    source = write_list(pictures, f"path,label\n{numbers}")
    assert find_samples(source).class_names == ("0", "1")
    # A network's classes: numbers without names are positions in them.
    assert {sample.target for sample in find_samples(source, ["x", "y", "z"]).samples} == {0, 1}
    (pictures / "classes.txt").write_text("beetroot\napple\n")
    found = find_samples(source)
    assert found.class_names == ("beetroot", "apple")
    assert {sample.path.parent.name: sample.target for sample in found.samples} == {"a": 1, "b": 0}
    (pictures / "classes.txt").unlink()
    named = "".join(f"{line},{'apple' if line[0] == 'a' else 'beetroot'}\n" for line in numbers.splitlines())
    assert find_samples(write_list(pictures, f"path,label,name\n{named}")).class_names == ("apple", "beetroot")


def test_missing_and_repeated_rows_are_listed(pictures: Path) -> None:
    source = write_list(pictures, f"path,label\n{rows()}a/gone.jpg,a\na/0.jpg,a\n")
    data = find_data(source)
    assert len(data.train) + len(data.val) == 8
    assert {entry.path.name: entry.reason for entry in data.skipped} == {
        "gone.jpg": "listed, but there is no such file",
        "0.jpg": "listed twice",
    }


def test_images_beside_the_list(data_dir: Path) -> None:
    found = find_samples(data_dir / "imagenet_sample" / "labels.csv")
    assert len(found.samples) == 100 and "goldfish" not in found.class_names and "tench" in found.class_names


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no column for a file's path: its first row must name one of path, file"),
        ("a/0.jpg,a\n", r"has no column for a file's path.*; it has a/0\.jpg, a"),
        ("path,colour\na/0.jpg,a\n", "has no column for its label"),
        ("path,label\n", "has no rows"),
        ("path,label\na/0.jpg\n", "row 2 has no path, label or split"),
        ("path,label\na/0.jpg,\n", "row 2 has no path, label or split"),
        ("path,label\na/0.jpg,a\na/0.jpg,b\n", r"gives .*a/0\.jpg two labels: 'a' and 'b'"),
        ("path,label,split\na/0.jpg,a,train\na/0.jpg,a,val\n", "two parts: 'train' and 'val'"),
        (f"path,label\n{rows()}x.jpg,a\ny.jpg,a\n", r"2 of 10 listed files are missing \(allowed: 1, or 1%\)"),
        ("path,label\nx.jpg,a\n", "1 of 1 listed files are missing"),
        ("path,label\na/0.jpg,a\na/1.jpg,a\n", "has one class, 'a'"),
    ],
)
def test_unusable_list_is_one_line(pictures: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        find_data(write_list(pictures, text))
    assert "\n" not in str(caught.value)


def test_other_encodings_and_missing_lists_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"list\.csv is not UTF-8; save it as CSV UTF-8"):
        find_data(write_list(tmp_path, "path,label\nÄ.jpg,a\n", encoding="latin-1"))
    with pytest.raises(DataError, match=r"cannot read list .*none\.csv: No such file"):
        find_data(tmp_path / "none.csv")


def test_a_split_of_a_list_is_read_back_with_files_elsewhere(pictures: Path, tmp_path: Path) -> None:
    home = pictures / "home"
    home.mkdir()
    lines = [
        *(f"../a/{index}.jpg,a" for index in range(4)),
        *(f"{(pictures / 'b').absolute()}/{index}.jpg,b" for index in range(4)),
    ]
    data = find_data(write_list(home, "path,label\n" + "\n".join(lines)))
    written = json.loads(json.dumps(split_to_dict(data)))
    assert split_from_dict(written, home, data.class_names) == data
