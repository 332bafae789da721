from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from effvit.data.datasets import PictureData, find_data, find_samples
from effvit.data.pictures import sample_bytes
from effvit.data.samples import Sample
from effvit.data.shard_writer import pack
from effvit.data.shards import read_index
from effvit.data.splits import split_from_dict, split_to_dict
from effvit.errors import DataError, RunError


def write_tar(path: Path, members: Mapping[str, bytes | str], mode: str = "w") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as archive:
        for name, content in members.items():
            raw = content.encode() if isinstance(content, str) else content
            member = tarfile.TarInfo(name)
            member.size = len(raw)
            archive.addfile(member, io.BytesIO(raw))
    return path


def labelled(*pairs: tuple[str, str]) -> dict[str, bytes | str]:
    """Members of samples, (key, label), whose pictures hold their own key."""
    members: dict[str, bytes | str] = {}
    for key, label in pairs:
        members[f"{key}.jpg"] = f"picture of {key}"
        members[f"{key}.cls"] = label
    return members


def content_by_class(samples: tuple[Sample, ...], names: tuple[str, ...]) -> list[tuple[str, bytes]]:
    return sorted((names[sample.target], sample_bytes(sample)) for sample in samples)


def keys(samples: tuple[Sample, ...]) -> list[str]:
    return [sample.member for sample in samples]


def test_parts_come_from_the_names_of_the_shards(tmp_path: Path) -> None:
    write_tar(tmp_path / "train-0.tar", labelled(("3", "dog"), ("1", "cat")))
    write_tar(tmp_path / "train-1.tar", labelled(("2", "cat"), ("0", "cat")))
    write_tar(tmp_path / "val-0.tar", labelled(("9", "dog"), ("8", "cat")))
    write_tar(tmp_path / "test-0.tar", labelled(("7", "dog")))
    data = find_data(tmp_path)
    assert data.split == "given" and data.class_names == ("cat", "dog")
    # By class, then by name: which shard a picture lies in does not change a training.
    assert keys(data.train) == ["0.jpg", "1.jpg", "2.jpg", "3.jpg"]
    assert keys(data.val) == ["8.jpg", "9.jpg"]
    assert [(entry.path.name, "neither" in entry.reason) for entry in data.skipped] == [("test-0.tar", True)]
    for sample in (*data.train, *data.val):
        assert sample_bytes(sample) == f"picture of {Path(sample.member).stem}".encode()


def test_one_shard_a_pattern_and_an_unsplit_folder_are_split_by_seed(tmp_path: Path) -> None:
    pairs = [(f"{index:02}", "cat" if index % 2 else "dog") for index in range(20)]
    write_tar(tmp_path / "part-0.tar", labelled(*pairs[:10]))
    write_tar(tmp_path / "part-1.tar", labelled(*pairs[10:]))
    whole, pattern = find_data(tmp_path), find_data(str(tmp_path / "part-*.tar"))
    assert whole == pattern and whole.split == "seeded"
    assert len(whole.val) == 4 and len(whole.train) == 16
    assert not set(keys(whole.train)) & set(keys(whole.val))
    assert find_data(tmp_path, seed=1).val != whole.val
    one = find_samples(tmp_path / "part-0.tar")
    assert sorted(keys(one.samples)) == [f"{key}.jpg" for key, _ in pairs[:10]]


@pytest.mark.parametrize("labels", [("0", "2", "10"), ("b", "a", "c")])
def test_without_a_list_labels_name_the_classes(tmp_path: Path, labels: tuple[str, ...]) -> None:
    write_tar(tmp_path / "a.tar", labelled(*((label * 2, label) for label in labels)))
    found = find_samples(tmp_path)
    expected = sorted(labels, key=int) if labels[0].isdecimal() else sorted(labels)
    assert found.class_names == tuple(expected)


@pytest.mark.parametrize(
    ("file_name", "text"),
    [("classes.txt", "cat\ndog\n"), ("classes.json", '["cat", "dog"]'), ("classes.json", '{"1": "dog", "0": "cat"}')],
)
def test_a_list_beside_the_shards_names_the_numbers(tmp_path: Path, file_name: str, text: str) -> None:
    (tmp_path / file_name).write_text(text)
    write_tar(tmp_path / "a.tar", labelled(("x", "1"), ("y", "0")))
    found = find_samples(tmp_path)
    assert [(found.class_names[sample.target], sample.member) for sample in found.samples] == [
        ("cat", "y.jpg"),
        ("dog", "x.jpg"),
    ]
    assert [sample.target for sample in find_samples(tmp_path, ["z", "dog", "cat"]).samples] == [1, 2]
    write_tar(tmp_path / "a.tar", labelled(("x", "2")))
    with pytest.raises(DataError, match="labels that are not among the 2 listed classes: 2"):
        find_samples(tmp_path)


