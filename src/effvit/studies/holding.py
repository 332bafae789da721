"""One process for one run folder: a second command in the same study is told, instead of writing into its files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from effvit.errors import RunError


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Hold a place that is about to be written, until the block ends or the process does.

    The system keeps the lock, beside the place, so a killed process leaves nothing that must be cleared away. Where
    the system has none (Windows), nothing is held.

    Args:
        path: The place; its parent is there.

    Raises:
        RunError: If another process holds it.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    name = path.with_name(f".{path.name}.lock")
    with name.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunError(
                f"{path} is being trained by another process; wait for it, or give another folder"
            ) from error
        try:
            yield
        finally:
            name.unlink(missing_ok=True)
