"""Pictures to tensors: the training and the evaluation preset, and the normalisation of a batch.

Both presets resize with antialiasing and stop at uint8; `normalize` does the rest once for a whole batch, on the
device that computes. Evaluation is Pillow's to the bit, as published accuracies assume; training is fast.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import cast

import torch
from PIL import Image
from timm.data.transforms import RandomResizedCropAndInterpolation
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from effvit.data.augmentation import Augmentation
from effvit.data.decoding import UndecodedJpeg, cut, planar, to_picture, to_tensor
from effvit.data.jitter import ColorJitter
from effvit.data.rand_augment import rand_augment
from effvit.errors import ConfigError
from effvit.preprocessing import Preprocessing

Transform = Callable[[Image.Image], Tensor]
"""RGB picture -> uint8 tensor (3, H, W)."""


def eval_transform(preprocessing: Preprocessing) -> Transform:
    """Resize until the picture covers `image_size / crop_ratio`, then crop the centre.

    For a square input this is the usual "short side to 256, centre crop 224", with torchvision's
    rounding; for another shape the picture is made just large enough in both directions.
    """
    return _EvalTransform(preprocessing)


def train_transform(preprocessing: Preprocessing, augmentation: Augmentation) -> TrainTransform:
    """Random resized crop, mirror, then RandAugment or colour jitter.

    Raises:
        ConfigError: If timm does not understand the words for RandAugment.
    """
    return TrainTransform(preprocessing, augmentation)


def normalize(batch: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Scale 0..255 to 0..1, subtract the mean, divide by the standard deviation, on the batch's device.

    Args:
        batch: Pictures, uint8, (B, C, H, W).
        preprocessing: The record that travels with the weights.

    Returns:
        Input of the network, float32, (B, C, H, W).

    Raises:
        ConfigError: If the batch has not one channel for each value of the mean.
    """
    channels = len(preprocessing.mean)
    if batch.shape[1] != channels:
        raise ConfigError(f"the pictures have {batch.shape[1]} channels, the preprocessing has {channels} means")
    mean = 255 * torch.tensor(preprocessing.mean, device=batch.device).view(1, channels, 1, 1)
    std = 255 * torch.tensor(preprocessing.std, device=batch.device).view(1, channels, 1, 1)
    # In place: each further buffer of this size costs more than the arithmetic.
    return batch.to(torch.float32, copy=True).sub_(mean).div_(std)


class TrainTransform:
    """See `train_transform`. Draws from the global generators of Python, NumPy and torch, as timm does.

    With the same seeds it draws what timm's `create_transform` draws, and gives its pictures: RandAugment and jitter
    alike in every pixel, the resize up to rounding (torch's, several times as fast as Pillow's), and pictures far
    larger than the input up to the decoder's own downscaling, see `decoding`.
    """

    def __init__(self, preprocessing: Preprocessing, augmentation: Augmentation) -> None:
        self.size = height, width = preprocessing.image_size
        self.crop_scale = augmentation.crop_scale
        self.crop_aspect = tuple(stretch * width / height for stretch in augmentation.crop_aspect)
        self.interpolation = InterpolationMode(preprocessing.interpolation)
        if self.interpolation is InterpolationMode.NEAREST:
            self.interpolation = InterpolationMode.NEAREST_EXACT  # torchvision's name for Pillow's NEAREST
        self.flip_probability = augmentation.horizontal_flip
        self.rand_augment = (
            rand_augment(augmentation.rand_augment, preprocessing) if augmentation.rand_augment else None
        )
        self.jitter = ColorJitter(augmentation.color_jitter) if augmentation.color_jitter else None

    def __call__(self, picture: Image.Image | UndecodedJpeg) -> Tensor:
        """Draw a view of a picture: uint8, (3, H, W).

        Raises:
            DataError: If it was not decoded yet and turns out to be damaged.
        """
        whole = picture if isinstance(picture, Image.Image) else picture.head
        box = RandomResizedCropAndInterpolation.get_params(  # type: ignore[no-untyped-call]
            whole, self.crop_scale, self.crop_aspect
        )
        pixels = cut(picture, box, self.size)
        pixels = F.resize(pixels, list(self.size), interpolation=self.interpolation, antialias=True)
        if self.flip_probability and torch.rand(1).item() < self.flip_probability:
            pixels = pixels.flip(-1)
        if self.rand_augment is not None:
            return planar(to_tensor(self.rand_augment(to_picture(pixels))))
        return planar(pixels) if self.jitter is None else self.jitter(planar(pixels))


class _EvalTransform:
    """A class rather than a closure, so that it can be sent to the workers of a loader."""

    def __init__(self, preprocessing: Preprocessing) -> None:
        self.crop_size = preprocessing.image_size
        height, width = preprocessing.image_size
        self.cover = (
            math.floor(height / preprocessing.crop_ratio),
            math.floor(width / preprocessing.crop_ratio),
        )
        self.interpolation = InterpolationMode(preprocessing.interpolation)

    def __call__(self, picture: Image.Image) -> Tensor:
        size = covering_size((picture.height, picture.width), self.cover)
        resized = F.resize(picture, list(size), interpolation=self.interpolation, antialias=True)
        return cast(Tensor, F.pil_to_tensor(F.center_crop(resized, list(self.crop_size))))


def covering_size(size: tuple[int, int], cover: tuple[int, int]) -> tuple[int, int]:
    """The least (height, width) shaped like `size` that covers `cover`, rounded down like torchvision."""
    height, width = size
    cover_height, cover_width = cover
    if cover_height * width >= cover_width * height:  # the height decides
        return cover_height, max(cover_width, int(cover_height * width / height))
    return max(cover_height, int(cover_width * height / width)), cover_width