def test_labels_in_json_and_what_is_no_sample(tmp_path: Path) -> None:
    members: dict[str, bytes | str] = {
        "dir/a.b.jpg": "first",  # WebDataset cuts at the first dot: key dir/a
        "dir/a.json": json.dumps({"width": 3, "label": "cat"}),
        "dir/a.txt": "a caption",
        "two.PNG": "second",
        "two.json": json.dumps({"class": 7}),
        "two.cls": "dog",  # the plain label goes before the record, in either order
        "three.jpg": "third",
        "three.cls": "dog",
        "three.json": json.dumps({"label": "cat"}),
        "none.jpg": "no label",
        "bad.jpg": "bad label",
        "bad.json": "{",
        "._hidden.jpg": "what macOS leaves",
        "dir/a.seg.png": "a mask",
    }
    index = read_index(write_tar(tmp_path / "a.tar", members))
    assert [(entry.member, entry.label) for entry in index.entries] == [
        ("dir/a.b.jpg", "cat"),
        ("two.PNG", "dog"),
        ("three.jpg", "dog"),
    ]
    assert dict(index.skipped) == {
        "dir/a.seg.png": "a second picture of its sample, beside dir/a.b.jpg",
        "none.jpg": "no label",
        "bad.jpg": "no label",
    }


def test_names_in_any_script_are_found_in_tars_of_any_make(tmp_path: Path) -> None:
    for name, layout in (("pax", tarfile.PAX_FORMAT), ("gnu", tarfile.GNU_FORMAT)):
        shard = tmp_path / f"{name}.tar"
        with tarfile.open(shard, "w", format=layout, encoding="utf-8", errors="surrogateescape") as archive:
            for member in ("りんご.jpg", "りんご.cls", os.fsdecode(b"caf\xe9.jpg")):
                archive.addfile(
                    tarfile.TarInfo(member) if member[-1] == "g" else label_member(member), io.BytesIO(b"1")
                )
            link = tarfile.TarInfo("link.jpg")
            link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
            archive.addfile(link)
        index = read_index(shard)
        assert [entry.member for entry in index.entries] == ["りんご.jpg"]
        assert dict(index.skipped) == {
            r"caf\udce9.jpg": "its name is not UTF-8, so no list of pictures can hold it",
            "link.jpg": "a link or another special member",
        }


def label_member(name: str) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size = 1
    return member


def test_the_index_is_kept_and_a_changed_shard_is_noticed(tmp_path: Path) -> None:
    shard = write_tar(tmp_path / "a.tar", labelled(("x", "cat")))
    first = read_index(shard)
    cache = tmp_path / ".a.tar.index.json"
    stamp, entries, _ = json.loads(cache.read_text())
    entries[0][3] = "from the cache"
    cache.write_text(json.dumps([stamp, entries, []]))
    assert read_index(shard).entries[0].label == "from the cache"
    os.utime(shard, ns=(0, shard.stat().st_mtime_ns + 1))  # same size, other time
    assert read_index(shard) == first
    write_tar(shard, labelled(("x", "cat"), ("y", "dog")))
    assert len(read_index(shard).entries) == 2
    cache.write_text("damaged")
    assert len(read_index(shard).entries) == 2


def test_a_folder_that_cannot_be_written_is_read_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shard = write_tar(tmp_path / "a.tar", labelled(("x", "cat")))

    def refuse(*_: object) -> None:
        raise RunError("cannot write")

    monkeypatch.setattr("effvit.data.shards.write_text", refuse)
    assert len(read_index(shard).entries) == 1
    assert not (tmp_path / ".a.tar.index.json").exists()


