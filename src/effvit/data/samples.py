"""One labelled picture, wherever it lies: a file of its own, or a stretch of a tar shard."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple


class Sample(NamedTuple):
    """One labelled picture."""

    path: Path
    """The picture's file, or the shard it lies in."""
    target: int
    """Class index, a position in the class names."""
    member: str = ""
    """Name within the shard; empty for a file of its own."""
    offset: int = 0
    """Where the picture begins in the shard, in bytes."""
    num_bytes: int = 0
    """Length in the shard, in bytes; 0 for a file of its own."""

    @property
    def name(self) -> str:
        """The picture for a reader: its path, or `shard.tar/member`."""
        return f"{self.path}/{self.member}" if self.member else str(self.path)
