"""Pictures to tensors: the training and the evaluation preset, and the normalisation of a batch.

Both presets resize the Pillow picture (antialiased, as published accuracies assume) and stop at
uint8; `normalize` does the rest once for a whole batch, on the device that computes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import cast

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as F

from effvit.data.augmentation import Augmentation
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


def train_transform(preprocessing: Preprocessing, augmentation: Augmentation) -> Transform:
    """Random resized crop, mirror, colour jitter; all randomness from torch's CPU generator."""
    height, width = preprocessing.image_size
    jitter = augmentation.color_jitter
    steps = [
        v2.RandomResizedCrop(
            (height, width),
            scale=augmentation.crop_scale,
            ratio=tuple(stretch * width / height for stretch in augmentation.crop_aspect),
            interpolation=InterpolationMode(preprocessing.interpolation),
        ),
        v2.RandomHorizontalFlip(augmentation.horizontal_flip),
        v2.ColorJitter(brightness=jitter, contrast=jitter, saturation=jitter),
        v2.PILToTensor(),
    ]
    return cast(Transform, v2.Compose(steps))


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
    return (batch.float() - mean) / std


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
