"""Which pictures of a COCO file are learned from and which validate: drawn, and as written down in a run folder."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from typing import Any

from effvit.data.coco_records import CocoData, CocoPicture
from effvit.data.samples import one_line
from effvit.errors import ConfigError, DataError, RunError


def split_coco(
    data: CocoData, val_fraction: float, seed: int
) -> tuple[tuple[CocoPicture, ...], tuple[CocoPicture, ...]]:
    """Hold part of the pictures out, each class spread over both parts.

    Every picture is filed under the rarest class on it. In that order, and by chance within a class, pictures are
    held out at equal distances, so that of each such pile a fair share is, up to one picture. The choice depends
    on the seed, the pictures' ids and what is on them: not on the order in the file, nor on where they lie.

    Args:
        data: The pictures.
        val_fraction: Share that is held out, in (0, 1); at least one picture is, and one is not.
        seed: Seed of the choice, 0 or more.

    Returns:
        Pictures to train on and to validate on, by rising image id.

    Raises:
        DataError: If there is a single picture.
        ConfigError: If val_fraction or seed is out of range.
    """
    if not 0 < val_fraction < 1:
        raise ConfigError(f"val_fraction must be above 0 and below 1, got {val_fraction}")
    if seed < 0:
        raise ConfigError(f"seed must be at least 0, got {seed}")
    count = len(data.pictures)
    if count < 2:
        raise DataError(f"{one_line(data.source)} has {count} picture to train and to validate on; it takes 2 at least")
    labels = {picture.image_id: {thing.label for thing in picture.things} for picture in data.pictures}
    pictures_with = Counter(label for found in labels.values() for label in found)

    def place(picture: CocoPicture) -> tuple[int, int, str]:
        found = labels[picture.image_id]
        rarity, label = min(((pictures_with[label], label) for label in found), default=(count + 1, 0))
        return rarity, label, hashlib.sha256(f"{seed}/{picture.image_id}".encode()).hexdigest()

    num_val = min(max(round(count * val_fraction), 1), count - 1)
    held_out = {
        picture.image_id
        for position, picture in enumerate(sorted(data.pictures, key=place))
        if (position + 1) * num_val // count > position * num_val // count
    }
    train = tuple(picture for picture in data.pictures if picture.image_id not in held_out)
    val = tuple(picture for picture in data.pictures if picture.image_id in held_out)
    return train, val


def coco_split_to_dict(
    data: CocoData, train: Sequence[CocoPicture], val: Sequence[CocoPicture], val_data: CocoData | None = None
) -> dict[str, Any]:
    """Plain values for JSON: image id and name of each picture, relative to its folder, and what was left out.

    Args:
        data: What the training pictures are from.
        train: The training pictures.
        val: The validation pictures.
        val_data: What the validation pictures are from, if that is another file.
    """
    other = data if val_data is None else val_data
    skipped = data.skipped if val_data is None else (*data.skipped, *val_data.skipped)
    return {
        "split": "seeded" if val_data is None else "given",
        "train": _named(train, data),
        "val": _named(val, other),
        "skipped": [[one_line(path), reason] for path, reason in skipped],
    }


def coco_split_from_dict(
    split: dict[str, Any], data: CocoData, val_data: CocoData | None = None
) -> tuple[tuple[CocoPicture, ...], tuple[CocoPicture, ...]]:
    """The training and validation pictures of what `coco_split_to_dict` wrote, in the files as they are read now.

    Raises:
        RunError: If a picture is gone, or its id now stands for another.
        KeyError, TypeError, ValueError: If the values are not what `coco_split_to_dict` gives.
    """
    return _found(split["train"], data), _found(split["val"], data if val_data is None else val_data)


def _named(pictures: Sequence[CocoPicture], data: CocoData) -> list[list[Any]]:
    return [[picture.image_id, _relative(picture, data)] for picture in pictures]


def _found(named: Sequence[Sequence[Any]], data: CocoData) -> tuple[CocoPicture, ...]:
    by_id = {picture.image_id: picture for picture in data.pictures}
    found = []
    for image_id, name in named:
        picture = by_id.get(image_id)
        if picture is None:
            raise RunError(
                f"{one_line(data.source)} has no picture {image_id} ({one_line(name)}) any more, which the run was"
                " split with"
            )
        if _relative(picture, data) != name:
            raise RunError(
                f"picture {image_id} of {one_line(data.source)} is {one_line(_relative(picture, data))} now, and was"
                f" {one_line(name)} when the run was split"
            )
        found.append(picture)
    return tuple(found)


def _relative(picture: CocoPicture, data: CocoData) -> str:
    path = picture.path
    return (path.relative_to(data.root) if path.is_relative_to(data.root) else path).as_posix()
