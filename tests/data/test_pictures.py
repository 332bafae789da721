from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from effvit.data.pictures import list_pictures, read_picture
from effvit.errors import DataError

ORIENTATION_TAG = 0x0112


@pytest.fixture
def photo(photos: Path) -> Image.Image:
    return Image.open(sorted(photos.rglob("*.jpg"))[0]).convert("RGB")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_comes_out_upright(photo: Image.Image, tmp_path: Path, orientation: int) -> None:
    # A camera that is held another way stores turned pixels and says so: undo what the viewer will do.
    stored_by_orientation = {
        2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }  # fmt: skip
    stored = photo.transpose(stored_by_orientation[orientation]) if orientation > 1 else photo
    exif = Image.Exif()
    exif[ORIENTATION_TAG] = orientation
    stored.save(tmp_path / "turned.png", exif=exif)
    assert np.array_equal(read_picture(tmp_path / "turned.png"), photo)


def test_transparency_is_laid_on_white(tmp_path: Path) -> None:
    pixels = np.array([[[200, 0, 0, 255], [200, 0, 0, 0], [0, 0, 0, 128]]], dtype=np.uint8)
    Image.fromarray(pixels, "RGBA").save(tmp_path / "a.png")
    assert np.asarray(read_picture(tmp_path / "a.png")).tolist() == [[[200, 0, 0], [255, 255, 255], [127, 127, 127]]]


def test_palette_with_transparency_is_laid_on_white(tmp_path: Path) -> None:
    picture = Image.new("P", (2, 1))
    picture.putpalette([0, 0, 0, 0, 0, 255])
    picture.putpixel((1, 0), 1)
    picture.save(tmp_path / "p.png", transparency=0)
    assert np.asarray(read_picture(tmp_path / "p.png")).tolist() == [[[255, 255, 255], [0, 0, 255]]]


@pytest.mark.parametrize("suffix", [".png", ".tif", ".pgm"])
def test_sixteen_bit_keeps_its_brightness(tmp_path: Path, suffix: str) -> None:
    levels = np.array([[0, 255, 32768, 65535]], dtype=np.uint16)
    path = tmp_path / f"deep{suffix}"
    if suffix == ".pgm":
        path.write_bytes(b"P5 4 1 65535\n" + levels.astype(">u2").tobytes())
    else:
        Image.fromarray(levels).save(path)
    assert np.asarray(read_picture(path))[0, :, 0].tolist() == [0, 1, 128, 255]


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr", "LA"])
def test_every_mode_looks_like_the_photo(photo: Image.Image, tmp_path: Path, mode: str) -> None:
    path = tmp_path / {"CMYK": "x.tif", "YCbCr": "x.jpg"}.get(mode, "x.png")
    converted = photo.convert(mode)
    converted.save(path)
    got = read_picture(path)
    assert got.mode == "RGB" and got.size == photo.size
    expected = ImageOps.grayscale(photo).convert("RGB") if mode in ("1", "L", "LA") else photo
    assert abs(np.asarray(got, float).mean() - np.asarray(expected, float).mean()) < 4


def test_published_greyscale_photo_is_rgb(data_dir: Path) -> None:
    rows = (data_dir / "imagenet_sample" / "labels.csv").read_text().splitlines()
    grey = [row.split(",")[0] for row in rows if row.endswith(",L")]
    assert len(grey) == 1
    assert read_picture(data_dir / "imagenet_sample" / "images" / grey[0]).mode == "RGB"


def test_truncated_photo_is_named(photos: Path, tmp_path: Path) -> None:
    content = sorted(photos.rglob("*.jpg"))[0].read_bytes()
    path = tmp_path / "half.jpg"
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"cannot read picture .*half\.jpg: .*truncated"):
        read_picture(path)


@pytest.mark.parametrize("content", [b"", b"not a picture", b"\x89PNG\r\n\x1a\n" + b"\0" * 50, b"GIF89a"])
def test_other_content_is_named_in_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "odd.jpg"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"^cannot read picture [^\n]*odd\.jpg: [^\n]+$"):
        read_picture(path)


def test_missing_file_and_float_picture_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.jpg: No such file"):
        read_picture(tmp_path / "none.jpg")
    Image.fromarray(np.ones((2, 2), dtype=np.float32)).save(tmp_path / "float.tif")
    with pytest.raises(DataError, match=r"float\.tif: its values are floating point"):
        read_picture(tmp_path / "float.tif")


def test_list_pictures_is_sorted_recursive_and_without_repetition(tmp_path: Path) -> None:
    for name in ("b/z.JPG", "b/a.png", "b/deep/c.webp", "b/.hidden.jpg", "b/notes.txt", "single.weird"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "b" / "loop").symlink_to(tmp_path / "b")
    listed = list_pictures([tmp_path / "single.weird", tmp_path / "b", tmp_path / "b" / "a.png"])
    expected = ["single.weird", "b/a.png", "b/deep/c.webp", "b/z.JPG"]
    assert [path.relative_to(tmp_path).as_posix() for path in listed] == expected


def test_list_pictures_refuses_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no such file or folder: .*nowhere"):
        list_pictures([tmp_path / "nowhere"])
    with pytest.raises(DataError, match="no pictures in"):
        list_pictures([tmp_path])
