from __future__ import annotations

from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from timm.data.distributed_sampler import RepeatAugSampler

from effvit.data.order import EpochOrder, EvenBatches, Order, View, repeated_views
from effvit.errors import ConfigError

ORDERS = [(Order.IN_ORDER, 1), (Order.SHUFFLE, 1), (Order.SHUFFLE, 3), (Order.BALANCED, 1)]


def batches(
    targets: list[int], *, batch_size: int = 8, order: Order = Order.SHUFFLE, repeats: int = 1, seed: int = 0,
    epoch: int = 0, start: int = 0, rank: int = 0, num_processes: int = 1,
) -> list[list[View]]:  # fmt: skip
    views = EpochOrder(targets=targets, order=order, repeats=repeats, seed=seed)
    sampler = EvenBatches(views, batch_size, rank=rank, num_processes=num_processes)
    sampler.epoch, sampler.start = epoch, start
    found = list(sampler)
    assert len(found) == len(sampler) - start
    return found


def flat(found: list[list[View]]) -> list[View]:
    return [view for batch in found for view in batch]


@given(st.integers(1, 300), st.integers(1, 70), st.integers(0, 3), st.sampled_from(ORDERS))
def test_batches_are_even_and_an_epoch_keeps_its_length(
    num_pictures: int, batch_size: int, epoch: int, order: tuple[Order, int]
) -> None:
    targets = [index % 7 for index in range(num_pictures)]
    found = batches(targets, batch_size=batch_size, order=order[0], repeats=order[1], epoch=epoch)
    sizes = [len(batch) for batch in found]
    assert sum(sizes) == num_pictures and max(sizes) <= batch_size and max(sizes) - min(sizes) <= 1
    assert all(view.epoch == epoch for view in flat(found))
    assert len(set(flat(found))) == num_pictures  # no look is had twice
    if order in (ORDERS[0], ORDERS[1]):
        assert sorted(view.position for view in flat(found)) == list(range(num_pictures))


@given(st.integers(1, 100), st.integers(1, 40), st.integers(1, 9), st.sampled_from(ORDERS))
def test_the_parts_of_all_processes_are_the_batch_of_one(
    num_pictures: int, batch_size: int, num_processes: int, order: tuple[Order, int]
) -> None:
    options = {"batch_size": batch_size, "order": order[0], "repeats": order[1], "epoch": 2}
    targets = [index % 3 for index in range(num_pictures)]
    alone = batches(targets, **options)  # type: ignore[arg-type]
    parts = [
        batches(targets, rank=rank, num_processes=num_processes, **options)  # type: ignore[arg-type]
        for rank in range(num_processes)
    ]
    for step, whole in enumerate(alone):
        sizes = [len(part[step]) for part in parts]
        assert flat([part[step] for part in parts]) == whole
        assert max(sizes) - min(sizes) <= 1


@given(st.integers(1, 100), st.integers(1, 20), st.data())
def test_an_epoch_goes_on_from_any_step(num_pictures: int, batch_size: int, data: st.DataObject) -> None:
    order, repeats = data.draw(st.sampled_from(ORDERS))
    whole = batches([0, 1] * num_pictures, batch_size=batch_size, order=order, repeats=repeats)
    start = data.draw(st.integers(0, len(whole)))
    rest = batches([0, 1] * num_pictures, batch_size=batch_size, order=order, repeats=repeats, start=start)
    assert rest == whole[start:]


def test_epochs_and_seeds_differ() -> None:
    for order, repeats in ORDERS[1:]:
        found = [
            [view.position for view in flat(batches([0, 1] * 20, order=order, repeats=repeats, epoch=epoch, seed=seed))]
            for epoch, seed in ((0, 0), (1, 0), (0, 1))
        ]
        assert found[0] != found[1] and found[0] != found[2]


