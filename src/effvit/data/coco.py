"""COCO files: pictures with boxes, and with masks where the file has them.

What cannot be used is left out and named, one by one; what makes it unclear what was meant stops, in one line.
docs/data.md lists what becomes of what.
"""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from effvit.data.coco_boxes import cut_box, positive
from effvit.data.coco_document import Annotation, Document, read_document
from effvit.data.coco_document import is_coco as is_coco
from effvit.data.coco_files import MAX_MISSING_SHARE, find_files
from effvit.data.coco_masks import usable_segmentation
from effvit.data.coco_records import CocoData, CocoPicture, CocoThing
from effvit.data.samples import Skipped, listed, one_line, refuse
from effvit.errors import DataError


@contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """A collector that looks again and again through millions of small values, none of them garbage, takes a third."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@_without_garbage_collection()
def read_coco(
    path: Path | str, images: Path | str | None = None, *, on_obstacle: Callable[[str], None] = refuse
) -> CocoData:
    """The pictures of a COCO file and what is on them.

    Args:
        path: The file, with `images`, `annotations` and `categories`.
        images: Folder of the pictures, below which every `file_name` is looked for; None for the file's folder.
        on_obstacle: Called with what keeps a training from beginning though there are pictures to look at: more
            than one picture and more than 1 % missing, ids of annotations, names of categories or file names that
            occur twice, annotations of a category that the file does not list, nothing to learn from. Raises a
            `DataError` unless a caller wants to go on.

    Returns:
        The pictures. Left out and named in `skipped`: missing pictures; annotations of unknown pictures; boxes
        that are no four finite numbers, without area or outside their picture. Boxes partly outside are cut.
        Faulty segmentations are named there too, and their things keep the box.

    Raises:
        DataError: If the file cannot be read or its structure is not COCO's, ids of pictures or categories occur
            twice, a file name leads out of the folder, or no picture is there.
    """
    source = Path(path)
    document = read_document(source, on_obstacle)
    root = source.parent if images is None else Path(images)
    files, skipped = find_files(document.images, root, source, on_obstacle)
    num_missing = len(skipped)
    reader = _AnnotationReader(document, files, source)
    for annotation in document.annotations:
        reader.read(annotation)
    reader.finish(on_obstacle)
    pictures = tuple(
        CocoPicture(files[entry.id], entry.id, entry.height, entry.width, tuple(reader.things[entry.id]))
        for entry in sorted(document.images)
        if entry.id in files
    )
    things = [thing for picture in pictures for thing in picture.things if not thing.is_crowd]
    if not things:
        on_obstacle(
            f"{one_line(source)} has nothing to learn from: of {len(document.annotations)} annotations none is a usable"
            f" box of a single thing"
        )
    return CocoData(
        source=source,
        root=root,
        class_names=tuple(category.name for category in document.categories),
        category_ids=tuple(category.id for category in document.categories),
        pictures=pictures,
        skipped=(*skipped, *reader.skipped),
        num_missing=num_missing,
        num_left_out=reader.num_left_out,
        num_cut=reader.num_cut,
        has_masks=bool(things) and all(thing.segmentation is not None for thing in things),
    )


def with_masks(data: CocoData) -> CocoData:
    """The same for learning masks: a thing without a usable segmentation is left out and named.

    Crowds stay, with or without one: they are not learned.

    Raises:
        DataError: If more than one thing and more than 1 % have none.
    """
    lacking: list[Skipped] = []
    pictures = []
    for picture in data.pictures:
        kept = tuple(thing for thing in picture.things if thing.is_crowd or thing.segmentation is not None)
        pictures.append(picture if len(kept) == len(picture.things) else picture._replace(things=kept))
        lacking += [
            Skipped(picture.path, f"annotation {thing.annotation_id} is left out: it has no usable segmentation")
            for thing in picture.things
            if not thing.is_crowd and thing.segmentation is None
        ]
    num_things = sum(not thing.is_crowd for picture in data.pictures for thing in picture.things)
    if len(lacking) > max(1, MAX_MISSING_SHARE * num_things) or len(lacking) == num_things:
        raise DataError(
            f"{one_line(data.source)} has no masks to learn from: {len(lacking)} of {num_things} things have no usable"
            f" segmentation (allowed: 1, or {MAX_MISSING_SHARE:.0%})"
        )
    return replace(
        data,
        pictures=tuple(pictures),
        skipped=(*data.skipped, *lacking),
        num_left_out=data.num_left_out + len(lacking),
        has_masks=True,
    )


class _AnnotationReader:
    """Turns annotations into things, and keeps account of what cannot be used."""

    def __init__(self, document: Document, files: Mapping[int, Path], source: Path) -> None:
        self.source = source
        self.files = files
        self.images = {entry.id: entry for entry in document.images}
        self.label_of = {category.id: label for label, category in enumerate(document.categories)}
        self.things: dict[int, list[CocoThing]] = {image_id: [] for image_id in files}
        self.skipped: list[Skipped] = []
        self.num_left_out = 0
        self.num_cut = 0
        self.unknown_images: Counter[int] = Counter()
        self.unknown_categories: Counter[int] = Counter()

    def read(self, annotation: Annotation) -> None:
        """Take one annotation, or say why not."""
        image = self.images.get(annotation.image_id)
        label = self.label_of.get(annotation.category_id)
        path = self.files.get(annotation.image_id)
        if image is None:
            self.unknown_images[annotation.image_id] += 1
            return
        if label is None:
            self.unknown_categories[annotation.category_id] += 1
            return
        if path is None:  # left out with its picture
            return
        box = cut_box(annotation.bbox, image.height, image.width)
        name = f"annotation {annotation.id}"
        if isinstance(box, str):
            self.num_left_out += 1
            self.skipped.append(Skipped(path, f"{name} is left out: {box}"))
            return
        self.num_cut += box.was_cut
        segmentation, fault = usable_segmentation(annotation.segmentation, image.height, image.width)
        if fault:
            verdict = "is used without its segmentation" if segmentation is None else "is used with the rest of it"
            self.skipped.append(Skipped(path, f"{name} {verdict}: {fault}"))
        left, top, right, bottom = box.corners
        area = positive(annotation.area) or (right - left) * (bottom - top)
        self.things[image.id].append(
            CocoThing(annotation.id, label, box.corners, area, annotation.is_crowd, segmentation)
        )

    def finish(self, on_obstacle: Callable[[str], None]) -> None:
        """Name the annotations of pictures and categories that the file does not list."""
        for image_id, count in self.unknown_images.items():
            self.skipped.append(
                Skipped(self.source, f"{count} annotations are left out: the file lists no picture with id {image_id}")
            )
        self.num_left_out += self.unknown_images.total()
        if self.unknown_categories:
            ids = [f"{category_id} ({count} times)" for category_id, count in self.unknown_categories.items()]
            on_obstacle(f"{one_line(self.source)} has annotations of categories that it does not list: {listed(ids)}")
            self.skipped.append(Skipped(self.source, f"annotations of unlisted categories are left out: {listed(ids)}"))
            self.num_left_out += self.unknown_categories.total()
