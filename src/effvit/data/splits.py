"""A split as it is written down in a run folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from effvit.data.samples import PictureData, Sample, Skipped, one_line
from effvit.data.shards import ShardEntry, read_index
from effvit.errors import DataError, RunError


def split_to_dict(data: PictureData) -> dict[str, Any]:
    """Plain values for JSON: the pictures by part and class, relative to the data's folder.

    A picture in a shard is `shard.tar/member`: its place in the shard is looked up again when it is read back,
    because a shard that is packed anew has the same members elsewhere. What lies outside the data's folder,
    as a CSV list may have it, is written in full.
    """
    return {
        "split": data.split,
        "in_shards": any(sample.member for sample in (*data.train, *data.val)),
        "train": _names_by_class(data.train, data),
        "val": _names_by_class(data.val, data),
        "skipped": [[one_line(_relative(path, data.root)), reason] for path, reason in data.skipped],
    }


def split_from_dict(split: dict[str, Any], root: Path, class_names: tuple[str, ...]) -> PictureData:
    """The split that `split_to_dict` wrote, with the data in `root` now.

    Raises:
        RunError: If a shard or a member of it is gone.
        KeyError, TypeError, AttributeError: If the values are not what `split_to_dict` gives.
    """
    shards = _Shards(root)
    find = shards.find if split.get("in_shards") else lambda name, target: Sample(root / name, target)

    def samples(part: str) -> tuple[Sample, ...]:
        return tuple(
            find(name, target)
            for target, class_name in enumerate(class_names)
            for name in split[part].get(class_name, [])
        )

    skipped = tuple(Skipped(root / name, reason) for name, reason in split.get("skipped", []))
    return PictureData(root, class_names, samples("train"), samples("val"), split["split"], skipped)


def _names_by_class(samples: Sequence[Sample], data: PictureData) -> dict[str, list[str]]:
    names: dict[str, list[str]] = {name: [] for name in data.class_names}
    for sample in samples:
        path = _relative(sample.path, data.root)
        names[data.class_names[sample.target]].append(f"{path}/{sample.member}" if sample.member else path)
    return names


def _relative(path: Path, root: Path) -> str:
    return (path.relative_to(root) if path.is_relative_to(root) else path.absolute()).as_posix()


class _Shards:
    """Finds members in the shards of a folder; each shard's index is read once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.entries: dict[str, dict[str, ShardEntry]] = {}

    def find(self, name: str, target: int) -> Sample:
        """The sample called `shard.tar/member`."""
        shard, _, member = name.partition("/")
        if shard not in self.entries:
            try:
                self.entries[shard] = {entry.member: entry for entry in read_index(self.root / shard).entries}
            except DataError as error:
                raise RunError(f"the pictures of the run cannot be found: {error}") from error
        entry = self.entries[shard].get(member)
        if entry is None:
            raise RunError(
                f"{self.root / shard} has no picture {one_line(member)} any more, which the run was split with"
            )
        return Sample(self.root / shard, target, member, entry.offset, entry.num_bytes)
