"""What is wrong, or odd, with a data set before anybody trains on it: `effvit data check`."""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from effvit.data.duplicates import connected, exact_groups, near_pairs
from effvit.data.inspection import PictureFacts, inspect_pictures
from effvit.data.name_faults import NameFault, class_name_faults, file_name_faults
from effvit.data.samples import PictureData, Sample, one_line
from effvit.preprocessing import Preprocessing

NEAR_EMPTY_SPREAD = 5.0
"""Standard deviation of the grey levels, of 255, below which a picture shows next to nothing: the plainest of 4,731
photos of the Grocery Store data set has 27, a lens cap or a blank scan 0 to 3."""


class CheckedPicture(NamedTuple):
    """A picture in a report."""

    name: str
    """Relative to the source's folder, in one line."""
    part: str
    """train or val."""
    class_name: str
    sample: Sample
    facts: PictureFacts


@dataclass(frozen=True)
class Duplicates:
    """Pictures that are the same, or look it."""

    kind: str
    """exact or near."""
    pictures: tuple[CheckedPicture, ...]

    @property
    def leaks(self) -> bool:
        """Whether they are in training and in validation: the accuracy is then measured on what was learnt by heart."""
        return len({picture.part for picture in self.pictures}) > 1

    @property
    def contradicts(self) -> bool:
        """Whether they have different labels, of which at most one is right."""
        return len({picture.class_name for picture in self.pictures}) > 1

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; pictures by name, part and class."""
        return {
            "kind": self.kind,
            "leaks": self.leaks,
            "contradicts": self.contradicts,
            "pictures": [_plain(picture) for picture in self.pictures],
        }


class ClassCount(NamedTuple):
    """Readable or not, the pictures of a class."""

    name: str
    num_train: int
    num_val: int


@dataclass(frozen=True)
class PicturesReport(ABC):
    """What a check finds about pictures, whatever is known of what they show."""

    pictures: tuple[CheckedPicture, ...]
    duplicates: tuple[Duplicates, ...]

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""

    @property
    def readable(self) -> list[CheckedPicture]:
        """Pictures that could be decoded."""
        return [picture for picture in self.pictures if not picture.facts.fault]

    @property
    def unreadable(self) -> list[CheckedPicture]:
        """Pictures that could not."""
        return [picture for picture in self.pictures if picture.facts.fault]

    @property
    def near_empty(self) -> list[CheckedPicture]:
        """Pictures of almost one colour, the plainest first."""
        found = [picture for picture in self.readable if picture.facts.spread < NEAR_EMPTY_SPREAD]
        return sorted(found, key=lambda picture: picture.facts.spread)

    @property
    def leaked(self) -> list[CheckedPicture]:
        """Validation pictures of which there is a copy among the training pictures."""
        found = {
            picture.name: picture
            for group in self.duplicates
            if group.leaks
            for picture in group.pictures
            if picture.part == "val"
        }
        return list(found.values())

    @property
    def formats(self) -> dict[str, int]:
        """Readable pictures of each file format, by content, the most frequent first."""
        return dict(Counter(picture.facts.format for picture in self.readable).most_common())

    @property
    def modes(self) -> dict[str, int]:
        """Readable pictures of each pixel format they are saved in, the most frequent first."""
        return dict(Counter(picture.facts.mode for picture in self.readable).most_common())


@dataclass(frozen=True)
class DataReport(PicturesReport):
    """Everything a check found in labelled pictures."""

    data: PictureData
    name_faults: tuple[NameFault, ...]
    input_size: tuple[int, int]
    """Height and width a network would be given, in pixels: smaller pictures are enlarged."""
    obstacles: tuple[str, ...] = ()
    """What keeps a training from beginning, a line each."""

    @property
    def classes(self) -> list[ClassCount]:
        """Pictures of each class, in the classes' order."""
        train = Counter(sample.target for sample in self.data.train)
        val = Counter(sample.target for sample in self.data.val)
        return [ClassCount(name, train[index], val[index]) for index, name in enumerate(self.data.class_names)]

    @property
    def imbalance(self) -> dict[str, float]:
        """How uneven the training classes are, those without a picture left out.

        `largest_to_smallest` is the ratio of their counts; `effective_num_classes` is how many even classes would be
        as varied: the exponential of the entropy of the classes' shares.
        """
        counts = np.array([count.num_train for count in self.classes if count.num_train], dtype=float)
        shares = counts / counts.sum()
        entropy = -float((shares * np.log(shares)).sum())
        return {
            "largest_to_smallest": float(counts.max() / counts.min()),
            "effective_num_classes": math.exp(entropy),
        }

    @property
    def sizes(self) -> dict[str, Any]:
        """Least, median and largest width and height, and how many pictures are below the network's input."""
        sides = np.array([(picture.facts.width, picture.facts.height) for picture in self.readable])
        if not len(sides):
            return {}
        height, width = self.input_size
        summary: dict[str, Any] = {"width": extent(sides[:, 0]), "height": extent(sides[:, 1])}
        summary["num_below_input"] = int(((sides[:, 0] < width) | (sides[:, 1] < height)).sum())
        return summary

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; pictures by name, part and class."""
        return {
            "root": str(self.data.root),
            "split": self.data.split,
            "obstacles": list(self.obstacles),
            "num_pictures": {"train": len(self.data.train), "val": len(self.data.val)},
            "classes": [count._asdict() for count in self.classes],
            "imbalance": self.imbalance,
            "input_size": list(self.input_size),
            "sizes": self.sizes,
            "formats": self.formats,
            "modes": self.modes,
            "unreadable": [{**_plain(picture), "reason": picture.facts.fault} for picture in self.unreadable],
            "near_empty": [{**_plain(picture), "spread": picture.facts.spread} for picture in self.near_empty],
            "duplicates": [group.to_dict() for group in self.duplicates],
            "num_leaked": len(self.leaked),
            "names": [dataclasses.asdict(fault) for fault in self.name_faults],
            "skipped": [{"name": one_line(path), "reason": reason} for path, reason in self.data.skipped],
        }


def check_data(
    data: PictureData,
    *,
    obstacles: Sequence[str] = (),
    input_size: tuple[int, int] | None = None,
    num_workers: int = 0,
    on_picture: Callable[[int, int], None] | None = None,
) -> DataReport:
    """Look at every picture of a data set, and at what they are to each other.

    Args:
        data: The pictures, split as a training would.
        obstacles: What `find_data` told of the source that keeps a training from beginning.
        input_size: Height and width of the network's input in pixels; None for the default of 224.
        num_workers: Processes that decode; 0 decodes in this one.
        on_picture: Called with the pictures done and all there are.

    Returns:
        All findings.

    Raises:
        ConfigError: If num_workers is negative.
    """
    samples = (*data.train, *data.val)
    facts = inspect_pictures(samples, num_workers=num_workers, on_picture=on_picture)
    pictures = tuple(
        CheckedPicture(
            name=one_line(relative_name(sample, data.root)),
            part="train" if position < len(data.train) else "val",
            class_name=data.class_names[sample.target],
            sample=sample,
            facts=fact,
        )
        for position, (sample, fact) in enumerate(zip(samples, facts, strict=True))
    )
    name_faults = (*class_name_faults(data.class_names), *file_name_faults(pictures))
    input_size = input_size or Preprocessing().image_size
    return DataReport(
        pictures=pictures,
        duplicates=tuple(find_duplicates(pictures)),
        data=data,
        name_faults=name_faults,
        input_size=input_size,
        obstacles=tuple(obstacles),
    )


def find_duplicates(pictures: Sequence[CheckedPicture]) -> list[Duplicates]:
    """Exact copies, then pictures that look alike; near-empty ones look all alike and are left out of those."""
    by_pixels = exact_groups([_pixels(picture) or f"unreadable {picture.name}" for picture in pictures])
    copies = {group[0]: group for group in by_pixels}
    repeated = {position for group in by_pixels for position in group[1:]}
    shown = [
        position
        for position, picture in enumerate(pictures)
        if not picture.facts.fault and picture.facts.spread >= NEAR_EMPTY_SPREAD and position not in repeated
    ]
    prints = [print_ for position in shown if (print_ := pictures[position].facts.fingerprint) is not None]
    pairs = near_pairs([one.coarse for one in prints], [one.fine for one in prints])
    found = [Duplicates("exact", tuple(pictures[position] for position in group)) for group in by_pixels]
    for group in connected(pairs):
        positions = [copy for index in group for copy in copies.get(shown[index], [shown[index]])]
        found.append(Duplicates("near", tuple(pictures[position] for position in positions)))
    return sorted(found, key=lambda group: (not group.leaks, not group.contradicts, group.kind != "exact"))


def _pixels(picture: CheckedPicture) -> str:
    return picture.facts.fingerprint.pixels if picture.facts.fingerprint is not None else ""


def relative_name(sample: Sample, root: Path) -> str:
    """A picture for a reader, from the source's folder on where it lies there."""
    path = sample.path
    return sample._replace(path=path.relative_to(root) if path.is_relative_to(root) else path).name


def extent(values: NDArray[Any]) -> dict[str, float]:
    """Least, median and largest of whole numbers."""
    return {"min": int(values.min()), "median": float(np.median(values)), "max": int(values.max())}


def _plain(picture: CheckedPicture) -> dict[str, str]:
    return {"name": picture.name, "part": picture.part, "class": picture.class_name}
