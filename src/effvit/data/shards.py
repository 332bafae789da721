"""Tar shards in WebDataset's layout, read in any order without unpacking.

A sample is the members `KEY.jpg` (or another picture suffix) and `KEY.cls` (a number or a name) or
`KEY.json` (an object with the label under one of `LABEL_FIELDS`). Names of classes come from
`classes.txt` or `classes.json` beside the shards, else from the labels. Shards whose names begin with
`train` and `val` (or validation, valid, test) are the two parts; otherwise a share is held out.

Why not a pure stream: whoever reads a tar from its beginning can only shuffle within a buffer, and
can only continue in the middle of an epoch by reading all that came before. Here one pass over the
headers notes where each picture begins; after that any picture is one `seek` and one `read`. So shards
are shuffled as a whole, a run continues at any step exactly, and every worker and process reads its own
pictures and nothing else, however many shards there are. The price is the pass over the headers:
30 microseconds a picture from the page cache, and a disk access each from a cold disk, which for
ImageNet are minutes. So the index is kept beside its shard, as `.NAME.tar.index.json`, where that can be
written; it is made anew when the shard's size or time of change is not the noted one.
"""

from __future__ import annotations

import json
import re
import tarfile
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from effvit.data.class_folders import VAL_FOLDER_NAMES
from effvit.data.class_lists import number_labels, read_class_list
from effvit.data.pictures import PICTURE_SUFFIXES
from effvit.data.samples import Sample, Skipped, SourcePictures, is_unicode, one_line, source_pictures
from effvit.errors import DataError, RunError
from effvit.files import write_text

LABEL_FIELDS = ("label", "class", "target", "category", "cls")
"""Fields of `KEY.json` that may hold the label; the first that exists."""

_COMPRESSED_SUFFIXES = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".tar.lz4")
_INDEX_VERSION = 2
"""Raised when an index of an earlier version may be wrong: 1 took what a cut shard still held for all of it."""
_END_MARK = bytes(2 * tarfile.BLOCKSIZE)
"""What a tar ends with. `tarfile` does without, so a copy that broke off between two members would pass for whole."""


class ShardEntry(NamedTuple):
    """One picture in a shard."""

    member: str
    """Name of the picture's member."""
    offset: int
    """Where its bytes begin in the shard."""
    num_bytes: int
    """How many they are."""
    label: str
    """What the shard says it shows: a class name, or a number."""


class ShardIndex(NamedTuple):
    """What lies where in a shard."""

    entries: tuple[ShardEntry, ...]
    skipped: tuple[tuple[str, str], ...]
    """Members that are not used, and why."""


def are_shards(source: Path) -> bool:
    """Whether a source is a shard, a pattern of shards, or a folder with shards and without class folders."""
    if not source.is_dir():
        return _is_tar_name(source)
    entries = [path for path in source.iterdir() if not path.name.startswith(".")]
    return any(_is_tar_name(path) for path in entries) and not any(path.is_dir() for path in entries)


def read_shards(source: Path) -> SourcePictures:
    """The pictures of a folder of shards, of one shard, or of a pattern such as `photos/train-*.tar`.

    Within a class they are sorted by name, whatever shard they lie in: training on shards is training on the
    folder they were packed from.

    Raises:
        DataError: If a shard is missing, compressed, damaged, or has no labels.
    """
    shards = _shard_paths(source)
    found: list[tuple[ShardEntry, Path]] = []
    skipped: list[Skipped] = []
    for shard in shards:
        index = read_index(shard)
        found += [(entry, shard) for entry in index.entries]
        skipped += [Skipped(shard / member, reason) for member, reason in index.skipped]
    if not found:
        raise DataError(_nothing_found(source, len(skipped)))
    found.sort(key=lambda pair: (PurePosixPath(pair[0].member).parts, pair[1]))
    root = shards[0].parent
    names, targets = number_labels([entry.label for entry, _ in found], read_class_list(root), root)
    part_by_shard, unused = _parts(shards)
    by_part: dict[str, list[Sample]] = {}
    for (entry, shard), target in zip(found, targets, strict=True):
        sample = Sample(shard, target, entry.member, entry.offset, entry.num_bytes)
        by_part.setdefault(part_by_shard[shard], []).append(sample)
    skipped += [Skipped(shard, "neither of the training nor of the validation shards") for shard in unused]
    return source_pictures(root, names, by_part, skipped)


def read_index(shard: Path) -> ShardIndex:
    """Where each picture of a shard lies; see the head of this file.

    Raises:
        DataError: If the shard is missing, compressed, no tar file, or not a whole one.
    """
    if shard.name.lower().endswith(_COMPRESSED_SUFFIXES):
        raise DataError(
            f"{one_line(shard)} is compressed, so nothing in it can be found without unpacking all before it; photos"
            f" are compressed already: repack it once as a plain tar, such as with `gunzip` for .tar.gz"
        )
    try:
        status = shard.stat()
        stamp = [_INDEX_VERSION, status.st_size, status.st_mtime_ns]
        cache = shard.with_name(f".{shard.name}.index.json")
        index = _read_cache(cache, stamp)
        if index is None:
            index = _read_headers(shard)
            with suppress(RunError):  # a folder that cannot be written: the index is made again next time
                write_text(cache, json.dumps([stamp, index.entries, index.skipped]))
        return index
    except OSError as error:
        raise DataError(f"cannot read shard {one_line(shard)}: {error.strerror or error}") from error
    except tarfile.TarError as error:
        raise DataError(
            f"cannot read shard {one_line(shard)} ({status.st_size} bytes) as an uncompressed tar: {error}; copy or"
            " pack it again"
        ) from error


