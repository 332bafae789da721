"""The paper's data sets by name, where torchvision finds them on the disk: `cifar10:ROOT`. Nothing is downloaded.

ROOT is what torchvision's classes take. The published test set is taken for validation, as those who
compare accuracies with the paper's do: the best epoch is then chosen on it.
"""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from effvit.data.class_folders import VAL_FOLDER_NAMES, find_in_class_folders, read_class_folders
from effvit.data.samples import Sample, SourcePictures, one_line
from effvit.data.shard_writer import PackedPicture, write_shards
from effvit.data.shards import read_shards
from effvit.errors import DataError, unknown_name


def named_source(source: Path | str) -> tuple[str, Path]:
    """`cifar10:ROOT` -> (`cifar10`, ROOT); an empty name for any other source.

    Raises:
        DataError: If the text has this form and names neither a data set nor an existing path.
    """
    match = re.fullmatch(r"([A-Za-z]\w+):(.*)", str(source), re.DOTALL)
    if match is None or Path(source).exists():
        return "", Path(source)
    if match[1] not in READERS:
        raise DataError(unknown_name("data set", match[1], READERS))
    return match[1], Path(match[2] or ".").expanduser()


def read_named(name: str, root: Path) -> SourcePictures:
    """The pictures of a data set of `READERS` below `root`.

    Raises:
        DataError: If it is not there, or not whole; the message says what was looked for and where.
    """
    return READERS[name](root)


def imagenet_names(synsets: Sequence[str]) -> tuple[str, ...]:
    """WordNet ids to words: `n01440764` -> `tench`; the id is added where two classes share a word (crane, maillot).

    Ids that are not of ImageNet-1k stay as they are.
    """
    from timm.data.imagenet_info import ImageNetInfo

    known: Any = ImageNetInfo()
    first_words = {synset: known.label_name_to_description(synset).split(",")[0] for synset in known.label_names()}
    words = list(first_words.values())
    return tuple(
        synset
        if synset not in first_words
        else f"{first_words[synset]} ({synset})"
        if words.count(first_words[synset]) > 1
        else first_words[synset]
        for synset in synsets
    )


def _read_cifar10(root: Path) -> SourcePictures:
    from torchvision.datasets import CIFAR10

    return _read_cifar(CIFAR10, root, "cifar10")


def _read_cifar100(root: Path) -> SourcePictures:
    from torchvision.datasets import CIFAR100

    return _read_cifar(CIFAR100, root, "cifar100")


def _read_cifar(kind: Any, root: Path, name: str) -> SourcePictures:
    """CIFAR comes as arrays in pickles, which torchvision opens only if their checksums are the published ones.

    They are written once as lossless PNG in shards beside them, in `ROOT/effvit-NAME/`, and read from there
    from then on: one way of reading pictures serves all sources, in any order, and a worker need not hold the
    whole set in memory.
    """
    folder = root / f"effvit-{name}"
    if not folder.is_dir():
        parts = {part: _open(name, kind, root, kind.base_folder, train=part == "train") for part in ("train", "val")}
        logging.getLogger(__name__).info("writing %s once as PNG shards: %s", name, folder)
        pictures = {part: _encoded(part, data) for part, data in parts.items()}
        write_shards(folder, pictures, parts["train"].classes)
    return read_shards(folder)


def _encoded(part: str, data: Any) -> Iterator[PackedPicture]:
    for index, (picture, target) in enumerate(data):
        file = io.BytesIO()
        picture.save(file, format="PNG", compress_level=1)
        yield PackedPicture(f"{part}/{index:05d}", ".png", file.getvalue(), target)


def _read_stanford_cars(root: Path) -> SourcePictures:
    from torchvision.datasets import StanfordCars

    parts = {
        part: _open("stanford_cars", StanfordCars, root, "stanford_cars", split=split, loader=Path)
        for part, split in (("train", "train"), ("val", "test"))
    }
    return _from_listings(root, parts["train"].classes, parts)


def _read_flowers102(root: Path) -> SourcePictures:
    """The official 1,020 + 1,020 training and validation pictures to train on, the 6,149 test pictures to validate."""
    from torchvision.datasets import Flowers102

    train, val, test = (
        _open("flowers102", Flowers102, root, "flowers-102", split=split, loader=Path)
        for split in ("train", "val", "test")
    )
    return _from_listings(root, Flowers102.classes, {"train": [*train, *val], "val": test})


def _read_pets(root: Path) -> SourcePictures:
    from torchvision.datasets import OxfordIIITPet

    parts = {
        part: _open("pets", OxfordIIITPet, root, "oxford-iiit-pet", split=split)
        for part, split in (("train", "trainval"), ("val", "test"))
    }
    # Its items are decoded pictures; only these two lists know the files.
    listings = {part: list(zip(data._images, data._labels, strict=True)) for part, data in parts.items()}
    return _from_listings(root, parts["train"].classes, listings)


def _read_imagenet(root: Path) -> SourcePictures:
    """`ROOT/train/nXXXXXXXX/` and `ROOT/val/nXXXXXXXX/`; val/ alone will do for an evaluation."""
    val = next((root / name for name in VAL_FOLDER_NAMES if (root / name).is_dir()), None)
    if val is None:
        raise _not_there("imagenet", root, "val/nXXXXXXXX")
    if (root / "train").is_dir():
        found = read_class_folders(root)
    else:
        alone = find_in_class_folders(val)
        found = SourcePictures(root, alone.class_names, {"val": alone.samples}, alone.skipped)
    return replace(found, class_names=imagenet_names(found.class_names))


def _open(name: str, kind: Any, root: Path, looked_for: str, **arguments: Any) -> Any:
    try:
        return kind(root, download=False, **arguments)
    except (RuntimeError, OSError, KeyError, ValueError) as error:
        raise _not_there(name, root, looked_for) from error


def _not_there(name: str, root: Path, looked_for: str) -> DataError:
    return DataError(
        f"{name} is not in {one_line(root)}: looked for {one_line(root / looked_for)}, whole and as published, in"
        " torchvision's layout (nothing is downloaded)"
    )


def _from_listings(root: Path, class_names: Any, parts: dict[str, Any]) -> SourcePictures:
    """From parts that give (path, target)."""
    samples = {
        part: tuple(sorted((Sample(Path(path), int(target)) for path, target in listing), key=lambda item: item.target))
        for part, listing in parts.items()
    }
    return SourcePictures(root, tuple(class_names), samples)


READERS: dict[str, Callable[[Path], SourcePictures]] = {
    "cifar10": _read_cifar10,
    "cifar100": _read_cifar100,
    "stanford_cars": _read_stanford_cars,
    "flowers102": _read_flowers102,
    "pets": _read_pets,
    "imagenet": _read_imagenet,
}
"""What can be named, and how it is read."""
