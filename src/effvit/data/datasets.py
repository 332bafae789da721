"""Every kind of source of labelled pictures through two functions: to train on, and to evaluate on."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from effvit.data.class_folders import find_in_class_folders, find_validation_folder, read_class_folders
from effvit.data.csv_lists import is_list, read_list
from effvit.data.named import named_source, read_named
from effvit.data.samples import ClassFolders as ClassFolders
from effvit.data.samples import PictureData as PictureData
from effvit.data.samples import Sample, SourcePictures, listed, refuse
from effvit.data.samples import Skipped as Skipped
from effvit.data.shards import are_shards, read_shards
from effvit.errors import ConfigError, DataError


def find_data(
    source: Path | str,
    *,
    val_fraction: float = 0.2,
    seed: int = 0,
    on_obstacle: Callable[[str], None] = refuse,
) -> PictureData:
    """Find training and validation pictures.

    Args:
        source: One of
            a folder: `train/CLASS/...` and `val/CLASS/...` (or validation/, valid/, test/), or `CLASS/...`;
            a folder of tar shards, one shard, or a pattern of them, see `shards`;
            a CSV list of pictures and labels, see `csv_lists`;
            a data set of the paper that is on the disk, as `cifar10:ROOT`, see `named`.
        val_fraction: Share of each class, in (0, 1), that is held out where the source does not say itself what
            is for validation; at least one picture. Which ones depends on the seed, the class and its
            pictures' names only: not on where they lie, nor on the other classes.
        seed: Seed of that choice, 0 or more.
        on_obstacle: Called with what keeps a training from beginning though there are pictures to look at: a
            single class, classes without pictures or with one that cannot be split, other classes in one part
            than in the other, no validation part. Raises a `DataError` unless a caller wants to go on.

    Raises:
        DataError: If the source cannot be used for training; the message says what is missing.
        ConfigError: If val_fraction or seed is out of range.
    """
    if not 0 < val_fraction < 1:
        raise ConfigError(f"val_fraction must be above 0 and below 1, got {val_fraction}")
    if seed < 0:
        raise ConfigError(f"seed must be at least 0, got {seed}")
    found = _read_labelled(source)
    split = "given"
    if found is None:
        found, split = read_class_folders(Path(source), on_obstacle), "folders"
    elif "all" in found.parts:
        _check_every_class(found, found.parts["all"], "pictures", on_obstacle)
    else:
        train = found.parts.get("train", ())
        _check_every_class(found, train, "training pictures", on_obstacle if train else refuse)
    if len(found.class_names) < 2:
        on_obstacle(f"{source} has one class, {found.class_names[0]!r}; training needs at least 2")
    if "all" in found.parts:
        return _seeded_split(found, val_fraction, seed, on_obstacle)
    train, val = tuple(found.parts["train"]), tuple(found.parts["val"])
    return PictureData(found.root, found.class_names, train, val, split, found.skipped)


def find_samples(source: Path | str, class_names: Sequence[str] | None = None) -> ClassFolders:
    """Find labelled pictures to evaluate on.

    Args:
        source: As for `find_data`. Of a source that has parts, the validation pictures are taken.
        class_names: The classes of a trained network, whose order gives the targets. Every class of the source
            must be one of them, and some may be missing; numbers without names are positions in them. None takes
            the source's own classes, and wants pictures in each.

    Raises:
        DataError: If there is no picture, a class is unknown, or (without class_names) a class is empty.
    """
    found = _read_labelled(source)
    if found is None:
        root = Path(source)
        return find_in_class_folders(find_validation_folder(root, class_names) or root, class_names)
    samples = tuple(found.parts["val"] if "val" in found.parts else found.parts["all"])
    if class_names is None:
        _check_every_class(found, samples, "pictures", refuse)
        return ClassFolders(found.root, found.class_names, samples, found.skipped)
    position = _positions(found, _targets(samples), class_names)
    renumbered = (sample._replace(target=position[sample.target]) for sample in samples)
    ordered = tuple(sorted(renumbered, key=lambda sample: sample.target))
    return ClassFolders(found.root, tuple(class_names), ordered, found.skipped)


def _positions(found: SourcePictures, targets: Sequence[int], class_names: Sequence[str]) -> dict[int, int]:
    """Where the network has the source's classes: by name, or by number if the source has numbers for all names."""
    own = {target: found.class_names[target] for target in targets}
    known = {name: index for index, name in enumerate(class_names)}
    if all(name.isdecimal() for name in own.values()) and not known.keys() >= set(own.values()):
        known = {str(index): index for index in range(len(class_names))}
    unknown = [name for name in own.values() if name not in known]
    if unknown:
        raise DataError(
            f"{found.root} has {len(unknown)} classes the network does not know: {listed(unknown)} "
            f"(its {len(class_names)} classes: {listed(class_names)})"
        )
    return {target: known[name] for target, name in own.items()}


def _read_labelled(source: Path | str) -> SourcePictures | None:
    """The pictures of a source that is not class folders; None if it is, or nothing that is known."""
    if not str(source).strip():
        raise DataError("an empty name stands for no data; give a folder, a list or NAME:ROOT (`.` is this folder)")
    name, place = named_source(source)
    if name:
        return read_named(name, place)
    if is_list(Path(source)):
        return read_list(Path(source))
    if are_shards(Path(source)):
        return read_shards(Path(source))
    return None


def _seeded_split(
    found: SourcePictures, val_fraction: float, seed: int, on_obstacle: Callable[[str], None]
) -> PictureData:
    """Part of each class held out; what is alone in its class is trained on, if that may be."""
    everything = found.parts["all"]
    by_target: dict[int, list[Sample]] = {}
    for sample in everything:
        by_target.setdefault(sample.target, []).append(sample)
    single = [found.class_names[target] for target, samples in by_target.items() if len(samples) == 1]
    if single:
        on_obstacle(
            f"classes with a single picture cannot be split into training and validation: {listed(single)} in"
            f" {found.root}"
        )
    train: list[Sample] = []
    val: list[Sample] = []
    for target, samples in by_target.items():
        num_val = min(max(round(len(samples) * val_fraction), 1), len(samples) - 1)
        # Not one generator for all: a class that is added later must not move the others' pictures.
        draw = random.Random(f"{seed}/{found.class_names[target]}")
        held_out = set(draw.sample(range(len(samples)), num_val))
        for position, sample in enumerate(samples):
            (val if position in held_out else train).append(sample)
    return PictureData(found.root, found.class_names, tuple(train), tuple(val), "seeded", found.skipped)


def _check_every_class(
    found: SourcePictures, samples: Iterable[Sample], what: str, on_obstacle: Callable[[str], None]
) -> None:
    empty = sorted(set(range(len(found.class_names))) - set(_targets(samples)))
    if empty:
        on_obstacle(f"classes without {what} in {found.root}: {listed([found.class_names[i] for i in empty])}")


def _targets(samples: Iterable[Sample]) -> list[int]:
    """The targets that occur, ascending."""
    return sorted({sample.target for sample in samples})
