"""What is wrong, or odd, with a COCO file and its pictures: `effvit data check coco.json`."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from effvit.data.check import CheckedPicture, PicturesReport, extent, find_duplicates, relative_name
from effvit.data.coco_pictures import frame_is_unclear, size_fault
from effvit.data.coco_records import CocoData, CocoPicture
from effvit.data.coco_splits import split_coco
from effvit.data.inspection import inspect_pictures
from effvit.data.name_faults import NameFault, class_name_faults, file_name_faults
from effvit.data.samples import Sample, one_line
from effvit.errors import DataError

THING_SIZES = {"small": 32**2, "medium": 96**2, "large": float("inf")}
"""COCO's sizes of things, and the number of pixels each ends before."""


class ThingCount(NamedTuple):
    """How often a class occurs."""

    name: str
    category_id: int
    num_things: int
    """Without crowds."""
    num_pictures: int
    """With at least one thing or crowd of it."""
    num_crowds: int


@dataclass(frozen=True)
class CocoReport(PicturesReport):
    """Everything a check found in a COCO file; its pictures are in the order of the file's."""

    data: CocoData
    name_faults: tuple[NameFault, ...]
    obstacles: tuple[str, ...] = ()
    """What keeps a training from beginning, a line each."""

    @property
    def pairs(self) -> list[tuple[CocoPicture, CheckedPicture]]:
        """What the file says of each picture, and what its pixels do."""
        return list(zip(self.data.pictures, self.pictures, strict=True))

    @property
    def classes(self) -> list[ThingCount]:
        """How often each class occurs, in the classes' order."""
        things: Counter[int] = Counter()
        crowds: Counter[int] = Counter()
        pictures: Counter[int] = Counter()
        for picture in self.data.pictures:
            things.update(thing.label for thing in picture.things if not thing.is_crowd)
            crowds.update(thing.label for thing in picture.things if thing.is_crowd)
            pictures.update({thing.label for thing in picture.things})
        return [
            ThingCount(name, category_id, things[label], pictures[label], crowds[label])
            for label, (name, category_id) in enumerate(zip(self.data.class_names, self.data.category_ids, strict=True))
        ]

    @property
    def num_with_mask(self) -> int:
        """Things, crowds left out, with a usable segmentation."""
        things = [thing for picture in self.data.pictures for thing in picture.things]
        return sum(not thing.is_crowd and thing.segmentation is not None for thing in things)

    @property
    def thing_sizes(self) -> dict[str, int]:
        """Things, crowds left out, of each of COCO's sizes before anything is resized."""
        areas = [thing.area for picture in self.data.pictures for thing in picture.things if not thing.is_crowd]
        sizes = Counter(next(size for size, end in THING_SIZES.items() if area < end) for area in areas)
        return {size: sizes[size] for size in THING_SIZES}

    @property
    def empty(self) -> list[CheckedPicture]:
        """Pictures with nothing on them."""
        return [checked for picture, checked in self.pairs if not picture.things]

    @property
    def mismatched(self) -> list[tuple[CheckedPicture, str]]:
        """Pictures of another size than the file says, and the sizes: their boxes are in the wrong places."""
        faults = [
            (checked, size_fault(picture, (checked.facts.width, checked.facts.height), checked.facts.orientation))
            for picture, checked in self.pairs
            if not checked.facts.fault
        ]
        return [(checked, fault) for checked, fault in faults if fault]

    @property
    def unclear(self) -> list[CheckedPicture]:
        """Pictures that are turned upright, and whose boxes may have been meant for how they are stored."""
        return [
            checked
            for picture, checked in self.pairs
            if frame_is_unclear(picture, (checked.facts.width, checked.facts.height), checked.facts.orientation)
        ]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; pictures by name, and by the part that a training would put them in."""
        pictures = self.data.pictures
        parts = Counter(picture.part for picture in self.pictures)
        classes = self.classes
        return {
            "source": str(self.data.source),
            "root": str(self.data.root),
            "has_masks": self.data.has_masks,
            "obstacles": list(self.obstacles),
            "num_pictures": {part: parts[part] for part in ("train", "val")},
            "num_empty": len(self.empty),
            "num_missing": self.data.num_missing,
            "num_things": sum(count.num_things for count in classes),
            "num_with_mask": self.num_with_mask,
            "num_crowds": sum(count.num_crowds for count in classes),
            "num_left_out": self.data.num_left_out,
            "num_cut": self.data.num_cut,
            "classes": [count._asdict() for count in classes],
            "thing_sizes": self.thing_sizes,
            "things_per_picture": extent(np.array([len(picture.things) for picture in pictures])),
            "sizes": {
                "width": extent(np.array([picture.width for picture in pictures])),
                "height": extent(np.array([picture.height for picture in pictures])),
            },
            "formats": self.formats,
            "modes": self.modes,
            "empty": [_plain(picture) for picture in self.empty],
            "unreadable": [{**_plain(picture), "reason": picture.facts.fault} for picture in self.unreadable],
            "mismatched": [{**_plain(picture), "reason": fault} for picture, fault in self.mismatched],
            "unclear": [{**_plain(picture), "orientation": picture.facts.orientation} for picture in self.unclear],
            "near_empty": [{**_plain(picture), "spread": picture.facts.spread} for picture in self.near_empty],
            "duplicates": [
                {"kind": group.kind, "leaks": group.leaks, "pictures": [_plain(picture) for picture in group.pictures]}
                for group in self.duplicates
            ],
            "num_leaked": len(self.leaked),
            "names": [dataclasses.asdict(fault) for fault in self.name_faults],
            "skipped": [{"name": one_line(path), "reason": reason} for path, reason in self.data.skipped],
        }


def check_coco(
    data: CocoData,
    *,
    obstacles: Sequence[str] = (),
    val_fraction: float = 0.2,
    seed: int = 0,
    num_workers: int = 0,
    on_picture: Callable[[int, int], None] | None = None,
) -> CocoReport:
    """Look at every picture of a COCO file, at what the file says of it, and at what pictures are to each other.

    Args:
        data: The pictures.
        obstacles: What reading the file found that keeps a training from beginning.
        val_fraction: Share that a training would hold out, see `split_coco`.
        seed: Seed of that choice.
        num_workers: Processes that decode; 0 decodes in this one.
        on_picture: Called with the pictures done and all there are.

    Raises:
        ConfigError: If num_workers is negative, or val_fraction or seed is out of range.
    """
    obstacles = list(obstacles)
    try:
        held_out = {picture.image_id for picture in split_coco(data, val_fraction, seed)[1]}
    except DataError as error:
        obstacles.append(str(error))
        held_out = set()
    samples = [Sample(picture.path, target=0) for picture in data.pictures]
    facts = inspect_pictures(samples, num_workers=num_workers, on_picture=on_picture)
    pictures = tuple(
        CheckedPicture(
            name=one_line(relative_name(sample, data.root)),
            part="val" if picture.image_id in held_out else "train",
            class_name="",
            sample=sample,
            facts=fact,
        )
        for picture, sample, fact in zip(data.pictures, samples, facts, strict=True)
    )
    name_faults = (*class_name_faults(data.class_names), *file_name_faults(pictures))
    return CocoReport(
        pictures=pictures,
        duplicates=tuple(find_duplicates(pictures)),
        data=data,
        name_faults=name_faults,
        obstacles=tuple(obstacles),
    )


def _plain(picture: CheckedPicture) -> dict[str, str]:
    return {"name": picture.name, "part": picture.part}
