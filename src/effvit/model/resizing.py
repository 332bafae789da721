"""Other windows for the same weights: the configuration with another image size, the bias tables resized."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from effvit.errors import ConfigError
from effvit.model.config import EfficientViTConfig


def with_windows(
    config: EfficientViTConfig, *, image_size: int | tuple[int, int] | None = None, window: int | None = None
) -> EfficientViTConfig:
    """A configuration with another image size (side, or height and width) or window; None keeps it."""
    if image_size is not None:
        size = (image_size, image_size) if isinstance(image_size, int) else image_size
        if not isinstance(size, tuple | list) or len(size) != 2:
            raise ConfigError(f"image_size must be a side, or a height and a width, got {image_size!r}")
        config = replace(config, image_size=(size[0], size[1]))
    if window is not None:
        config = replace(config, stages=tuple(replace(stage, window=window) for stage in config.stages))
    return config


def resize_bias_table(table: Tensor, length: int) -> Tensor:
    """Resize bias tables, (heads, window * window) -> (heads, length), bicubically, each seen as a picture.

    Raises:
        ConfigError: If one of the lengths is no square.
    """
    old, new = round(table.shape[1] ** 0.5), round(length**0.5)
    if old**2 != table.shape[1] or new**2 != length:
        raise ConfigError(f"a bias table has window x window values, got {table.shape[1]} and {length}")
    if old == new:
        return table
    images = table.detach().reshape(1, -1, old, old)  # (heads, w * w) -> (1, heads, w, w)
    # Half precision has no bicubic kernel on every device, and float64 must stay float64.
    working = images.to(torch.promote_types(table.dtype, torch.float32))
    resized = F.interpolate(working, size=(new, new), mode="bicubic", align_corners=False)
    return resized.reshape(-1, length).to(table.dtype)
