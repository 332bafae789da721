"""Functions that several test files call."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn


def randomise(model: nn.Module, seed: int = 0) -> nn.Module:
    """Give every weight, norm statistic and bias a value far from its initial one, in place.

    A fresh network has norms of zero weight and bias tables of zeros: most of it does not reach the
    output, and most mistakes do not either.
    """
    generator = torch.Generator().manual_seed(seed)

    def uniform(like: torch.Tensor, low: float, high: float) -> torch.Tensor:
        return torch.rand(like.shape, generator=generator, dtype=torch.float64) * (high - low) + low

    def normal(like: torch.Tensor, std: float) -> torch.Tensor:
        return torch.randn(like.shape, generator=generator, dtype=torch.float64) * std

    with torch.no_grad():
        for name, value in model.state_dict().items():
            if not value.is_floating_point():
                continue
            if name.endswith("running_var"):
                new = uniform(value, 0.5, 1.5)
            elif name.endswith("running_mean"):
                new = normal(value, 0.2)
            elif name.endswith("attention_biases"):
                new = normal(value, 0.5)
            elif name.endswith(".bias"):
                new = normal(value, 0.2)
            elif value.dim() == 1:
                new = uniform(value, 0.5, 1.5)
            else:
                new = normal(value, 0.7 / value[0].numel() ** 0.5)
            value.copy_(new)
    return model


def relative_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest difference over the largest expected magnitude."""
    return float((actual - expected).abs().max() / expected.abs().max())


def write_photos(folder: Path, *, classes: Sequence[str], count: int, size: tuple[int, int] = (80, 60)) -> Path:
    """Write class folders of small pictures, each class with a colour of its own; returns the folder."""
    generator = np.random.default_rng(0)
    for index, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            pixels = generator.integers(0, 90, (size[1], size[0], 3), dtype=np.uint8)
            pixels[..., index % 3] += 120
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return folder
