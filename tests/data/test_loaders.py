from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from effvit.data.augmentation import Augmentation
from effvit.data.datasets import find_samples
from effvit.data.loaders import Batch, PictureLoader, Unreadable, UnreadableCount, _EvenBatches, derive_seed
from effvit.data.samples import Sample
from effvit.data.transforms import eval_transform, train_transform
from effvit.errors import ConfigError, DataError
from effvit.preprocessing import Preprocessing

SMALL = Preprocessing(image_size=(32, 32))


@pytest.fixture
def samples(photos: Path) -> tuple[Sample, ...]:
    return find_samples(photos).samples


def augmented(samples: tuple[Sample, ...], **options: int) -> PictureLoader:
    return PictureLoader(samples, train_transform(SMALL, Augmentation()), batch_size=8, shuffle=True, **options)


def equal(first: list[Batch], second: list[Batch]) -> bool:
    return len(first) == len(second) and all(
        torch.equal(a.images, b.images) and torch.equal(a.indices, b.indices) and torch.equal(a.targets, b.targets)
        for a, b in zip(first, second, strict=True)
    )


def test_workers_do_not_change_a_batch(samples: tuple[Sample, ...]) -> None:
    alone, helped = augmented(samples, seed=3), augmented(samples, seed=3, num_workers=2)
    for epoch in (0, 1, 5):  # the workers live on from epoch to epoch
        assert equal(list(alone.batches(epoch)), list(helped.batches(epoch)))


def test_an_epoch_is_the_same_whatever_came_before(samples: tuple[Sample, ...]) -> None:
    warm = augmented(samples)
    for epoch in range(3):
        list(warm.batches(epoch))
    assert equal(list(warm.batches(3)), list(augmented(samples).batches(3)))


def test_epochs_and_seeds_differ(samples: tuple[Sample, ...]) -> None:
    first = list(augmented(samples).batches(0))
    assert not equal(first, list(augmented(samples).batches(1)))
    assert not equal(first, list(augmented(samples, seed=1).batches(0)))


def test_a_pass_leaves_the_global_generator_alone(samples: tuple[Sample, ...]) -> None:
    before = torch.get_rng_state()
    list(augmented(samples).batches(0))
    assert torch.equal(torch.get_rng_state(), before)


def test_evaluation_order_is_the_samples(samples: tuple[Sample, ...]) -> None:
    loader = PictureLoader(samples, eval_transform(SMALL), batch_size=7)
    batches = list(loader.batches())
    assert torch.cat([batch.indices for batch in batches]).tolist() == list(range(len(samples)))
    assert torch.cat([batch.targets for batch in batches]).tolist() == [sample.target for sample in samples]
    assert len(batches) == len(loader)


@given(st.integers(1, 300), st.integers(1, 70), st.integers(0, 3))
def test_batches_are_even_and_leave_nothing_out(num_samples: int, batch_size: int, epoch: int) -> None:
    sampler = _EvenBatches(num_samples, batch_size, shuffle=True, seed=0)
    sampler.epoch = epoch
    batches = list(sampler)
    sizes = [len(batch) for batch in batches]
    assert sorted(index for batch in batches for _, index in batch) == list(range(num_samples))
    assert max(sizes) <= batch_size and max(sizes) - min(sizes) <= 1 and len(batches) == len(sampler)


def test_corrupt_picture_is_left_out_and_reported(samples: tuple[Sample, ...], tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"no picture")
    mixed = [samples[0], Sample(tmp_path / "bad.jpg", 2), samples[1]]
    (batch,) = PictureLoader(mixed, eval_transform(SMALL), batch_size=4).batches()
    assert batch.indices.tolist() == [0, 2] and len(batch.images) == len(batch.targets) == 2
    assert [entry.position for entry in batch.unreadable] == [1]
    assert "bad.jpg: not a picture" in batch.unreadable[0].reason


def test_batch_of_corrupt_pictures_is_empty(tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").touch()
    (batch,) = PictureLoader([Sample(tmp_path / "bad.jpg", 0)], eval_transform(SMALL), batch_size=4).batches()
    assert len(batch.targets) == len(batch.images) == 0 and len(batch.unreadable) == 1


@pytest.mark.parametrize(("num_pictures", "allowed"), [(1, 1), (10, 1), (199, 1), (200, 2), (1000, 10)])
def test_more_than_one_and_one_percent_is_too_many(num_pictures: int, allowed: int) -> None:
    count = UnreadableCount(num_pictures)
    for position in range(allowed):
        count.add([Unreadable(position, f"cannot read picture {position}.jpg: x")])
    with pytest.raises(DataError, match=rf"at least {allowed + 1} of {num_pictures} pictures .* picture 0\.jpg: x"):
        count.add([Unreadable(allowed, "cannot read picture last.jpg: x")])


def test_wrong_numbers_and_no_samples_are_errors(samples: tuple[Sample, ...]) -> None:
    with pytest.raises(ConfigError, match="batch_size must be at least 1, num_workers at least 0, got 0 and -1"):
        PictureLoader(samples, eval_transform(SMALL), batch_size=0, num_workers=-1)
    with pytest.raises(DataError, match="no pictures to load"):
        PictureLoader([], eval_transform(SMALL), batch_size=1)


def test_error_in_a_transform_is_not_taken_for_a_bad_picture(samples: tuple[Sample, ...]) -> None:
    def broken(picture: Image.Image) -> torch.Tensor:
        raise ZeroDivisionError("a bug")

    with pytest.raises(ZeroDivisionError, match="a bug"):
        list(PictureLoader(samples, broken, batch_size=4).batches())


def test_derived_seeds_do_not_collide() -> None:
    seeds = {
        derive_seed(purpose, seed, epoch, index)
        for purpose in ("picture", "order") for seed in range(3) for epoch in range(10) for index in range(50)
    }  # fmt: skip
    assert len(seeds) == 2 * 3 * 10 * 50
