"""Real photos as class folders, a few at a time."""

from __future__ import annotations

import tarfile
from collections import Counter
from pathlib import Path, PurePosixPath


def unpack_photos(data_dir: Path, folder: Path, *, num_classes: int, per_class: int, part: str = "train") -> Path:
    """Write the first photos of the first classes of the grocery store set as `folder/CLASS/*.jpg`."""
    counts: Counter[str] = Counter()
    with tarfile.open(data_dir / "grocery_store" / f"{part}.tar") as archive:
        for member in archive:
            _, *rest = PurePosixPath(member.name).parts
            if not member.isfile() or len(rest) != 2 or counts[rest[0]] == per_class:
                continue
            class_name, file_name = rest
            if class_name not in counts and len(counts) == num_classes:
                break
            counts[class_name] += 1
            content = archive.extractfile(member)
            assert content is not None
            (folder / class_name).mkdir(parents=True, exist_ok=True)
            (folder / class_name / file_name).write_bytes(content.read())
    assert list(counts.values()) == [per_class] * num_classes, counts
    return folder
