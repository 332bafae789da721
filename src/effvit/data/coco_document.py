"""A COCO file as it was written: is it one, and does each of its entries say what it must?"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from effvit.data.samples import is_unicode, listed, one_line, refuse
from effvit.errors import DataError, first_line

SECTIONS = ("images", "annotations", "categories")
_OTHER_KINDS = {
    "caption": "its annotations are captions, which have no boxes",
    "segments_info": "it is a panoptic file, whose annotations have no boxes of their own",
}
"""What the first annotation of a file of another kind has."""


class Category(NamedTuple):
    """One entry of `categories`."""

    id: int
    name: str


class ImageEntry(NamedTuple):
    """One entry of `images`."""

    id: int
    file_name: str
    width: int
    height: int


class Annotation(NamedTuple):
    """One entry of `annotations`; the values whose faults concern only itself are as they were written."""

    id: int
    image_id: int
    category_id: int
    bbox: Any
    area: Any
    is_crowd: bool
    segmentation: Any


class Document(NamedTuple):
    """The parts of a COCO file that detection needs."""

    images: list[ImageEntry]
    annotations: list[Annotation]
    categories: list[Category]


def is_coco(source: Path | str) -> bool:
    """Whether a source of pictures is named like a COCO file."""
    return Path(source).suffix.lower() == ".json" and not Path(source).is_dir()


def read_document(source: Path, on_obstacle: Callable[[str], None]) -> Document:
    """Read a COCO file and check its structure.

    Args:
        source: The file.
        on_obstacle: Called with what keeps a training from beginning though it is clear which pictures are meant:
            annotation ids or category names that occur twice.

    Raises:
        DataError: If the file cannot be read, is no COCO file, has no picture or no category, an entry lacks a
            value, or an id of a picture or category occurs twice.
    """
    values = _read_json(source)
    place = one_line(source)
    if not isinstance(values, dict):
        kind = f"a list of {len(values)}, as detections are saved" if isinstance(values, list) else "a single value"
        raise DataError(f"{place} is {kind}; a COCO file is an object with {', '.join(SECTIONS)}")
    absent = [name for name in SECTIONS if not isinstance(values.get(name), list)]
    if absent or _lacks_boxes(values["annotations"]):
        what = f"has no list of {' and of '.join(absent)}" if absent else "has annotations, and none of them a bbox"
        raise DataError(f"{place} {what}{_other_kind(values.get('annotations'))}; it has {listed(list(values))}")
    faults: list[str] = []
    document = Document(
        list(_images(values["images"], faults)),
        list(_annotations(values["annotations"], faults)),
        sorted(_categories(values["categories"], faults)),
    )
    if faults:
        raise DataError(f"{place}: {_count(len(faults), 'faulty entry', 'faulty entries')}: {listed(faults)}")
    for name, entries in (("pictures", document.images), ("categories", document.categories)):
        if not entries:
            raise DataError(f"{place} has no {name}")
        _refuse_twice(f"{place}: ids of {name}", [entry.id for entry in entries], refuse)
    _refuse_twice(f"{place}: ids of annotations", [entry.id for entry in document.annotations], on_obstacle)
    _refuse_twice(f"{place}: names of categories", [entry.name for entry in document.categories], on_obstacle)
    return document


def _read_json(source: Path) -> Any:
    if not str(source).strip() or source == Path():
        raise DataError("an empty name stands for no COCO file")
    try:
        return json.loads(source.read_bytes())
    except FileNotFoundError as error:
        raise DataError(f"no such COCO file: {one_line(source)}") from error
    except OSError as error:
        raise DataError(f"cannot read COCO file {one_line(source)}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{one_line(source)} is not JSON: {one_line(first_line(error))}") from error


def _other_kind(annotations: Any) -> str:
    """What kind of file this is if it is none of boxes, by its first annotation; empty if nothing tells."""
    first = annotations[0] if isinstance(annotations, list) and annotations else None
    found = [what for key, what in _OTHER_KINDS.items() if isinstance(first, dict) and key in first]
    return f": {found[0]}" if found else ""


def _lacks_boxes(annotations: Sequence[Any]) -> bool:
    objects = [entry for entry in annotations if isinstance(entry, dict)]
    return bool(objects) and not any("bbox" in entry for entry in objects)


def _images(entries: Iterable[Any], faults: list[str]) -> Iterator[ImageEntry]:
    for place, entry in _objects("images", entries, ("id", "file_name", "width", "height"), faults):
        numbers = [_whole(entry[key]) for key in ("id", "width", "height")]
        image_id, width, height = numbers
        name = entry["file_name"]
        if image_id is None:
            faults.append(f"{place}.id must be a whole number, got {_short(entry['id'])}")
        elif not isinstance(name, str) or not name.strip():
            faults.append(f"{place}.file_name must be a name, got {_short(name)}")
        elif width is None or height is None or min(width, height) < 1:
            size = f"{_short(entry['width'])} and {_short(entry['height'])}"
            faults.append(f"{place}: width and height must be whole numbers from 1, got {size}")
        else:
            yield ImageEntry(image_id, name, width, height)


def _annotations(entries: Iterable[Any], faults: list[str]) -> Iterator[Annotation]:
    for place, entry in _objects("annotations", entries, ("id", "image_id", "category_id"), faults):
        ids = [_whole(entry[key]) for key in ("id", "image_id", "category_id")]
        own_id, image_id, category_id = ids
        crowd = entry.get("iscrowd", 0)
        if own_id is None or image_id is None or category_id is None:
            wrong = ("id", "image_id", "category_id")[ids.index(None)]
            faults.append(f"{place}.{wrong} must be a whole number, got {_short(entry[wrong])}")
        elif crowd not in (0, 1):
            faults.append(f"{place}.iscrowd must be 0 or 1, got {_short(crowd)}")
        else:
            values = (entry.get("bbox"), entry.get("area"), bool(crowd), entry.get("segmentation"))
            yield Annotation(own_id, image_id, category_id, *values)


def _categories(entries: Iterable[Any], faults: list[str]) -> Iterator[Category]:
    for place, entry in _objects("categories", entries, ("id", "name"), faults):
        own_id = _whole(entry["id"])
        name = entry["name"]
        if own_id is None:
            faults.append(f"{place}.id must be a whole number, got {_short(entry['id'])}")
        elif not isinstance(name, str) or not name.strip() or not is_unicode(name):
            faults.append(f"{place}.name must be a name in UTF-8, got {_short(name)}")
        else:
            yield Category(own_id, name)


def _objects(
    section: str, entries: Iterable[Any], keys: Sequence[str], faults: list[str]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The entries that are objects and have the keys, each with its place; what the others lack goes to the faults."""
    for position, entry in enumerate(entries):
        place = f"{section}[{position}]"
        if not isinstance(entry, dict):
            faults.append(f"{place} must be an object, got {_short(entry)}")
            continue
        absent = [key for key in keys if key not in entry]
        if absent:
            faults.append(f"{place} has no {' and no '.join(absent)}")
            continue
        yield place, entry


def _whole(value: Any) -> int | None:
    """A whole number, also as tools write it that know only floating point; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return int(value) if value == value and abs(value) < 2**63 and value == int(value) else None


def _refuse_twice(what: str, values: Iterable[int | str], on_obstacle: Callable[[str], None]) -> None:
    twice = [value for value, count in Counter(values).items() if count > 1]
    if twice:
        on_obstacle(f"{what} must all be different, and some occur more than once: {listed(twice)}")


def _count(count: int, one: str, many: str) -> str:
    return f"{count} {one if count == 1 else many}"


def _short(value: Any) -> str:
    text = f"{value!r:.60}"
    return text if len(text) < 60 else f"{text}..."
