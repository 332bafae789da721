"""Pixels of a picture of a COCO file, in the frame that its boxes were drawn in.

A photo may be stored lying on its side, with a note (EXIF) on how to turn it. Annotation tools show it upright,
as everything does that shows photos, and so boxes are taken to be in the upright picture. Where only the pixels
as they are stored have the width and height that the file says, the tool ignored the note, and so do we
(as torchvision's CocoDetection always does). Where both have (turned by 180 degrees, mirrored, or a square), nothing
tells them apart: upright it is, and `effvit data check` names those pictures.
"""

from __future__ import annotations

from PIL import ExifTags, Image

from effvit.data.coco_records import CocoPicture
from effvit.data.pictures import decoding_fault, open_picture, sample_bytes, to_rgb
from effvit.data.samples import Sample, one_line
from effvit.errors import DataError

_BACK = {
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
"""By EXIF's orientation, what turns an upright picture back to how it is stored, where that swaps width and height."""


def read_coco_picture(picture: CocoPicture) -> Image.Image:
    """Decode a picture of a COCO file.

    Returns:
        Mode RGB, of the width and height that the file says, in the frame of its boxes.

    Raises:
        DataError: If the picture cannot be read (see `pictures.read_picture`), or has another size than the file
            says, so that the boxes would be in the wrong places.
    """
    content = sample_bytes(Sample(picture.path, target=0))
    try:
        with open_picture(content) as opened:
            orientation = opened.getexif().get(ExifTags.Base.Orientation, 1)
            upright = to_rgb(opened)
    except Exception as error:  # a decoder can raise almost anything on a damaged file
        raise DataError(f"cannot read picture {one_line(picture.name)}: {decoding_fault(error)}") from error
    fault = size_fault(picture, upright.size, orientation)
    if fault:
        raise DataError(f"cannot use picture {one_line(picture.name)}: {fault}")
    return upright if upright.size == (picture.width, picture.height) else upright.transpose(_BACK[orientation])


def size_fault(picture: CocoPicture, upright: tuple[int, int], orientation: int) -> str:
    """What is wrong with a picture's size beside what the file says; empty if nothing is.

    Args:
        picture: As the file has it.
        upright: Its real width and height, turned upright.
        orientation: EXIF's number of how it is stored; 1 is upright.
    """
    said = (picture.width, picture.height)
    if said == upright or (orientation in _BACK and said == upright[::-1]):
        return ""
    return f"it has {upright[0]} x {upright[1]} pixels, and the COCO file says {said[0]} x {said[1]}"


def frame_is_unclear(picture: CocoPicture, upright: tuple[int, int], orientation: int) -> bool:
    """Whether the boxes may be meant for the picture upright or as it is stored, and their size tells neither."""
    fits_both = orientation not in _BACK or upright[0] == upright[1]
    return orientation in range(2, 9) and upright == (picture.width, picture.height) and fits_both