@given(st.lists(st.integers(0, 5), min_size=1, max_size=60), st.integers(0, 4), st.integers(1, 5))
def test_balanced_classes_are_seen_equally_often(targets: list[int], seed: int, num_epochs: int) -> None:
    seen: Counter[int] = Counter()
    for epoch in range(num_epochs):
        views = flat(batches(targets, order=Order.BALANCED, seed=seed, epoch=epoch))
        per_class = Counter(targets[view.position] for view in views)
        shares = [per_class[target] for target in set(targets)]
        assert max(shares) - min(shares) <= 1
        seen.update(view.position for view in views)
        numbers: dict[int, list[int]] = {}
        for view in views:
            numbers.setdefault(view.position, []).append(view.number)
        assert all(sorted(looks) == list(range(len(looks))) for looks in numbers.values())
    for target in set(targets):  # and so is every picture of a class, over all epochs
        looks = [seen[position] for position, other in enumerate(targets) if other == target]
        assert max(looks) - min(looks) <= 1


@pytest.mark.parametrize("seed", range(5))
def test_every_batch_of_a_balanced_epoch_mixes_the_classes(seed: int) -> None:
    """Class after class, a step would see one class alone, and its norms that class's statistics."""
    targets = [0] * 40 + [1] * 15 + [2] * 5
    for epoch in range(3):
        for batch in batches(targets, batch_size=20, order=Order.BALANCED, seed=seed, epoch=epoch):
            assert {targets[view.position] for view in batch} == {0, 1, 2}


@given(st.integers(1, 100), st.integers(2, 5))
def test_repeated_pictures_are_seen_as_often_as_asked(num_pictures: int, repeats: int) -> None:
    views = flat(batches([0] * num_pictures, order=Order.SHUFFLE, repeats=repeats))
    numbers: dict[int, list[int]] = {}
    for view in views:
        numbers.setdefault(view.position, []).append(view.number)
    full = [looks for looks in numbers.values() if sorted(looks) == list(range(repeats))]
    assert len(full) == num_pictures // repeats and len(numbers) == -(-num_pictures // repeats)


def test_ten_pictures_are_enough_for_repeated_augmentation() -> None:
    """The official sampler gives len // 256 * 256 pictures an epoch: none, of ten."""
    assert len(flat(batches([0] * 10, order=Order.SHUFFLE, repeats=3))) == 10


@pytest.mark.parametrize("num_processes", [1, 2, 3, 4])
def test_repeats_are_timms(num_processes: int) -> None:
    """The same stream of pictures; timm deals it out in turns, here it is cut into stretches."""
    samplers = [RepeatAugSampler(range(768), num_processes, rank) for rank in range(num_processes)]
    for sampler in samplers:
        sampler.set_epoch(5)
    shuffled = torch.randperm(768, generator=torch.Generator().manual_seed(5))
    ours = repeated_views(shuffled, repeats=3)[:, 0].tolist()
    assert ours == [position for turn in zip(*samplers, strict=True) for position in turn]


@given(st.integers(2, 4), st.integers(0, 4), st.integers(20, 60), st.integers(20, 200))
def test_the_looks_at_a_picture_come_to_different_processes(
    repeats: int, more: int, batch_size: int, num_pictures: int
) -> None:
    num_processes = repeats + more
    for rank in range(num_processes):
        part = batches(
            [0] * num_pictures, batch_size=batch_size, repeats=repeats, rank=rank, num_processes=num_processes
        )
        for batch in part:
            if num_pictures // len(part) >= num_processes * repeats:
                assert len({view.position for view in batch}) == len(batch)


@pytest.mark.parametrize(("order", "repeats"), [(Order.SHUFFLE, 0), (Order.BALANCED, 2), (Order.IN_ORDER, 3)])
def test_repeats_that_make_no_sense_are_errors(order: Order, repeats: int) -> None:
    with pytest.raises(ConfigError, match=f"repeats must be at least 1, .*got {repeats} with order {order}"):
        batches([0, 1], order=order, repeats=repeats)


@pytest.mark.parametrize("rank", [-1, 2])
def test_a_process_that_is_not_there_is_an_error(rank: int) -> None:
    with pytest.raises(ConfigError, match=rf"rank must be in 0\.\.num_processes-1, got {rank} of 2"):
        batches([0, 1], rank=rank, num_processes=2)
