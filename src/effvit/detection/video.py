"""Find things on every frame of a video, and write the video with them drawn in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from effvit.data.samples import one_line
from effvit.detection.drawing import draw_detections
from effvit.detection.extras import import_extra
from effvit.detection.finders import Finder
from effvit.detection.predict import check_score, find_things
from effvit.detection.records import Detections
from effvit.errors import DataError, RunError, first_line
from effvit.files import atomic_path
from effvit.silence import silence

VIDEO_SUFFIX = ".mp4"
_CODECS = ("avc1", "mp4v")
"""H.264 plays everywhere, but not every build of the libraries writes it; MPEG-4 is always there."""


@dataclass(frozen=True, kw_only=True)
class VideoSummary:
    """What was found in a video."""

    path: Path
    """The video that was read."""
    num_frames: int
    """Frames that were read and written."""
    num_unread: int
    """Frames that the video says it has and that could not be decoded: it is cut off."""
    frames_per_second: float
    """As in the video, kept."""
    width: int
    height: int
    counts: dict[str, int]
    """Things of each class, summed over the frames, the most frequent first."""
    top_score: float | None
    """The surest; None if nothing was found."""


def predict_video(
    finder: Finder,
    file: Path | str,
    out: Path | str,
    *,
    score: float,
    on_frame: Callable[[int, int], None] | None = None,
    keep: Callable[[int, Detections], None] | None = None,
) -> VideoSummary:
    """Write a video as MP4 with what is found on each of its frames; its sound is left out.

    The frame rate and the size stay. The file is written beside its name and renamed when it is whole.

    Args:
        finder: A detector, or an exported one.
        file: The video.
        out: The video to write, ending in .mp4.
        score: Things found less surely are left out, 0..1.
        on_frame: Called after each with the number done and in all; in all is 0 where the video does not say.
        keep: Called with each frame's number, from 0, and what was found on it.

    Raises:
        ConfigError: If score is not in 0..1, or the extra `detection` is not installed.
        DataError: If the video is missing, cannot be decoded, or does not say its frame rate.
        RunError: If the place cannot be written, or a box or a score is not finite.
    """
    check_score(score)
    file, out = Path(file), Path(out)
    library = import_extra("supervision", "reading and writing videos")
    info = _info(library, file)
    names, counts, top_score, done = finder.config.class_names, Counter[int](), None, 0
    with atomic_path(out) as temporary, _sink(library, temporary, info) as sink:
        for done, frame in enumerate(_frames(library, file), start=1):
            rgb = np.ascontiguousarray(frame[:, :, ::-1])
            pixels = torch.from_numpy(rgb).permute(2, 0, 1).contiguous()  # (H, W, 3) -> (3, H, W)
            found = find_things(finder, pixels, score=score, name=f"frame {done} of {one_line(file)}")
            drawn = np.asarray(draw_detections(rgb, found, names, enlarge=False))
            sink.write_frame(np.ascontiguousarray(drawn[:, :, ::-1]))
            counts.update(found.labels.tolist())
            if len(found):
                top_score = max(top_score or 0.0, float(found.scores[0]))
            if keep is not None:
                keep(done - 1, found)
            if on_frame is not None:
                on_frame(done, max(info.total_frames or 0, 0))
        if not done:
            raise DataError(f"cannot read video {one_line(file)}: it has no frame that can be decoded")
    return VideoSummary(
        path=file,
        num_frames=done,
        num_unread=max((info.total_frames or 0) - done, 0),
        frames_per_second=float(info.fps),
        width=info.width,
        height=info.height,
        counts={names[label]: count for label, count in counts.most_common()},
        top_score=top_score,
    )


def _info(library: Any, file: Path) -> Any:
    """Size, frame rate and number of frames as the video says."""
    if not file.is_file():
        raise DataError(f"no such video: {one_line(file)}")
    try:
        with silence():
            info = library.VideoInfo.from_video_path(str(file))
    except Exception as error:  # supervision raises plain exceptions
        raise DataError(f"cannot read video {one_line(file)}: it is no video, or damaged") from error
    if not info.fps > 0 or not np.isfinite(info.fps) or min(info.width, info.height) < 1:
        raise DataError(
            f"cannot read video {one_line(file)}: it says {info.fps:g} frames a second of"
            f" {info.width} x {info.height} pixels"
        )
    return info


def _frames(library: Any, file: Path) -> Iterator[Any]:
    """The frames, (H, W, 3), BGR."""
    try:
        yield from library.get_video_frames_generator(str(file))
    except EOFError as error:
        raise DataError(f"cannot read video {one_line(file)}: {first_line(error)}") from error


@contextmanager
def _sink(library: Any, path: Path, info: Any) -> Iterator[Any]:
    """The file that frames are written to, by the first codec that there is and that takes the size."""
    even = info.width % 2 == 0 and info.height % 2 == 0
    with ExitStack() as stack:
        for codec in _CODECS if even else _CODECS[1:]:
            try:
                with silence():
                    sink = stack.enter_context(library.VideoSink(str(path), info, codec=codec))
            except RuntimeError:
                continue
            yield sink
            return
    raise RunError(f"cannot write {path}: no codec of {', '.join(_CODECS)} can be used here")
