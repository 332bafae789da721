"""Which pictures an epoch of a run shows, and how often: what the configuration asks for reaches the loader."""

from __future__ import annotations

import dataclasses
from collections import Counter

import pytest

from effvit.data.augmentation import Augmentation
from effvit.data.datasets import PictureData
from effvit.train.batches import training_loader, validation_loader
from effvit.train.config import TrainConfig


def indices(data: PictureData, config: TrainConfig, epoch: int = 0) -> list[int]:
    """Positions among the training pictures, in the order in which an epoch shows them."""
    return [index for batch in training_loader(data, config).batches(epoch) for index in batch.indices.tolist()]


@pytest.fixture
def uneven(data: PictureData) -> PictureData:
    """Eight pictures of the first class, two of each of the others."""
    ordered = sorted(data.train, key=lambda sample: sample.target)
    few = [sample for target in (1, 2) for sample in ordered if sample.target == target]
    return dataclasses.replace(data, train=(*ordered[:8], *few[:2], *few[-2:]))


def test_shuffled_epochs_show_each_picture_once(uneven: PictureData, config: TrainConfig) -> None:
    first, second = (indices(uneven, config, epoch) for epoch in (0, 1))
    everything = list(range(len(uneven.train)))
    assert sorted(first) == sorted(second) == everything
    assert len({tuple(first), tuple(second), tuple(everything)}) == 3


def test_balanced_epochs_show_each_class_equally_often(uneven: PictureData, config: TrainConfig) -> None:
    shown = indices(uneven, dataclasses.replace(config, sampler="balanced"))
    assert Counter(uneven.train[index].target for index in shown) == {0: 4, 1: 4, 2: 4}


@pytest.mark.parametrize("repeats", [2, 3])
def test_repeated_epochs_show_a_share_of_the_pictures_several_times(
    uneven: PictureData, config: TrainConfig, repeats: int
) -> None:
    shown = indices(uneven, dataclasses.replace(config, augmentation=Augmentation(repeats=repeats)))
    assert len(shown) == len(uneven.train) and set(Counter(shown).values()) == {repeats}


def test_validation_shows_each_picture_once_whatever_training_does(data: PictureData, config: TrainConfig) -> None:
    for changed in (
        dataclasses.replace(config, sampler="balanced"),
        dataclasses.replace(config, augmentation=Augmentation(repeats=3)),
    ):
        shown = [index for batch in validation_loader(data, changed).batches() for index in batch.indices.tolist()]
        assert shown == list(range(len(data.val)))