def test_unusable_shards_are_one_line(tmp_path: Path) -> None:
    write_tar(tmp_path / "gz" / "a.tar.gz", labelled(("x", "cat")), mode="w:gz")
    write_tar(tmp_path / "hidden" / "a.tar", labelled(("x", "cat")), mode="w:gz")
    write_tar(tmp_path / "bare" / "a.tar", {"x.jpg": "no label"})
    write_tar(tmp_path / "empty" / "a.tar", {})
    whole = write_tar(tmp_path / "cut" / "a.tar", {"x.jpg": b"0" * 5000, "x.cls": "1"})
    whole.write_bytes(whole.read_bytes()[:3000])
    for name, message in {
        "gz": r"a\.tar\.gz is compressed.*repack it once as a plain tar, such as with `gunzip`",
        "hidden": r"cannot read shard .*a\.tar \(\d+ bytes\) as an uncompressed tar",
        "bare": r"hold 1 members and none is a picture with a label: expected KEY\.jpg beside KEY\.cls",
        "empty": "hold no picture: expected",
        "cut": r"cannot read shard .*a\.tar \(3000 bytes\) .*: unexpected end of data; copy or pack it again",
        "none-*.tar": "no shards are called",
        "missing.tar": r"cannot read shard .*missing\.tar: No such file",
    }.items():
        with pytest.raises(DataError, match=message) as caught:
            find_data(tmp_path / name)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("tar_format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_a_shard_cut_anywhere_before_its_end_is_refused(tmp_path: Path, tar_format: int) -> None:
    shard = tmp_path / "a.tar"
    with tarfile.open(shard, "w", format=tar_format) as archive:
        for name, content in labelled(*((f"{index}é{'x' * 120 * index}", "cat") for index in range(2))).items():
            raw = content.encode() if isinstance(content, str) else content
            member = tarfile.TarInfo(name)
            member.size = len(raw)
            archive.addfile(member, io.BytesIO(raw))
        end = archive.offset
    whole = shard.read_bytes()
    for length in [*range(0, end + 1024, 128), *range(511, end + 1024, 512), end + 1023]:
        shard.write_bytes(whole[:length])
        with pytest.raises(DataError, match=rf"a\.tar \({length} bytes\) .*; copy or pack it again$") as caught:
            read_index(shard)
        assert "\n" not in str(caught.value)
    for block in range(0, end, 512):  # a header that became something else ends the reading as well
        if whole[block + 257 : block + 262] == b"ustar":
            shard.write_bytes(whole[:block] + b"\xff" * 512 + whole[block + 512 :])
            with pytest.raises(DataError, match="copy or pack it again$"):
                read_index(shard)
    shard.write_bytes(whole[: end + 1024])  # padding to a whole record is a habit of tapes, not needed
    assert len(read_index(shard).entries) == 2


def test_packed_and_read_back_are_the_same_pictures_byte_for_byte(tmp_path: Path, photos: Path) -> None:
    data = find_data(photos)
    done: list[tuple[int, int]] = []
    num_shards = pack(data, tmp_path / "out", shard_bytes=30_000, on_picture=lambda *now: done.append(now))
    assert num_shards == len(list((tmp_path / "out").glob("*.tar"))) > 3
    assert done == [(count, 30) for count in range(1, 31)]
    again = find_data(tmp_path / "out")
    assert again.split == "given" and again.class_names == data.class_names
    # Not only the same set: the same order, so that a training on them is the same training.
    for part in ("train", "val"):
        one, other = getattr(data, part), getattr(again, part)
        assert [sample.target for sample in one] == [sample.target for sample in other]
        assert [sample_bytes(sample) for sample in one] == [sample_bytes(sample) for sample in other]
    pack(again, tmp_path / "twice", shard_bytes=30_000)
    assert content_by_class(find_data(tmp_path / "twice").val, data.class_names) == content_by_class(
        data.val, data.class_names
    )


def test_packing_is_the_same_each_time_and_shuffles_the_training_part(tmp_path: Path, photos: Path) -> None:
    data = find_data(photos)
    for name in ("one", "two"):
        pack(data, tmp_path / name)
    assert (tmp_path / "one" / "train-00000.tar").read_bytes() == (tmp_path / "two" / "train-00000.tar").read_bytes()
    with tarfile.open(tmp_path / "one" / "train-00000.tar") as archive:
        labels = [archive.extractfile(member).read() for member in archive if member.name.endswith(".cls")]  # type: ignore[union-attr]
    assert labels != sorted(labels)


def test_names_that_only_differ_in_suffix_or_dots_stay_apart(tmp_path: Path) -> None:
    for path in ("a/x.jpg", "a/x.png", "a/x.1.jpg", "a/x_1.jpg", "b/りんご\n.jpg", "b/y.jpg"):
        (tmp_path / "in" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / path).write_text(path)
    data = find_data(tmp_path / "in")
    pack(data, tmp_path / "out")
    again = find_data(tmp_path / "out")
    assert content_by_class((*data.train, *data.val), data.class_names) == content_by_class(
        (*again.train, *again.val), again.class_names
    )


def test_a_failed_packing_leaves_nothing_and_nothing_is_overwritten(tmp_path: Path, photos: Path) -> None:
    data = find_data(photos)
    broken = PictureData(data.root, data.class_names, data.train, (Sample(tmp_path / "gone.jpg", 0),), "seeded")
    with pytest.raises(DataError, match=r"gone\.jpg: No such file"):
        pack(broken, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    with pytest.raises(RunError, match="out is there already and not an empty folder"):
        pack(data, tmp_path / "out")


def test_a_split_over_shards_is_written_down_and_read_back(tmp_path: Path) -> None:
    pairs = [(f"{'cat' if index % 2 else 'dog'}/{index:02}", "cat" if index % 2 else "dog") for index in range(12)]
    write_tar(tmp_path / "a.tar", labelled(*pairs))
    data = find_data(tmp_path)
    written = json.loads(json.dumps(split_to_dict(data)))
    assert split_from_dict(written, tmp_path, data.class_names) == data
    # Packed anew, the members lie elsewhere: they are found by name.
    write_tar(tmp_path / "a.tar", labelled(("first", "cat"), *reversed(pairs)))
    again = split_from_dict(written, tmp_path, data.class_names)
    assert keys(again.train) == keys(data.train) and again != data
    assert [sample_bytes(sample) for sample in again.train] == [
        f"picture of {sample.member.removesuffix('.jpg')}".encode() for sample in data.train
    ]
    write_tar(tmp_path / "a.tar", labelled(*pairs[1:]))
    with pytest.raises(RunError, match=r"a\.tar has no picture dog/00\.jpg any more"):
        split_from_dict(written, tmp_path, data.class_names)
    (tmp_path / "a.tar").unlink()
    with pytest.raises(RunError, match=r"pictures of the run cannot be found: cannot read shard .*a\.tar"):
        split_from_dict(written, tmp_path, data.class_names)
