"""The pictures of a detector's training: from one COCO file or two to what is learned from and what is held out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from effvit.data.coco import read_coco, with_masks
from effvit.data.coco_records import CocoData, CocoPicture
from effvit.data.coco_splits import coco_split_from_dict, coco_split_to_dict, split_coco
from effvit.data.samples import Skipped
from effvit.errors import DataError
from effvit.files import read_json
from effvit.train.runs import RunFolder, content_of


@dataclass(frozen=True, kw_only=True)
class DetectionData:
    """Training and validation pictures."""

    source: CocoData
    """What the training pictures are from, and without a file of their own the held-out ones too."""
    val_source: CocoData | None
    """What the held-out pictures are from, if that is another file."""
    train: tuple[CocoPicture, ...]
    val: tuple[CocoPicture, ...]

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names by label."""
        return self.source.class_names

    @property
    def category_ids(self) -> tuple[int, ...]:
        """Ids in the COCO file by label."""
        return self.source.category_ids

    @property
    def skipped(self) -> tuple[Skipped, ...]:
        """What is not used, of both files."""
        return (*self.source.skipped, *(() if self.val_source is None else self.val_source.skipped))

    def split_to_dict(self) -> dict[str, Any]:
        """Which pictures are learned from and which held out, plain values for split.json."""
        return coco_split_to_dict(self.source, self.train, self.val, self.val_source)

    def places(self) -> dict[str, str | None]:
        """Where the files and pictures lie, for run.json."""
        val = self.val_source
        return {
            "annotations": str(self.source.source.resolve()),
            "images": str(self.source.root.resolve()),
            "val_annotations": None if val is None else str(val.source.resolve()),
            "val_images": None if val is None else str(val.root.resolve()),
        }


def open_detection_data(
    annotations: Path | str,
    images: Path | str | None,
    *,
    val: Path | str | None = None,
    val_images: Path | str | None = None,
    task: str,
    val_fraction: float,
    seed: int,
) -> DetectionData:
    """Read the COCO files and decide what is held out.

    Args:
        annotations: The COCO file.
        images: Folder of its pictures; None for the file's own.
        val: A COCO file to validate on; None holds a share of the pictures out.
        val_images: Folder of its pictures; None for `images`, or the file's own if there is none.
        task: boxes or masks.
        val_fraction: Share held out without `val`.
        seed: Seed of that choice.

    Raises:
        DataError: If they cannot be used, or there is a thing of a class on the pictures to validate on that the file
            to train on does not list.
    """
    source = read_things(annotations, images, task)
    if val is None:
        train, held_out = split_coco(source, val_fraction, seed)
        return DetectionData(source=source, val_source=None, train=train, val=held_out)
    other = _as_numbered(read_things(val, val_images if val_images is not None else images, task), source)
    return DetectionData(source=source, val_source=other, train=source.pictures, val=other.pictures)


def read_detection_data(run: RunFolder) -> DetectionData:
    """The pictures a run was started with, and its split.

    Raises:
        DataError: If the files or pictures are gone or cannot be used any more.
        RunError: If a picture of the split is no longer in its file, or the folder is no detector's run.
    """
    run.refuse_other_task("detection")
    with content_of(run.path / "run.json"):
        record = run.read_record()
        places, task = dict(record["data"]), str(record["config"]["task"])
        annotations, images = places["annotations"], places["images"]
        val, val_images = places["val_annotations"], places["val_images"]
    # Outside of that: what is wrong with these files is nothing that is wrong with run.json.
    source = read_things(annotations, images, task)
    other = None if val is None else _as_numbered(read_things(val, val_images, task), source)
    with content_of(run.path / "split.json"):
        train, held_out = coco_split_from_dict(read_json(run.path / "split.json"), source, other)
    return DetectionData(source=source, val_source=other, train=train, val=held_out)


def pictures_with_classes(data: CocoData, class_names: Sequence[str]) -> tuple[CocoPicture, ...]:
    """The pictures with labels as a detector numbers them, or a file to train on, by the names of the classes.

    Raises:
        DataError: If there is a thing of a class that the detector does not know.
    """
    labels = {label: class_names.index(name) for label, name in enumerate(data.class_names) if name in class_names}
    used = {thing.label for picture in data.pictures for thing in picture.things}
    unknown = [data.class_names[label] for label in sorted(used - labels.keys())]
    if unknown:
        raise DataError(
            f"{data.source} has things of classes that are not known: {', '.join(unknown[:5])}; known:"
            f" {', '.join(class_names[:5])}" + (", ..." if len(class_names) > 5 else "")
        )
    return tuple(
        picture._replace(things=tuple(thing._replace(label=labels[thing.label]) for thing in picture.things))
        for picture in data.pictures
    )


def read_things(annotations: Path | str, images: Path | str | None, task: str) -> CocoData:
    """A COCO file as a task takes it: for masks without the things that have none."""
    data = read_coco(annotations, images)
    return with_masks(data) if task == "masks" else data


def _as_numbered(other: CocoData, source: CocoData) -> CocoData:
    """A file to validate on with the classes of the file to train on, told by their names: their ids may differ."""
    pictures = pictures_with_classes(other, source.class_names)
    return replace(other, pictures=pictures, class_names=source.class_names, category_ids=source.category_ids)
