"""A split as it is written down in a run folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from effvit.data.datasets import PictureData
from effvit.data.samples import Sample


def split_to_dict(data: PictureData) -> dict[str, Any]:
    """Plain values for JSON: the pictures by part and class, relative to the data's folder."""
    return {
        "split": data.split,
        "train": _paths_by_class(data.train, data),
        "val": _paths_by_class(data.val, data),
        "skipped": [[path.relative_to(data.root).as_posix(), reason] for path, reason in data.skipped],
    }


def _paths_by_class(samples: Sequence[Sample], data: PictureData) -> dict[str, list[str]]:
    paths: dict[str, list[str]] = {name: [] for name in data.class_names}
    for sample in samples:
        paths[data.class_names[sample.target]].append(sample.path.relative_to(data.root).as_posix())
    return paths


def split_from_dict(split: dict[str, Any], root: Path, class_names: tuple[str, ...]) -> PictureData:
    """The split that `split_to_dict` wrote, with the data in `root` now.

    Raises:
        KeyError, TypeError, AttributeError: If the values are not what `split_to_dict` gives.
    """

    def samples(part: str) -> tuple[Sample, ...]:
        return tuple(
            Sample(root / path, target) for target, name in enumerate(class_names) for path in split[part].get(name, [])
        )

    return PictureData(root, class_names, samples("train"), samples("val"), split["split"])
