"""Where `detect predict` writes: names without clashes, nobody's files written over, COCO's JSON of it all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple

from effvit.data.pictures import list_pictures
from effvit.detection.coco_json import result_rows, write_rows
from effvit.detection.kept import Packed, pack
from effvit.detection.predict import count_things
from effvit.errors import ConfigError, DataError, RunError
from effvit.files import atomic_path, read_json, remove, write_json

if TYPE_CHECKING:
    from PIL.Image import Image

    from effvit.detection.config import DetectorConfig
    from effvit.detection.records import Detections
    from effvit.detection.video import VideoSummary

_JPEG_SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".jfif"})
_QUALITY = 92
_MADE_BY = "effvit detect predict"
_DRAWN = "drawn"
"""Folder of the drawn pictures and the video, in the output folder."""


class Input(NamedTuple):
    """A picture, and its place in the output."""

    path: Path
    place: PurePosixPath
    """Below the folder of the drawn pictures."""


def list_inputs(images: Sequence[Path]) -> list[Input]:
    """The pictures of files and folders, each once, with the place of its drawing: a folder keeps its sub-folders.

    A JPEG is drawn as JPEG, everything else as PNG. Of several folders each keeps its name. Places that would be
    the same, also on disks that do not tell `A` from `a`, are told apart by a number.

    Raises:
        DataError: If a path does not exist, or a folder has no picture.
    """
    seen: set[Path] = set()
    taken: set[str] = set()
    inputs = []
    for image in images:
        for path in list_pictures([image]):
            if path not in seen:
                seen.add(path)
                below = path.relative_to(image) if image.is_dir() else Path(path.name)
                if image.is_dir() and len(images) > 1:
                    below = Path(image.resolve().name) / below
                inputs.append(Input(path, _free_place(below, taken)))
    return inputs


def _free_place(below: Path, taken: set[str]) -> PurePosixPath:
    suffix = below.suffix if below.suffix.lower() in _JPEG_SUFFIXES else ".png"
    number, place = 1, PurePosixPath(*below.parts).with_suffix(suffix)
    while str(place).casefold() in taken:
        number += 1
        place = place.with_name(f"{below.stem}-{number}{suffix}")
    taken.add(str(place).casefold())
    return place


def check_output(out: Path, inputs: Sequence[Path]) -> None:
    """Refuse a folder that holds anything else than an earlier prediction, or that lies among the inputs.

    Raises:
        ConfigError: If it lies among the inputs, or an input in it.
        RunError: If it holds something else.
    """
    place = out.resolve()
    for path in inputs:
        source = path.resolve()
        if path.is_dir() and place.is_relative_to(source):
            raise ConfigError(f"--out {out} lies among the pictures of {path}; give another folder")
        if source.is_relative_to(place) and out.is_dir():
            raise ConfigError(f"--out {out} holds {path}, which would be among the results; give another folder")
    if out.is_dir() and any(out.iterdir()) and not is_prediction(out):
        raise RunError(
            f"{out} is not empty and has no images.json of an earlier prediction: give a new or an empty folder"
            " with --out"
        )


def is_prediction(folder: Path) -> bool:
    """Whether `detect predict` wrote this folder."""
    return bool(_earlier(folder))


def _earlier(folder: Path) -> dict[str, Any]:
    """What an earlier prediction wrote down; empty if there is none."""
    try:
        values = read_json(folder / "images.json")
        return values if values["info"]["description"].startswith(_MADE_BY) else {}
    except (RunError, KeyError, TypeError, AttributeError):
        return {}


class PredictionFolder:
    """The output folder while it is filled.

    Leaving it writes the JSON, after Ctrl-C or an error too: with what was done until then. Drawings of an earlier
    prediction are removed when it is entered; what others put there stays.

    Args:
        folder: The folder, checked by `check_output`, and there.
        config: Of the detector: names and ids of the classes.
        model: What the user called the detector.
        score: Threshold that was asked for.
    """

    def __init__(self, folder: Path, config: DetectorConfig, *, model: str, score: float) -> None:
        self.rows: list[dict[str, Any]] = []
        """What is said of each input: path, drawing, counts of things, the surest score, error."""
        self._folder, self._config = folder, config
        self._info = {"description": _MADE_BY, "model": model, "score_threshold": score}
        self._images: list[dict[str, Any]] = []
        self._results: list[dict[str, Any]] = []

    def __enter__(self) -> PredictionFolder:
        for image in _earlier(self._folder).get("images", []):
            drawing = self._folder / str(image.get("drawn", ""))
            inside = drawing.resolve().is_relative_to((self._folder / _DRAWN).resolve())
            if inside and drawing.is_file():
                remove(drawing)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        with suppress(OSError):
            (self._folder / _DRAWN).rmdir()  # if nothing came into it
        if self._images or kind is None:
            categories = [
                {"id": number, "name": name}
                for number, name in zip(self._config.ids, self._config.class_names, strict=True)
            ]
            about = {"info": self._info, "images": self._images, "categories": categories, "annotations": []}
            write_json(self._folder / "images.json", about)
            write_rows(self._folder / "detections.json", self._results)

    @property
    def written(self) -> str:
        """What was drawn, for a sentence."""
        drawn = sum(row["drawn"] is not None for row in self.rows)
        return f"{drawn} drawn picture{'' if drawn == 1 else 's'}" if drawn else "no drawn pictures"

    def add_picture(self, source: Input, size: tuple[int, int], detections: Detections, drawn: Image) -> None:
        """Write a drawn picture, and keep what was found on it.

        Args:
            source: The picture.
            size: Its width and height, upright.
            detections: On it.
            drawn: With them.
        """
        place = f"{_DRAWN}/{source.place}"
        path = self._folder / place
        _make_folder(path.parent)
        with atomic_path(path) as temporary:
            # The suffix may be jfif, which Pillow writes, or one it does not know in capitals.
            kind = "JPEG" if path.suffix.lower() in _JPEG_SUFFIXES else "PNG"
            drawn.save(temporary, kind, quality=_QUALITY)
        self._keep({"file_name": str(source.path)}, size, detections, place)
        self._row(
            source.path,
            place,
            count_things(detections, self._config.class_names),
            float(detections.scores[0]) if len(detections) else None,
        )

    def add_unreadable(self, source: Input, error: str) -> None:
        """Say that a picture could not be read."""
        self.rows.append({"path": str(source.path), "drawn": None, "counts": {}, "top_score": None, "error": error})

    def add_video(
        self, video: Path, make: Callable[[Path, Callable[[int, Detections], None]], VideoSummary]
    ) -> VideoSummary:
        """Write a video, and keep what was found on its frames: an image each, with its number.

        Args:
            video: The video that is read.
            make: Writes the drawn one to a path, and calls with each frame's number and detections.
        """
        taken = {str(image["drawn"]).casefold() for image in self._images}
        place, number = f"{_DRAWN}/{video.stem}.mp4", 1
        while place.casefold() in taken:
            number += 1
            place = f"{_DRAWN}/{video.stem}-{number}.mp4"
        _make_folder((self._folder / place).parent)
        frames: list[tuple[int, Packed]] = []  # in little memory, and given up with the video if that fails
        summary = make(self._folder / place, lambda frame, found: frames.append((frame, pack(found))))
        size = (summary.width, summary.height)
        for frame, found in frames:
            self._keep({"file_name": str(video), "frame": frame}, size, found, place)
        self._row(video, place, summary.counts, summary.top_score)
        self.rows[-1].update(num_frames=summary.num_frames, frames_per_second=summary.frames_per_second)
        return summary

    def check_any_readable(self) -> None:
        """Raise a `DataError` if there was not one picture that could be read."""
        if self.rows and all(row["error"] for row in self.rows):
            raise DataError(f"none of {len(self.rows)} pictures could be read; the first: {self.rows[0]['error']}")

    def _keep(self, image: dict[str, Any], size: tuple[int, int], found: Detections | Packed, place: str) -> None:
        number = len(self._images) + 1
        width, height = size
        self._images.append({"id": number, **image, "width": width, "height": height, "drawn": place})
        self._results.extend(result_rows(number, found, self._config.ids))

    def _row(self, path: Path, place: str, counts: dict[str, int], top_score: float | None) -> None:
        row = {"path": str(path), "drawn": place, "counts": counts, "top_score": top_score, "error": None}
        self.rows.append(row)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"cannot make folder {folder}: {error.strerror or error}") from error
