from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from timm.data.transforms_factory import create_transform
from torchvision.transforms import InterpolationMode, v2

from effvit.data.augmentation import Augmentation
from effvit.data.decoding import open_for_training
from effvit.data.pictures import read_picture, read_sample
from effvit.data.rand_augment import mend_posterize, rand_augment
from effvit.data.randomness import seeded
from effvit.data.samples import Sample
from effvit.data.transforms import covering_size, eval_transform, normalize, train_transform
from effvit.errors import ConfigError
from effvit.preprocessing import Preprocessing

RAND_AUGMENT = "rand-m9-mstd0.5-inc1"
STILL = Augmentation(crop_scale=(1, 1), crop_aspect=(1, 1), horizontal_flip=0, color_jitter=0)


@pytest.fixture(scope="module")
def imagenet_photos(data_dir: Path) -> list[Image.Image]:
    return [read_picture(path) for path in sorted((data_dir / "imagenet_sample" / "images").iterdir())[:8]]


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear", "nearest"])
def test_eval_is_the_standard_preset(imagenet_photos: list[Image.Image], interpolation: str) -> None:
    standard = v2.Compose([v2.Resize(256, InterpolationMode(interpolation)), v2.CenterCrop(224), v2.PILToTensor()])
    ours = eval_transform(Preprocessing(interpolation=interpolation))
    for photo in imagenet_photos:
        assert torch.equal(ours(photo), standard(photo))


@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(32, 600), st.integers(32, 600))
def test_covering_size_is_just_large_enough(height: int, width: int, cover_height: int, cover_width: int) -> None:
    new_height, new_width = covering_size((height, width), (cover_height, cover_width))
    assert new_height >= cover_height and new_width >= cover_width
    assert new_height == cover_height or new_width == cover_width
    scale = max(cover_height / height, cover_width / width)
    assert abs(new_height - height * scale) <= 1 and abs(new_width - width * scale) <= 1


@pytest.mark.parametrize("size", [(96, 96), (64, 160), (160, 64), (33, 47)])
def test_both_presets_give_uint8_of_the_asked_size(imagenet_photos: list[Image.Image], size: tuple[int, int]) -> None:
    preprocessing = Preprocessing(image_size=size)
    for transform in (eval_transform(preprocessing), train_transform(preprocessing, Augmentation())):
        for photo in (*imagenet_photos[:2], imagenet_photos[0].resize((5, 90))):
            result = transform(photo)
            assert result.dtype == torch.uint8 and result.shape == (3, *size)


def test_training_without_augmentation_is_the_whole_centre(imagenet_photos: list[Image.Image]) -> None:
    preprocessing = Preprocessing(image_size=(96, 96), crop_ratio=1.0)
    square = imagenet_photos[0].resize((200, 200))
    mine, other = (
        make(square).int() for make in (train_transform(preprocessing, STILL), eval_transform(preprocessing))
    )
    assert ((mine - other).abs() > 1).float().mean() < 0.002  # the resize may round otherwise


@pytest.mark.parametrize("rand_augment", ["", RAND_AUGMENT])
def test_augmentation_follows_the_seed(imagenet_photos: list[Image.Image], rand_augment: str) -> None:
    transform = train_transform(Preprocessing(image_size=(64, 64)), Augmentation(rand_augment=rand_augment))

    def draw(seed: int) -> torch.Tensor:
        with seeded(seed):
            return transform(imagenet_photos[0])

    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))


def timms(size: tuple[int, int], augmentation: Augmentation) -> Callable[[Image.Image], torch.Tensor]:
    """timm's transform for these settings, up to uint8."""
    ratio = tuple(stretch * size[1] / size[0] for stretch in augmentation.crop_aspect)
    transform = create_transform(
        size, is_training=True, use_prefetcher=True, scale=augmentation.crop_scale, ratio=ratio,
        hflip=augmentation.horizontal_flip, color_jitter=augmentation.color_jitter or None,
        auto_augment=augmentation.rand_augment or None, interpolation="bicubic",
    )  # fmt: skip
    for step in transform.transforms:
        if hasattr(step, "ops"):
            mend_posterize(step)
    return lambda picture: torch.as_tensor(transform(picture))


