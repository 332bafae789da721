from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import ExifTags, Image

from effvit.data.coco_pictures import frame_is_unclear, read_coco_picture
from effvit.data.coco_records import CocoPicture
from effvit.data.pictures import read_picture
from effvit.errors import DataError

SWAPPING = (5, 6, 7, 8)


@pytest.fixture
def pixels() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)


def stored(path: Path, pixels: NDArray[np.uint8], orientation: int) -> Path:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    Image.fromarray(pixels).save(path, exif=exif)
    return path


def test_a_plain_picture(tmp_path: Path, pixels: NDArray[np.uint8]) -> None:
    Image.fromarray(pixels).save(tmp_path / "a.png")
    picture = read_coco_picture(CocoPicture(tmp_path / "a.png", 1, 30, 40))
    assert picture.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(picture), pixels)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_frame_is_the_one_whose_size_the_file_says(
    tmp_path: Path, pixels: NDArray[np.uint8], orientation: int
) -> None:
    path = stored(tmp_path / "a.png", pixels, orientation)
    upright = read_picture(path)
    assert (upright.size == (40, 30)) == (orientation not in SWAPPING)
    meant_upright = CocoPicture(path, 1, upright.height, upright.width)
    np.testing.assert_array_equal(np.asarray(read_coco_picture(meant_upright)), np.asarray(upright))
    meant_as_stored = CocoPicture(path, 1, 30, 40)
    expected = pixels if orientation in SWAPPING else np.asarray(upright)
    np.testing.assert_array_equal(np.asarray(read_coco_picture(meant_as_stored)), expected)
    assert frame_is_unclear(meant_as_stored, upright.size, orientation) == (orientation in (2, 3, 4))
    assert not frame_is_unclear(meant_upright, upright.size, orientation) or orientation in (2, 3, 4)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_square_is_unclear(orientation: int) -> None:
    assert frame_is_unclear(CocoPicture(Path("a.png"), 1, 30, 30), (30, 30), orientation) == (orientation != 1)


@pytest.mark.parametrize(("height", "width"), [(40, 30), (30, 41), (60, 80)])
def test_another_size_is_refused(tmp_path: Path, pixels: NDArray[np.uint8], height: int, width: int) -> None:
    Image.fromarray(pixels).save(tmp_path / "a.png")
    message = rf"cannot use picture .*a\.png: it has 40 x 30 pixels, and the COCO file says {width} x {height}"
    with pytest.raises(DataError, match=message):
        read_coco_picture(CocoPicture(tmp_path / "a.png", 1, height, width))


def test_what_cannot_be_read_says_why(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("not a picture")
    with pytest.raises(DataError, match=r"cannot read picture .*text\.png: not a picture"):
        read_coco_picture(CocoPicture(tmp_path / "text.png", 1, 30, 40))
    with pytest.raises(DataError, match=r"cannot read picture .*gone\.png: No such file or directory"):
        read_coco_picture(CocoPicture(tmp_path / "gone.png", 1, 30, 40))
