"""The untidy files of docs/data.md, each made on the fly: read as a viewer shows them, or named in one line."""

from __future__ import annotations

import os
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from effvit.data.datasets import find_data
from effvit.data.pictures import list_pictures, read_picture, read_sample, sample_bytes, walk_files
from effvit.data.samples import Sample, one_line
from effvit.errors import DataError


@pytest.fixture
def photo(photos: Path) -> Image.Image:
    return Image.open(sorted(photos.rglob("*.jpg"))[0]).convert("RGB")


def write_png(path: Path, pixels: np.ndarray, color_type: int) -> None:
    """A PNG of 16 bit a channel, which Pillow reads and cannot write: grey 0, RGB 2, grey + alpha 4, RGBA 6."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    height, width = pixels.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, 16, color_type, 0, 0, 0)
    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + content)


@pytest.mark.parametrize(("color_type", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_sixteen_bit_png_of_every_kind_keeps_its_brightness(tmp_path: Path, color_type: int, channels: int) -> None:
    levels = np.array([0, 0x4040, 0x8080, 0xFFFF])
    pixels = np.repeat(levels[None, :, None], channels, axis=2)  # (1, 4, channels)
    if channels in (2, 4):
        pixels[..., -1] = 0xFFFF
    write_png(tmp_path / "deep.png", pixels, color_type)
    got = np.asarray(read_picture(tmp_path / "deep.png"))
    assert got[0].tolist() == [[level] * 3 for level in (0, 0x40, 0x80, 0xFF)]


def test_grey_with_alpha_is_laid_on_white(tmp_path: Path) -> None:
    Image.fromarray(np.array([[[0, 255], [0, 0]]], dtype=np.uint8), "LA").save(tmp_path / "a.png")
    assert np.asarray(read_picture(tmp_path / "a.png"))[0].tolist() == [[0, 0, 0], [255, 255, 255]]


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".png"])
def test_of_an_animation_the_first_frame_is_taken(photo: Image.Image, tmp_path: Path, suffix: str) -> None:
    others = [photo.transpose(Image.Transpose.ROTATE_180), photo.point(lambda level: 255 - level)]
    path = tmp_path / f"moving{suffix}"
    photo.save(path, save_all=True, append_images=others)
    with Image.open(path) as saved:
        assert saved.n_frames == 3
    difference = np.abs(np.asarray(read_picture(path), float) - np.asarray(photo, float)).mean()
    assert difference < 12  # a palette of 256 colours; the other frames differ by more than 60


def test_cmyk_jpeg_looks_like_the_photo(photo: Image.Image, tmp_path: Path) -> None:
    photo.convert("CMYK").save(tmp_path / "print.jpg", quality=95)
    assert np.abs(np.asarray(read_picture(tmp_path / "print.jpg"), float) - np.asarray(photo, float)).mean() < 4


def test_colour_profile_is_not_applied(photo: Image.Image, tmp_path: Path) -> None:
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    photo.save(tmp_path / "profile.png", icc_profile=profile)
    assert np.array_equal(read_picture(tmp_path / "profile.png"), photo)


def test_content_counts_and_not_the_suffix(photo: Image.Image, tmp_path: Path) -> None:
    photo.save(tmp_path / "x.png")
    (tmp_path / "x.png").rename(tmp_path / "x.jpg")
    assert np.array_equal(read_picture(tmp_path / "x.jpg"), photo)


@pytest.mark.parametrize("excess", [1.01, 1.9, 2.5])
def test_decompression_bomb_is_refused_without_unpacking(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, excess: float
) -> None:
    Image.new("1", (1000, 1000)).save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", int(1000 * 1000 / excess))
    with pytest.raises(DataError, match=r"^cannot read picture [^\n]*bomb\.png: it has more than [\d,]+ pixels"):
        read_picture(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000 * 1000)
    assert read_picture(tmp_path / "bomb.png").size == (1000, 1000)


def test_odd_metadata_is_no_warning(photo: Image.Image, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 99  # no such orientation
    photo.save(tmp_path / "odd.jpg", quality=95, exif=exif.tobytes()[:-3])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_picture(tmp_path / "odd.jpg").size == photo.size


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_named_pipe_is_refused_and_never_waited_for(tmp_path: Path, photo: Image.Image) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for index in range(2):
            photo.save(tmp_path / name / f"{index}.jpg")
    os.mkfifo(tmp_path / "a" / "pipe.jpg")
    with pytest.raises(DataError, match=r"pipe\.jpg: it is a pipe or device, not a file"):
        read_picture(tmp_path / "a" / "pipe.jpg")
    data = find_data(tmp_path)
    assert [(entry.path.name, entry.reason) for entry in data.skipped] == [("pipe.jpg", "neither a file nor a folder")]


def test_folder_named_like_a_picture_is_a_folder(tmp_path: Path, photo: Image.Image) -> None:
    (tmp_path / "x.jpg").mkdir()
    photo.save(tmp_path / "x.jpg" / "inner.jpg")
    assert list_pictures([tmp_path]) == [tmp_path / "x.jpg" / "inner.jpg"]
    with pytest.raises(DataError, match=r"x\.jpg: it is a folder, not a file"):
        read_picture(tmp_path / "x.jpg")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_forbidden_file_is_named(tmp_path: Path, photo: Image.Image) -> None:
    photo.save(tmp_path / "secret.jpg")
    (tmp_path / "secret.jpg").chmod(0)
    with pytest.raises(DataError, match=r"secret\.jpg: Permission denied"):
        read_picture(tmp_path / "secret.jpg")


def test_reading_that_is_forbidden_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "secret.jpg").touch()

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(DataError, match=r"secret\.jpg: Permission denied"):
        read_picture(tmp_path / "secret.jpg")


def test_links_in_circles_end(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    (tmp_path / "a" / "self.jpg").symlink_to(tmp_path / "a" / "self.jpg")
    (tmp_path / "a" / "1.jpg").touch()
    assert [path.name for path in walk_files(tmp_path)] == ["1.jpg", "self.jpg"]
    with pytest.raises(DataError, match=r"self\.jpg: (Too many levels|Symlink loop)"):
        read_picture(tmp_path / "a" / "self.jpg")


NAMES = {
    "りんご 🍎.jpg": "りんご 🍎.jpg",
    "تفاح.jpg": "تفاح.jpg",
    "two\nlines.jpg": r"two\nlines.jpg",
    "gpj.\u202exe.jpg": r"gpj.\u202exe.jpg",
    "bell\x1b[31m.jpg": r"bell\x1b[31m.jpg",
    os.fsdecode(b"caf\xe9.jpg"): r"caf\udce9.jpg",
}


@pytest.mark.parametrize("name", NAMES, ids=NAMES.values())
def test_names_in_any_script_are_read_and_told_in_one_line(tmp_path: Path, photo: Image.Image, name: str) -> None:
    path = tmp_path / name
    photo.save(path, format="PNG")
    assert read_picture(path).size == photo.size
    path.write_bytes(b"")
    with pytest.raises(DataError, match="the file is empty") as caught:
        read_picture(path)
    message = str(caught.value)
    assert NAMES[name] in message and len(message.splitlines()) == 1
    message.encode()  # and a terminal takes it
    assert one_line(name) == NAMES[name]


def test_name_that_is_no_unicode_is_left_out_and_listed(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for index in range(2):
            (tmp_path / name / f"{index}.jpg").touch()
    (tmp_path / "a" / os.fsdecode(b"caf\xe9.jpg")).touch()
    data = find_data(tmp_path)
    assert len(data.train) + len(data.val) == 4
    assert [entry.reason for entry in data.skipped] == [
        "its name is not UTF-8, so no list of pictures can hold it; rename it"
    ]
    (tmp_path / os.fsdecode(b"caf\xe9")).mkdir()
    with pytest.raises(DataError, match=r"caf\\udce9 has a name that is not UTF-8"):
        find_data(tmp_path)


def test_sample_in_a_shard_is_its_stretch_of_bytes(tmp_path: Path, photos: Path) -> None:
    files = sorted(photos.rglob("*.jpg"))[:2]
    contents = [path.read_bytes() for path in files]
    shard = tmp_path / "s.tar"
    shard.write_bytes(b"head" + b"".join(contents))
    sample = Sample(shard, 0, "b.jpg", 4 + len(contents[0]), len(contents[1]))
    assert sample_bytes(sample) == contents[1]
    assert np.array_equal(read_sample(sample), read_picture(files[1]))
    shard.write_bytes(shard.read_bytes()[:-7])
    with pytest.raises(DataError, match=r"s\.tar/b\.jpg: the shard ends 7 bytes before the picture does"):
        read_sample(sample)