def test_training_pictures_are_timms(imagenet_photos: list[Image.Image]) -> None:
    """Same seed, same crop, mirror and colours; the resize may round otherwise."""
    augmentation = Augmentation(crop_scale=(0.08, 1.0), color_jitter=0.4)
    ours, theirs = train_transform(Preprocessing(image_size=(64, 96)), augmentation), timms((64, 96), augmentation)
    for seed in range(24):
        with seeded(seed):
            mine = ours(imagenet_photos[seed % 8])
        with seeded(seed):
            other = theirs(imagenet_photos[seed % 8])
        difference = (mine.int() - other.int()).abs().float()
        assert difference.mean() < 0.3 and (difference > 1).float().mean() < 0.02


@pytest.mark.parametrize("words", [RAND_AUGMENT, "rand-m15-n3-mmax20-p1", "rand"])
def test_rand_augment_is_timms(words: str, imagenet_photos: list[Image.Image]) -> None:
    """Without a resize every pixel is the same."""
    augmentation = replace(STILL, crop_scale=(1, 1), rand_augment=words)
    ours, theirs = train_transform(Preprocessing(image_size=(64, 64)), augmentation), timms((64, 64), augmentation)
    small = [photo.resize((64, 64)) for photo in imagenet_photos]
    changed = 0
    for seed in range(100):
        with seeded(seed):
            mine = ours(small[seed % 8])
        with seeded(seed):
            other = theirs(small[seed % 8])
        assert torch.equal(mine, other)
        changed += not np.array_equal(mine.permute(1, 2, 0).numpy(), np.asarray(small[seed % 8]))
    assert changed > 50


def test_posterising_to_no_bits_gives_black(imagenet_photos: list[Image.Image]) -> None:
    """timm asks for it at full strength; Pillow 13 refuses."""
    augment = rand_augment("rand-m10-inc1-p1-n1", Preprocessing())
    (posterize,) = [operation for operation in augment.ops if operation.name == "PosterizeIncreasing"]
    assert np.asarray(posterize(imagenet_photos[0])).max() == 0


def test_rand_augment_takes_the_jitters_place(imagenet_photos: list[Image.Image]) -> None:
    weak = replace(STILL, rand_augment="rand-m9-p0", color_jitter=0.9)
    small = imagenet_photos[0].resize((64, 64))
    assert np.array_equal(draws(weak, small, 1)[0], np.asarray(small))


@pytest.mark.parametrize("words", ["rand-x9", "rand-m9x", "rand-m-9", "rand-inc", "rand-m9-std0.5", "rand-m9-"])
def test_words_that_timm_does_not_understand_are_an_error(words: str) -> None:
    with pytest.raises(ConfigError, match=rf"timm does not understand rand_augment '{words}' .*an example is"):
        train_transform(Preprocessing(), Augmentation(rand_augment=words))


def test_a_file_and_its_picture_are_treated_alike(data_dir: Path) -> None:
    sample = Sample(sorted((data_dir / "coco_mini" / "train").iterdir())[0], 0)
    transform = train_transform(Preprocessing(image_size=(224, 288)), Augmentation())
    with seeded(0):
        from_file = transform(open_for_training(sample))
    with seeded(0):
        from_picture = transform(read_sample(sample))
    assert torch.equal(from_file, from_picture)  # whose crops are too small to be decoded at half the size


def draws(augmentation: Augmentation, picture: Image.Image, number: int) -> np.ndarray:
    """Training pictures of 64 x 64, (number, 64, 64, 3), with the values the picture has."""
    transform = train_transform(Preprocessing(image_size=(64, 64), interpolation="nearest"), augmentation)
    return torch.stack([transform(picture) for _ in range(number)]).permute(0, 2, 3, 1).double().numpy()


