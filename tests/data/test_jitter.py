from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms
from torchvision.transforms.v2 import functional as F

from effvit.data.jitter import ColorJitter
from effvit.data.pictures import read_picture
from effvit.data.randomness import seeded


def noise(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (37, 53, 3), dtype=np.uint8))


@pytest.mark.parametrize("strength", [0.0, 0.1, 0.4, 1.0])
def test_jitter_is_pillows_to_the_bit(strength: float, data_dir: Path) -> None:
    paths = sorted((data_dir / "imagenet_sample" / "images").iterdir())[:10]
    pictures = [read_picture(path) for path in paths] + [noise(seed) for seed in range(5)]
    pictures += [Image.new("RGB", (8, 8), colour) for colour in ("black", "white", "red")]
    ours, theirs = ColorJitter(strength), transforms.ColorJitter(strength, strength, strength)
    for seed in range(4):
        for picture in pictures:
            with seeded(seed):
                mine = ours(F.pil_to_tensor(picture).contiguous())
                after = torch.rand(1)
            with seeded(seed):
                other = F.pil_to_tensor(theirs(picture))
                # torchvision draws no factor that is 1 anyway, and nothing follows the jitter
                assert strength == 0 or torch.equal(after, torch.rand(1))
            assert torch.equal(mine, other)


def test_the_given_picture_stays_as_it_is() -> None:
    pixels = F.pil_to_tensor(noise(0)).contiguous()
    before = pixels.clone()
    ColorJitter(0.9)(pixels)
    assert torch.equal(pixels, before)
