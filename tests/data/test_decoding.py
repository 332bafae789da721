from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import ExifTags, Image

from effvit.data import decoding
from effvit.data.decoding import UndecodedJpeg, cut, open_for_training, to_picture, to_tensor
from effvit.data.pictures import read_sample
from effvit.data.samples import Sample
from effvit.errors import DataError


@pytest.fixture(scope="module")
def scene(data_dir: Path) -> Image.Image:
    return read_sample(Sample(sorted((data_dir / "coco_mini" / "train").iterdir())[0], 0))


def saved(folder: Path, picture: Image.Image, name: str = "picture.jpg", **options: object) -> Sample:
    picture.save(folder / name, **options)
    return Sample(folder / name, 0)


def whole(sample: Sample) -> torch.Tensor:
    picture = open_for_training(sample)
    width, height = picture.size if isinstance(picture, Image.Image) else picture.head.size
    return cut(picture, (0, 0, height, width), (height, width))


def rotated_tag() -> bytes:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    return exif.tobytes()


ODD_FILES: dict[str, tuple[str, str, dict[str, object]]] = {
    "upright": ("RGB", "a.jpg", {"quality": 80}),
    "progressive": ("RGB", "a.jpg", {"progressive": True}),
    "no subsampling": ("RGB", "a.jpg", {"subsampling": 0}),
    "rgb inside": ("RGB", "a.jpg", {"keep_rgb": True}),
    "grey": ("L", "a.jpg", {}),
    "cmyk": ("CMYK", "a.jpg", {}),
    "turned": ("RGB", "a.jpg", {"exif": rotated_tag()}),
    "palette": ("P", "a.png", {}),
    "alpha": ("RGBA", "a.png", {}),
    "png named jpg": ("RGB", "a.jpg", {"format": "PNG"}),
    "webp": ("RGB", "a.webp", {}),
}


@pytest.mark.parametrize("kind", ODD_FILES)
def test_every_file_is_read_as_everywhere_else(kind: str, scene: Image.Image, tmp_path: Path) -> None:
    mode, name, options = ODD_FILES[kind]
    sample = saved(tmp_path, scene.convert(mode), name, **options)
    assert torch.equal(whole(sample), to_tensor(read_sample(sample)))


def test_real_photos_take_the_fast_road_and_keep_their_pixels(data_dir: Path) -> None:
    for path in sorted((data_dir / "imagenet_sample" / "images").iterdir())[:30]:
        sample = Sample(path, 0)
        picture = open_for_training(sample)
        assert isinstance(picture, UndecodedJpeg)
        assert torch.equal(whole(sample), to_tensor(read_sample(sample)))


def test_a_picture_in_a_shard(scene: Image.Image, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    scene.save(buffer, "JPEG")
    (tmp_path / "shard.tar").write_bytes(b"x" * 512 + buffer.getvalue() + b"y" * 100)
    sample = Sample(tmp_path / "shard.tar", 0, "0.jpg", 512, len(buffer.getvalue()))
    assert torch.equal(whole(sample), to_tensor(read_sample(sample)))


@given(st.floats(0, 1))
def test_a_damaged_file_is_an_error_exactly_where_it_is_one_elsewhere(
    data_dir: Path, tmp_path_factory: pytest.TempPathFactory, share: float
) -> None:
    path = sorted((data_dir / "imagenet_sample" / "images").iterdir())[0]
    content = path.read_bytes()
    sample = Sample(tmp_path_factory.getbasetemp() / "cut.jpg", 0)
    sample.path.write_bytes(content[: round(share * len(content))])
    try:
        expected = to_tensor(read_sample(sample))
    except DataError as error:
        with pytest.raises(DataError, match=r"cannot read picture .*cut\.jpg") as caught:
            whole(sample)
        assert str(caught.value) == str(error)
    else:
        assert torch.equal(whole(sample), expected)


def test_a_damaged_large_file_is_an_error_as_well(scene: Image.Image, tmp_path: Path) -> None:
    sample = saved(tmp_path, scene.resize((1600, 1200)))
    sample.path.write_bytes(sample.path.read_bytes()[:20_000])
    with pytest.raises(DataError, match=r"cannot read picture .*picture\.jpg: .*truncated"):
        cut(open_for_training(sample), (0, 0, 1200, 1600), (64, 64))


def test_a_bomb_is_not_decoded(scene: Image.Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sample = saved(tmp_path, scene)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(DataError, match="more than 1,000 pixels"):
        open_for_training(sample)


@given(st.data())
def test_a_shrunk_crop_has_enough_pixels_and_is_of_the_right_place(data: st.DataObject) -> None:
    height, width = (data.draw(st.integers(20, 600)) for _ in range(2))
    size = data.draw(st.integers(8, 40)), data.draw(st.integers(8, 40))
    box_height, box_width = data.draw(st.integers(1, height)), data.draw(st.integers(1, width))
    top, left = data.draw(st.integers(0, height - box_height)), data.draw(st.integers(0, width - box_width))
    row, column = np.mgrid[:height, :width]
    places = np.stack([row * 255 / height, column * 255 / width, 0 * row], axis=-1).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(places).save(buffer, "JPEG", quality=95, keep_rgb=True)
    undecoded = UndecodedJpeg(Sample(Path("x.jpg"), 0), Image.open(buffer))
    pixels = cut(undecoded, (top, left, box_height, box_width), size)
    shrink = next(s for s in (8, 4, 2, 1) if s == 1 or (box_height >= 2 * s * size[0] and box_width >= 2 * s * size[1]))
    assert abs(pixels.shape[1] - box_height / shrink) <= 1 and abs(pixels.shape[2] - box_width / shrink) <= 1
    expected = places[top : top + box_height, left : left + box_width].mean(axis=(0, 1))
    one_pixel = 255 * shrink / np.array([height, width, np.inf])
    assert (abs(pixels.float().mean(dim=(1, 2)).numpy() - expected) <= 4 + one_pixel).all()


def test_a_shrunk_photo_looks_the_same(scene: Image.Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sample = saved(tmp_path, scene.resize((2400, 1800), Image.Resampling.BICUBIC), quality=90)
    shrunk = cut(open_for_training(sample), (100, 200, 1500, 2000), (96, 128))
    assert shrunk.shape == (3, 375, 500)
    monkeypatch.setattr(decoding, "_SHRINKS", ())
    full = cut(open_for_training(sample), (100, 200, 1500, 2000), (96, 128))
    assert full.shape == (3, 1500, 2000)
    small, reference = (
        np.asarray(to_picture(pixels).resize((128, 96), Image.Resampling.BICUBIC), float) for pixels in (shrunk, full)
    )
    assert abs(small - reference).mean() < 1.0


def test_to_picture_is_the_inverse_of_to_tensor(scene: Image.Image) -> None:
    assert np.array_equal(np.asarray(to_picture(to_tensor(scene))), np.asarray(scene))
