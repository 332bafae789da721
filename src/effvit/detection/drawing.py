"""Detections drawn onto their picture: boxes, masks, names, scores, legible at any size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from effvit.data.drawing import shorten
from effvit.detection.extras import import_extra
from effvit.detection.fonts import font_file
from effvit.detection.records import Detections
from effvit.errors import DataError

COLORS = (
    "#e6194b", "#0082c8", "#f58231", "#3cb44b", "#911eb4", "#008080", "#f032e6", "#808000",
    "#ffe119", "#46f0f0", "#fabebe", "#d2f53c", "#e6beff", "#aaffc3", "#aa6e28", "#000080",
)  # fmt: skip
"""A class's colour is the one at its label; from the seventeenth class on they repeat."""
_SMALLEST_SIDE = 320
"""Long side below which a picture is enlarged before it is drawn on, in pixels: a name needs some 80."""
_MASK_OPACITY = 0.45


class Look(NamedTuple):
    """Sizes that fit a picture, in pixels."""

    line: int
    text: int
    padding: int


def look_for(width: int, height: int) -> Look:
    """Lines and letters in proportion to a picture: 2 and 13 pixels on a VGA photo."""
    side = math.sqrt(width * height)
    return Look(line=max(1, round(side / 280)), text=max(10, round(side / 42)), padding=max(1, round(side / 250)))


def draw_detections(
    picture: Image.Image | npt.NDArray[np.uint8],
    detections: Detections,
    class_names: Sequence[str],
    *,
    with_scores: bool = True,
    enlarge: bool = True,
) -> Image.Image:
    """A copy of a picture with its detections.

    The surest is drawn last, on top of the others. Names are cut to 28 letters; in a name, signs that would turn
    the text around or that nobody sees are drawn as escapes.

    Args:
        picture: Upright and RGB, or an array (H, W, 3) of its pixels.
        detections: Of this picture, and only those to be seen.
        class_names: Names by label.
        with_scores: Whether each name has its score beside it.
        enlarge: Whether a picture smaller than 320 pixels is enlarged by a whole factor first, as no name is
            legible on it.

    Raises:
        ConfigError: If the extra `detection` is not installed.
        DataError: If the masks are not of this picture's size.
    """
    names = [shorten(class_names[label]) for label in detections.labels.tolist()]
    texts = [
        f"{name} {score:.2f}" if with_scores else name
        for name, score in zip(names, detections.scores.tolist(), strict=True)
    ]
    return draw_shapes(
        picture,
        detections.boxes.detach().cpu().numpy(),
        texts,
        detections.labels.cpu().numpy(),
        masks=None if detections.masks is None else detections.masks.cpu().numpy(),
        enlarge=enlarge,
    )


def draw_shapes(
    picture: Image.Image | npt.NDArray[np.uint8],
    boxes: npt.NDArray[np.floating[Any]],
    texts: Sequence[str],
    colors: npt.NDArray[np.int64],
    *,
    palette: Sequence[str] = COLORS,
    masks: npt.NDArray[np.bool_] | None = None,
    enlarge: bool = True,
) -> Image.Image:
    """A copy of a picture with boxes, each with a text and a colour; the first is drawn last, on top.

    Args:
        picture: RGB, or its pixels (H, W, 3).
        boxes: Left, top, right, bottom, (N, 4).
        texts: Of each box; an empty one is left out.
        colors: Positions in the palette, (N,); beyond its end it begins anew.
        palette: Colours as `#rrggbb`.
        masks: (N, H, W), laid over the picture.
        enlarge: As for `draw_detections`.

    Raises:
        ConfigError: If the extra `detection` is not installed.
        DataError: If the masks are not of this picture's size.
    """
    library = import_extra("supervision", "drawing detections")
    scene: Image.Image = picture.convert("RGB") if isinstance(picture, Image.Image) else Image.fromarray(picture)
    if masks is not None and masks.shape[1:] != (scene.height, scene.width) and len(masks):
        raise DataError(
            f"masks are of {masks.shape[2]} x {masks.shape[1]} pixels, the picture of {scene.width} x {scene.height}"
        )
    factor = -(-_SMALLEST_SIDE // max(scene.size)) if enlarge else 1
    if factor > 1:
        scene = scene.resize((scene.width * factor, scene.height * factor), Image.Resampling.BICUBIC)
        masks = None if masks is None else masks.repeat(factor, axis=1).repeat(factor, axis=2)
    elif isinstance(picture, Image.Image):
        scene = scene.copy()  # a picture that is RGB already is given back as it is
    if not len(boxes):
        return scene
    look = look_for(*scene.size)
    shapes = library.Detections(
        xyxy=boxes[::-1].astype(np.float32) * factor,
        mask=None if masks is None else masks[::-1],
        class_id=colors[::-1] % len(palette),
    )
    fills = library.ColorPalette.from_hex(list(palette))
    if masks is not None:
        scene = library.MaskAnnotator(color=fills, opacity=_MASK_OPACITY).annotate(scene, shapes)
    scene = library.BoxAnnotator(color=fills, thickness=look.line).annotate(scene, shapes)
    labels = list(texts)[::-1]
    named = np.array([bool(text) for text in labels])
    if named.any():
        labels = [text for text in labels if text]
        scene = library.RichLabelAnnotator(
            color=fills,
            text_color=library.ColorPalette.from_hex([_readable_on(color) for color in palette]),
            font_path=str(font_file(labels)),
            font_size=look.text,
            text_padding=look.padding,
            smart_position=True,
        ).annotate(scene, shapes[named], labels)
    return scene


def _readable_on(color: str) -> str:
    """Black or white, whichever stands out more."""
    red, green, blue = (int(color[start : start + 2], 16) for start in (1, 3, 5))
    return "#000000" if 0.299 * red + 0.587 * green + 0.114 * blue > 150 else "#ffffff"
