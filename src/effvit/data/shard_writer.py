"""Pack labelled pictures into tar shards that any WebDataset reader takes, and that `shards` reads back."""

from __future__ import annotations

import io
import itertools
import random
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from effvit.data.pictures import sample_bytes
from effvit.data.samples import PictureData, Sample
from effvit.errors import DataError, RunError
from effvit.files import atomic_folder, write_text

SHARD_BYTES = 256 * 10**6
"""Size a shard is closed at: thousands of photos, and still quick to copy and to index."""


class PackedPicture(NamedTuple):
    """A picture on its way into a shard."""

    key: str
    """Name of its sample in the shard, without a dot in the last part."""
    suffix: str
    """Of the picture's file, with its dot."""
    content: bytes
    target: int


def pack(
    data: PictureData,
    output: Path,
    *,
    shard_bytes: int = SHARD_BYTES,
    on_picture: Callable[[int, int], None] | None = None,
) -> int:
    """Write a data set as shards: `train-00000.tar`, ..., `val-00000.tar`, ... and `classes.txt`.

    Files go in as they are, byte for byte. The training pictures are shuffled first, the same way each
    time: readers that stream shards can only shuffle nearby pictures themselves.

    Args:
        data: The pictures, split.
        output: A new or an empty folder; it appears when all is written.
        shard_bytes: Size at which a shard is closed; the picture that reaches it still goes in.
        on_picture: Called with the pictures written and all there are.

    Returns:
        Number of shards.

    Raises:
        RunError: If the folder holds something, or cannot be written.
        DataError: If a picture's file cannot be read, or a class name cannot stand on a line of its own.
    """
    total = len(data.train) + len(data.val)
    done = 0

    def packed(samples: Sequence[Sample]) -> Iterator[PackedPicture]:
        nonlocal done
        for sample, key in zip(samples, _keys(samples, data.root), strict=True):
            yield PackedPicture(
                key, PurePosixPath(sample.member or sample.path.name).suffix, sample_bytes(sample), sample.target
            )
            done += 1
            if on_picture is not None:
                on_picture(done, total)

    train = list(data.train)
    random.Random("shards").shuffle(train)
    return write_shards(output, {"train": packed(train), "val": packed(data.val)}, data.class_names, shard_bytes)


def write_shards(
    folder: Path,
    parts: Mapping[str, Iterable[PackedPicture]],
    class_names: Sequence[str],
    shard_bytes: int = SHARD_BYTES,
) -> int:
    """Write pictures by part into a new folder, which appears when all is written; returns the number of shards.

    Raises:
        RunError: If the folder holds something, or cannot be written.
        DataError: If a class name cannot stand on a line of its own.
    """
    broken = [name for name in class_names if name.strip() != name or len(name.splitlines()) != 1]
    if broken:
        raise DataError(f"a class name of one line without outer blanks is needed for classes.txt, got {broken[0]!r}")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RunError(f"{folder} is there already and not an empty folder: give a new one")
    num_shards = 0
    with atomic_folder(folder) as temporary:
        temporary.mkdir(parents=True)
        for part, pictures in parts.items():
            num_shards += _write_part(temporary, part, pictures, shard_bytes)
        write_text(temporary / "classes.txt", "".join(f"{name}\n" for name in class_names))
    return num_shards


def _write_part(folder: Path, part: str, pictures: Iterable[PackedPicture], shard_bytes: int) -> int:
    remaining = iter(pictures)
    for number in itertools.count():
        first = next(remaining, None)
        if first is None:
            return number
        with tarfile.open(folder / f"{part}-{number:05d}.tar", "w", format=tarfile.PAX_FORMAT) as archive:
            for picture in itertools.chain([first], remaining):
                _add(archive, picture.key + picture.suffix, picture.content)
                _add(archive, f"{picture.key}.cls", str(picture.target).encode())
                if archive.offset >= shard_bytes:
                    break
    raise AssertionError("itertools.count ends nowhere")


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    """A member that says nothing of when and by whom it was packed: the same pictures give the same shards."""
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def _keys(samples: Sequence[Sample], root: Path) -> Iterator[str]:
    """Names of samples after their files, without dots, where WebDataset's names end, and each only once."""
    used: set[str] = set()
    for sample in samples:
        path = sample.path
        if sample.member:
            parts: tuple[str, ...] = PurePosixPath(sample.member).parts
        else:
            parts = (path.relative_to(root) if path.is_relative_to(root) else Path(*path.parts[-2:])).parts
        *folders, name = (part for part in parts if part not in ("..", "/"))
        key = original = "/".join((*folders, PurePosixPath(name).stem.replace(".", "_")))
        number = 2
        while key in used:
            key, number = f"{original}-{number}", number + 1
        used.add(key)
        yield key
