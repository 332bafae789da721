"""The description inside a `.pt2` archive: one record among torch's own, under `extra/`, where torch keeps such."""

from __future__ import annotations

import json
from pathlib import Path

from torch.export.pt2_archive import PT2ArchiveReader, PT2ArchiveWriter

from effvit.deploy.metadata import FileMetadata
from effvit.errors import WeightsError, first_line
from effvit.files import remove

_RECORD = "extra/effvit.json"
_WRITTEN_BY_TORCH = ".data/"
"""Records under this are made by the writer itself."""
COMPILED = "data/aotinductor/"
"""Records under this are machine code."""


def describe_archive(path: Path, metadata: FileMetadata) -> None:
    """Write the metadata into an archive; every other record is copied as it is."""
    reader = PT2ArchiveReader(str(path))
    copy = path.with_name(f"{path.name}.copy")
    try:
        with PT2ArchiveWriter(str(copy)) as writer:
            for name in reader.get_file_names():
                if name != _RECORD and not name.startswith(_WRITTEN_BY_TORCH) and not writer.has_record(name):
                    writer.write_bytes(name, reader.read_bytes(name))
            writer.write_string(_RECORD, json.dumps(metadata.to_properties(), ensure_ascii=False))
        copy.replace(path)
    finally:
        remove(copy)


def read_archive(path: Path) -> tuple[FileMetadata, bool]:
    """Read the metadata of an archive, empty if it has none, and whether it holds machine code.

    Raises:
        WeightsError: If it is not such an archive, or the metadata is damaged.
    """
    try:
        reader = PT2ArchiveReader(str(path))
        names = reader.get_file_names()
        properties = json.loads(reader.read_string(_RECORD)) if _RECORD in names else {}
    except (AssertionError, RuntimeError, ValueError) as error:
        raise WeightsError(f"{path} is not a .pt2 archive of torch: {first_line(error)}") from error
    return FileMetadata.from_properties(properties), any(name.startswith(COMPILED) for name in names)
