from __future__ import annotations

from pathlib import Path

import pytest

from effvit.data.augmentation import Augmentation
from effvit.data.datasets import PictureData, find_data
from effvit.preprocessing import Preprocessing
from effvit.train.config import TrainConfig


@pytest.fixture(scope="session")
def data(photos: Path) -> PictureData:
    return find_data(photos)


@pytest.fixture
def config() -> TrainConfig:
    """Small and short, with every source of randomness switched on."""
    return TrainConfig(
        model="efficientvit_tiny",
        epochs=3,
        batch_size=8,
        drop_path=0.2,
        augmentation=Augmentation(color_jitter=0.4),
        preprocessing=Preprocessing(image_size=(32, 32)),
    )
