from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from effvit.data.augmentation import Augmentation
from effvit.data.datasets import find_samples
from effvit.data.loaders import Batch, PictureLoader, Unreadable, UnreadableCount
from effvit.data.order import Order
from effvit.data.randomness import derive_seed
from effvit.data.samples import Sample
from effvit.data.transforms import Transform, eval_transform, train_transform
from effvit.data.views import dead_workers_in_one_line
from effvit.errors import ConfigError, DataError, RunError
from effvit.preprocessing import Preprocessing

SMALL = Preprocessing(image_size=(32, 32))


@pytest.fixture
def samples(photos: Path) -> tuple[Sample, ...]:
    return find_samples(photos).samples


STRONG = Augmentation(rand_augment="rand-m9-mstd0.5-inc1")


def augmented(samples: tuple[Sample, ...], augmentation: Augmentation | None = None, **options: int) -> PictureLoader:
    transform = train_transform(SMALL, augmentation or Augmentation())
    return PictureLoader(samples, transform, batch_size=8, order=Order.SHUFFLE, **options)


def equal(first: list[Batch], second: list[Batch]) -> bool:
    return len(first) == len(second) and all(
        torch.equal(a.images, b.images) and torch.equal(a.indices, b.indices) and torch.equal(a.targets, b.targets)
        for a, b in zip(first, second, strict=True)
    )


@pytest.mark.parametrize("augmentation", [None, STRONG])
def test_workers_do_not_change_a_batch(samples: tuple[Sample, ...], augmentation: Augmentation | None) -> None:
    alone, helped = augmented(samples, augmentation, seed=3), augmented(samples, augmentation, seed=3, num_workers=2)
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


def test_a_pass_leaves_the_global_generators_alone(samples: tuple[Sample, ...]) -> None:
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    list(augmented(samples, STRONG).batches(0))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before[1:]


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("repeats", [1, 3])
def test_a_pass_goes_on_from_any_step(samples: tuple[Sample, ...], num_workers: int, repeats: int) -> None:
    loader = augmented(samples, STRONG, num_workers=num_workers, repeats=repeats)
    whole = list(loader.batches(2))
    for start in (1, len(loader) - 1, len(loader)):
        assert equal(list(loader.batches(2, start)), whole[start:])


@pytest.mark.parametrize("repeats", [1, 3])
def test_processes_share_a_batch(samples: tuple[Sample, ...], repeats: int) -> None:
    alone = augmented(samples, STRONG, repeats=repeats)
    parts = [augmented(samples, STRONG, repeats=repeats, rank=rank, num_processes=2) for rank in range(2)]
    assert {len(part) for part in parts} == {len(alone)}
    for whole, *pieces in zip(alone.batches(1), *(part.batches(1) for part in parts), strict=True):
        assert torch.equal(torch.cat([piece.images for piece in pieces]), whole.images)
        assert torch.equal(torch.cat([piece.indices for piece in pieces]), whole.indices)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_process_without_pictures_gets_an_empty_batch(samples: tuple[Sample, ...], num_workers: int) -> None:
    transform = eval_transform(SMALL)
    (batch,) = PictureLoader(
        samples[:2], transform, batch_size=8, rank=2, num_processes=3, num_workers=num_workers
    ).batches()
    assert len(batch.images) == len(batch.targets) == len(batch.indices) == len(batch.unreadable) == 0


@pytest.mark.parametrize(("order", "repeats"), [(Order.SHUFFLE, 3), (Order.BALANCED, 1)])
def test_each_look_at_a_picture_is_another(photos: Path, order: Order, repeats: int) -> None:
    samples = find_samples(photos).samples[:12]  # ten of one class and two of another
    transform = train_transform(SMALL, Augmentation())
    loader = PictureLoader(samples, transform, batch_size=5, order=order, repeats=repeats)
    assert sum(len(batch.indices) for batch in loader.batches()) == len(samples)
    looks = [tuple(image.flatten().tolist()) for batch in loader.batches() for image in batch.images]
    assert len(set(looks)) == len(samples)
    positions = [position for batch in loader.batches() for position in batch.indices.tolist()]
    assert len(set(positions)) == (4 if order is Order.SHUFFLE else 8)


def test_the_wait_for_data_is_told(samples: tuple[Sample, ...]) -> None:
    def slow(picture: Image.Image) -> torch.Tensor:
        time.sleep(0.005)
        return torch.zeros(3, 8, 8, dtype=torch.uint8)

    loader = PictureLoader(samples, slow, batch_size=8)
    for _ in range(2):  # of the last pass alone
        started = time.perf_counter()
        for _ in loader.batches():
            time.sleep(0.05)
        passed = time.perf_counter() - started
        assert 0.005 * len(samples) <= loader.seconds_waited <= passed - 0.05 * len(loader)