def where_from() -> Image.Image:
    """A picture whose red is the column and whose green is the row."""
    row, column = np.mgrid[:256, :256].astype(np.uint8)
    return Image.fromarray(np.stack([column, row, 0 * row], axis=-1))


@pytest.mark.parametrize("probability", [0.0, 0.5, 1.0])
def test_pictures_are_mirrored_as_often_as_asked(probability: float) -> None:
    red = draws(replace(STILL, horizontal_flip=probability), where_from(), 64)[..., 0]
    mirrored = red[:, 0, 0] > red[:, 0, -1]
    assert mirrored.mean() == pytest.approx(probability, abs=0.2 if probability == 0.5 else 0)
    straight = np.where(mirrored[:, None, None], red[..., ::-1], red)
    assert (straight == straight[0, 0]).all()


def test_crops_are_of_the_size_and_shape_asked_for() -> None:
    crops = draws(replace(STILL, crop_scale=(0.1, 0.4), crop_aspect=(0.5, 2.0)), where_from(), 100)
    # Nearest neighbours of 64 pixels: first and last are 63 / 64 of the crop apart.
    width, height = (np.ptp(crops[..., channel], axis=(1, 2)) * 64 / 63 / 256 for channel in (0, 1))
    share, stretch = width * height, width / height
    assert 0.09 < share.min() < 0.15 and 0.35 < share.max() < 0.41
    assert 0.48 < stretch.min() < 0.6 and 1.6 < stretch.max() < 2.1


@pytest.mark.parametrize("jitter", [0.0, 0.3])
@pytest.mark.parametrize("what", ["brightness", "contrast", "saturation"])
def test_colours_change_as_much_as_asked(what: str, jitter: float) -> None:
    """Two halves; each quantity below is changed by one kind of jitter and left alone by the other two."""
    pixels = np.empty((64, 64, 3), np.uint8)
    pixels[:, :32], pixels[:, 32:] = (60, 20, 20), (130, 90, 90)

    def measured(picture: np.ndarray) -> np.ndarray:
        left, right = picture[..., 0, 0, :], picture[..., 0, -1, :]
        dark, light = (side @ (0.299, 0.587, 0.114) for side in (left, right))
        mean, contrast = (dark + light) / 2, light - dark
        colour = left[..., 0] - left[..., 1]
        return {"brightness": mean, "contrast": contrast / mean, "saturation": colour / contrast}[what]

    drawn = draws(replace(STILL, color_jitter=jitter), Image.fromarray(pixels), 100)
    factors = measured(drawn) / measured(pixels.astype(float))
    if jitter == 0:
        assert (factors == 1).all()
    else:  # values are whole numbers, so give and take a little
        assert 0.65 < factors.min() < 0.8 and 1.2 < factors.max() < 1.35


def test_crop_aspect_is_relative_to_the_input(imagenet_photos: list[Image.Image]) -> None:
    # A picture of the input's own shape is kept whole, whatever that shape is.
    wide = imagenet_photos[0].resize((128, 64))
    transform = train_transform(Preprocessing(image_size=(64, 128)), STILL)
    assert np.array_equal(transform(wide).permute(1, 2, 0).numpy(), np.asarray(wide))


def test_normalize_is_the_textbook_formula(imagenet_photos: list[Image.Image]) -> None:
    preprocessing = Preprocessing()
    batch = torch.stack([eval_transform(preprocessing)(photo) for photo in imagenet_photos])
    textbook = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize(preprocessing.mean, preprocessing.std)])
    torch.testing.assert_close(normalize(batch, preprocessing), textbook(batch), rtol=0, atol=2e-6)


def test_normalize_refuses_another_number_of_channels() -> None:
    batch = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    with pytest.raises(ConfigError, match="pictures have 3 channels, the preprocessing has 1 means"):
        normalize(batch, Preprocessing(mean=(0.5,), std=(0.5,)))