def _read_cache(cache: Path, stamp: list[int]) -> ShardIndex | None:
    try:
        noted, entries, skipped = json.loads(cache.read_text(encoding="utf-8"))
        if noted != stamp:
            return None
        return ShardIndex(tuple(ShardEntry(*entry) for entry in entries), tuple((name, why) for name, why in skipped))
    except (OSError, ValueError, TypeError):  # none, or damaged
        return None


def _read_headers(shard: Path) -> ShardIndex:
    pictures: dict[str, tuple[str, int, int]] = {}
    labels: dict[str, str] = {}
    skipped: list[tuple[str, str]] = []
    with tarfile.open(shard, "r:", encoding="utf-8") as archive:
        for member in archive:
            key, extension = _split_key(member.name)
            if not key or member.isdir():
                continue
            if not member.isreg() or member.issparse():
                skipped.append((one_line(member.name), "a link or another special member"))
            elif not is_unicode(member.name):
                skipped.append((one_line(member.name), "its name is not UTF-8, so no list of pictures can hold it"))
            elif "." + extension.rpartition(".")[2] in PICTURE_SUFFIXES:
                if key in pictures:
                    skipped.append(
                        (one_line(member.name), f"a second picture of its sample, beside {pictures[key][0]}")
                    )
                else:
                    pictures[key] = (member.name, member.offset_data, member.size)
            elif extension == "cls" or (extension == "json" and key not in labels):
                label = _read_label(archive, member, extension)
                if label:
                    labels[key] = label
        _check_end(shard, archive.offset)
    skipped += [(name, "no label") for key, (name, *_) in pictures.items() if key not in labels]
    entries = (ShardEntry(*where, labels[key]) for key, where in pictures.items() if key in labels)
    return ShardIndex(tuple(entries), tuple(skipped))


def _check_end(shard: Path, offset: int) -> None:
    """Raise a `tarfile.ReadError` if the end mark is not where the members end: the shard is cut off or damaged."""
    with shard.open("rb") as file:
        file.seek(offset)
        if file.read(len(_END_MARK)) != _END_MARK:
            raise tarfile.ReadError(f"it is cut off or damaged at byte {offset}, where a member or the end mark begins")


def _split_key(name: str) -> tuple[str, str]:
    """WebDataset's rule: `a/b.x.JPG` -> (`a/b`, `x.jpg`), cut at the last part's first dot; hidden: no key."""
    folder, slash, file_name = name.rpartition("/")
    stem, _, extension = file_name.partition(".")
    return (folder + slash + stem if stem else ""), extension.lower()


def _read_label(archive: tarfile.TarFile, member: tarfile.TarInfo, extension: str) -> str:
    content = archive.extractfile(member)
    text = "" if content is None else content.read().decode("utf-8", errors="replace").strip()
    return text if extension == "cls" else _label_in_json(text)


def _label_in_json(text: str) -> str:
    try:
        values: Any = json.loads(text)
    except ValueError:
        return ""
    found = [values[field] for field in LABEL_FIELDS if field in values] if isinstance(values, dict) else []
    usable = found and isinstance(found[0], (str, int)) and not isinstance(found[0], bool)
    return str(found[0]).strip() if usable else ""


def _shard_paths(source: Path) -> list[Path]:
    if source.is_dir():
        paths = [path for path in source.iterdir() if _is_tar_name(path) and not path.name.startswith(".")]
    elif "*" in source.name and not source.exists():
        paths = [path for path in source.parent.glob(source.name) if _is_tar_name(path)]
    else:
        paths = [source]
    if not paths:
        raise DataError(f"no shards are called {one_line(source)}")
    return sorted(paths)


def _is_tar_name(path: Path) -> bool:
    return path.name.lower().endswith((".tar", *_COMPRESSED_SUFFIXES))


def _parts(shards: list[Path]) -> tuple[dict[Path, str], list[Path]]:
    """The part of each shard by how its name begins, and the shards of neither part where there are both."""
    words = {shard: re.split(r"[^a-z]", shard.name.lower())[0] for shard in shards}
    val_word = next((word for word in VAL_FOLDER_NAMES if word in words.values()), None)
    if "train" not in words.values() or val_word is None:
        return dict.fromkeys(shards, "all"), []
    part_by_word = {"train": "train", val_word: "val"}
    return (
        {shard: part_by_word.get(word, "") for shard, word in words.items()},
        [shard for shard, word in words.items() if word not in part_by_word],
    )


def _nothing_found(source: Path, num_unlabelled: int) -> str:
    what = f"{num_unlabelled} members and none is a picture with a label" if num_unlabelled else "no picture"
    return (
        f"the shards of {one_line(source)} hold {what}: expected KEY.jpg beside KEY.cls, or beside KEY.json with a"
        f" field {' or '.join(LABEL_FIELDS)}"
    )
