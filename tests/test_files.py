"""A reader never sees half a file or folder, and what was there before stays if the new one fails."""

from __future__ import annotations

from pathlib import Path

import pytest

from effvit.errors import RunError
from effvit.files import atomic_folder, read_json, size_in_bytes, write_text


def fill(folder: Path, text: str) -> Path:
    folder.mkdir()
    (folder / "inner").mkdir()
    (folder / "inner" / "a.txt").write_text(text)
    return folder


def content(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("before", [False, True])
def test_a_folder_appears_whole_and_replaces_what_was_there(before: bool, tmp_path: Path) -> None:
    if before:
        (fill(tmp_path / "a.box", "old") / "more.txt").write_text("old")
    with atomic_folder(tmp_path / "a.box") as temporary:
        assert temporary.suffix == ".box" and not temporary.exists()
        fill(temporary, "new")
        assert (tmp_path / "a.box").exists() is before
    assert content(tmp_path) == {"a.box/inner/a.txt": "new"}
    assert [path.name for path in tmp_path.iterdir()] == ["a.box"]


@pytest.mark.parametrize("before", [False, True])
def test_a_failure_leaves_what_was_there(before: bool, tmp_path: Path) -> None:
    if before:
        fill(tmp_path / "a.box", "old")
    with pytest.raises(ValueError, match="failed"), atomic_folder(tmp_path / "a.box") as temporary:
        fill(temporary, "half")
        raise ValueError("failed")
    assert content(tmp_path) == ({"a.box/inner/a.txt": "old"} if before else {})
    assert [path.name for path in tmp_path.iterdir()] == (["a.box"] if before else [])


def test_the_old_folder_comes_back_if_the_new_one_cannot_take_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path / "a.box", "old")
    rename = Path.replace

    def fail_for_the_new(path: Path, target: Path) -> Path:
        if path.name.endswith(".partial.box"):
            raise OSError(28, "No space left on device")
        return rename(path, target)

    monkeypatch.setattr(Path, "replace", fail_for_the_new)
    with (
        pytest.raises(RunError, match=r"cannot write .*a\.box: No space left on device"),
        atomic_folder(tmp_path / "a.box") as temporary,
    ):
        fill(temporary, "new")
    assert content(tmp_path) == {"a.box/inner/a.txt": "old"}


def test_it_may_be_a_file_too(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("old")
    with atomic_folder(tmp_path / "a.txt") as temporary:
        temporary.write_text("new")
    assert content(tmp_path) == {"a.txt": "new"}


def test_size_counts_all_files(tmp_path: Path) -> None:
    folder = fill(tmp_path / "a", "four")
    (folder / "b").write_text("six...")
    assert size_in_bytes(folder) == 10 and size_in_bytes(folder / "b") == 6


def test_a_long_name_can_be_written(tmp_path: Path) -> None:
    for name in (f"{'n' * 248}.txt", f"{'ä' * 125}.txt"):  # 252 and 254 bytes of 255
        write_text(tmp_path / name, "text")
        assert (tmp_path / name).read_text() == "text"
    assert len(list(tmp_path.iterdir())) == 2


def test_json_that_is_too_deep_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "deep.json").write_text("[" * 200_000)
    with pytest.raises(RunError, match="deep.json is not valid JSON: maximum recursion depth"):
        read_json(tmp_path / "deep.json")
