from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from photos import unpack_photos

from effvit.data.augmentation import Augmentation
from effvit.data.datasets import FolderData, find_data
from effvit.preprocessing import Preprocessing
from effvit.train.config import TrainConfig


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Networks this small are fastest so, above all where several tests share the cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def photos(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of ten photos; read only."""
    return unpack_photos(data_dir, tmp_path_factory.mktemp("photos"), num_classes=3, per_class=10)


@pytest.fixture(scope="session")
def data(photos: Path) -> FolderData:
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
