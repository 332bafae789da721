"""COCO files to write with a fault in them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 40, 30
SQUARE = [10, 5, 20, 10]
"""Left, top, width, height of a thing that is well within a picture."""


def image(image_id: int, **changes: Any) -> dict[str, Any]:
    return {"id": image_id, "file_name": f"{image_id}.png", "width": WIDTH, "height": HEIGHT, **changes}


def thing(annotation_id: int, image_id: int, **changes: Any) -> dict[str, Any]:
    return {"id": annotation_id, "image_id": image_id, "category_id": 1, "bbox": SQUARE, "iscrowd": 0, **changes}


def coco(
    images: Sequence[Any] = (image(1), image(2)),
    annotations: Sequence[Any] = (thing(1, 1), thing(2, 2)),
    categories: Sequence[Any] = ({"id": 1, "name": "cat"}, {"id": 7, "name": "dog"}),
) -> dict[str, Any]:
    return {"images": [*images], "annotations": [*annotations], "categories": [*categories]}


def write_coco(folder: Path, document: Any = None, *, pictures: bool = True) -> Path:
    """Write a COCO file, and noise for each picture it names; returns the file."""
    document = coco() if document is None else document
    folder.mkdir(parents=True, exist_ok=True)
    if pictures:
        for entry in document["images"]:
            generator = np.random.default_rng(entry["id"])
            pixels = generator.integers(0, 256, (entry["height"], entry["width"], 3), dtype=np.uint8)
            (folder / entry["file_name"]).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / entry["file_name"])
    path = folder / "instances.json"
    path.write_text(json.dumps(document), encoding="utf-8")
    return path