class KilledAtFive:
    """A transform that ends its process as the machine does when it is short of memory."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, picture: Image.Image) -> torch.Tensor:
        self.calls += 1
        if self.calls == 5:
            os.kill(os.getpid(), signal.SIGKILL)
        return torch.zeros(3, 8, 8, dtype=torch.uint8)


def test_a_killed_worker_is_one_line(samples: tuple[Sample, ...]) -> None:
    loader = PictureLoader(samples, KilledAtFive(), batch_size=2, num_workers=1)
    with (
        pytest.raises(RunError, match=r"^a process that decodes pictures was killed \(.*pid.*num_workers=\.\.\.\)$"),
        dead_workers_in_one_line(),
    ):
        try:
            list(loader.batches())
        finally:
            time.sleep(0.5)  # torch also raises from a signal, which must not arrive after this block


def test_other_errors_pass_the_block_for_dead_workers() -> None:
    with pytest.raises(RuntimeError, match="another") as caught, dead_workers_in_one_line():
        raise RuntimeError("another")
    assert not isinstance(caught.value, RunError)


def test_more_workers_than_cores_are_no_warning(samples: tuple[Sample, ...]) -> None:
    workers = len(os.sched_getaffinity(0)) + 1
    assert next(PictureLoader(samples, eval_transform(SMALL), batch_size=4, num_workers=workers).batches())


def test_an_interrupted_pass_ends_its_workers_quietly(samples: tuple[Sample, ...], tmp_path: Path) -> None:
    script = """
import sys, time
from pathlib import Path
from effvit.data.datasets import find_samples
from effvit.data.loaders import PictureLoader
from effvit.data.transforms import eval_transform
from effvit.preprocessing import Preprocessing

loader = PictureLoader(find_samples(Path(sys.argv[1])).samples, eval_transform(Preprocessing(image_size=(32, 32))),
                       batch_size=1, num_workers=2)
try:
    for _ in loader.batches():
        print("ready", flush=True)
        time.sleep(60)
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(samples[0].path.parents[1])],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    output, errors = process.communicate(timeout=60)
    assert (output, errors, process.returncode) == ("interrupted\n", "", 0)


def test_evaluation_order_is_the_samples(samples: tuple[Sample, ...]) -> None:
    loader = PictureLoader(samples, eval_transform(SMALL), batch_size=7)
    batches = list(loader.batches())
    assert torch.cat([batch.indices for batch in batches]).tolist() == list(range(len(samples)))
    assert torch.cat([batch.targets for batch in batches]).tolist() == [sample.target for sample in samples]
    assert len(batches) == len(loader)


@pytest.mark.parametrize("transform", [eval_transform(SMALL), train_transform(SMALL, Augmentation())])
def test_corrupt_picture_is_left_out_and_reported(
    samples: tuple[Sample, ...], tmp_path: Path, transform: Transform
) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"no picture")
    mixed = [samples[0], Sample(tmp_path / "bad.jpg", 2), samples[1]]
    (batch,) = PictureLoader(mixed, transform, batch_size=4).batches()
    assert batch.indices.tolist() == [0, 2] and len(batch.images) == len(batch.targets) == 2
    assert [entry.position for entry in batch.unreadable] == [1]
    assert "bad.jpg: not a picture" in batch.unreadable[0].reason


def test_batch_of_corrupt_pictures_is_empty(tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").touch()
    (batch,) = PictureLoader([Sample(tmp_path / "bad.jpg", 0)], eval_transform(SMALL), batch_size=4).batches()
    assert len(batch.targets) == len(batch.images) == 0 and len(batch.unreadable) == 1


@pytest.mark.parametrize(
    ("num_pictures", "share", "allowed"),
    [(1, 0.01, 1), (10, 0.01, 1), (199, 0.01, 1), (200, 0.01, 2), (1000, 0.01, 10), (10, 0.0, 1), (10, 0.5, 5)],
)
def test_more_than_one_and_the_share_is_too_many(num_pictures: int, share: float, allowed: int) -> None:
    count = UnreadableCount(num_pictures, share)
    for position in range(allowed):
        count.add([Unreadable(position, f"cannot read picture {position}.jpg: x")])
    with pytest.raises(
        DataError,
        match=rf"at least {allowed + 1} of {num_pictures} pictures .*{share:.2%}; .*max_unreadable.* picture 0\.jpg: x",
    ):
        count.add([Unreadable(allowed, "cannot read picture last.jpg: x")])


def test_all_pictures_may_be_unreadable_if_that_is_allowed() -> None:
    count = UnreadableCount(3, 1.0)
    count.add(Unreadable(position, "x") for position in range(3))
    assert count.reasons == ["x"] * 3


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
