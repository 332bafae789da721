from __future__ import annotations

import pytest
from helpers import write_photos

from effvit.data.datasets import PictureData, find_data
from effvit.preprocessing import Preprocessing
from effvit.train.config import TrainConfig


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> PictureData:
    """Three classes of eight small pictures each."""
    folder = tmp_path_factory.mktemp("data")
    return find_data(write_photos(folder, classes=("ash", "birch", "cedar"), count=8, size=(40, 36)))


@pytest.fixture
def config() -> TrainConfig:
    return TrainConfig(epochs=2, batch_size=8, preprocessing=Preprocessing(image_size=(32, 32)))
