"""Where the pictures of a COCO file lie."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath

from effvit.data.coco_document import ImageEntry
from effvit.data.csv_lists import MAX_MISSING_SHARE as MAX_MISSING_SHARE
from effvit.data.samples import Skipped, is_unicode, listed, one_line
from effvit.errors import DataError

MISSING = "listed, but there is no such file"


def find_files(
    images: Sequence[ImageEntry], root: Path, source: Path, on_obstacle: Callable[[str], None]
) -> tuple[dict[int, Path], list[Skipped]]:
    """The pictures' files by image id, and what is missing."""
    if not root.is_dir():
        raise DataError(f"no such folder of pictures: {one_line(root)} (--images)")
    outside = [entry.file_name for entry in images if not _stays_inside(entry.file_name, root)]
    if outside:
        raise DataError(
            f"{one_line(source)}: {len(outside)} file names lead out of the folder of the pictures {one_line(root)}"
            f" (--images): {listed(outside)}"
        )
    files = {entry.id: _file_of(entry.file_name, root) for entry in images}
    twice = [path for path, count in Counter(files.values()).items() if count > 1]
    if twice:
        on_obstacle(f"{one_line(source)} lists pictures under more than one id: {listed(twice)}")
    gone = {entry.id: entry.file_name for entry in images if not _is_there(files[entry.id])}
    if len(gone) == len(images):
        raise DataError(
            f"{one_line(source)}: none of its {len(images)} pictures is in {one_line(root)}, name their folder"
            f" (--images): {listed([*gone.values()])}"
        )
    if len(gone) > max(1, MAX_MISSING_SHARE * len(images)):
        on_obstacle(
            f"{one_line(source)}: {len(gone)} of {len(images)} pictures are missing in {one_line(root)} (allowed: 1, or"
            f" {MAX_MISSING_SHARE:.0%}; --images names another folder): {listed([*gone.values()])}"
        )
    skipped = [Skipped(files[image_id], MISSING) for image_id in sorted(gone)]
    return {image_id: path for image_id, path in files.items() if image_id not in gone}, skipped


def _stays_inside(file_name: str, root: Path) -> bool:
    """Whether a name leads to a place below the folder, links not followed."""
    name = Path(file_name)
    if name.is_absolute():
        return ".." not in name.parts and name.is_relative_to(root.absolute())
    depth = 0
    for part in PurePosixPath(file_name.replace("\\", "/")).parts:
        depth += -1 if part == ".." else 1
        if depth < 0:
            return False
    return not PureWindowsPath(file_name).drive


def _file_of(file_name: str, root: Path) -> Path:
    """The file of a name; one with Windows' separators is read as such where there is no file of just that name."""
    path = root / file_name
    return root / PureWindowsPath(file_name).as_posix() if "\\" in file_name and not _is_there(path) else path


def _is_there(path: Path) -> bool:
    return is_unicode(path) and path.is_file()
