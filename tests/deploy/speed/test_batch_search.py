"""The search for the largest batch, on a device whose memory is a number."""

from __future__ import annotations

import pytest
import torch

from effvit.deploy.speed.batch_search import search_batch_size
from effvit.errors import ConfigError


def device(memory: int, seconds: float = 0.01, per_picture: float = 0.001) -> object:
    def seconds_per_call(batch_size: int) -> float:
        if batch_size > memory:
            raise torch.OutOfMemoryError("out of memory")
        return seconds + per_picture * batch_size

    return seconds_per_call


@pytest.mark.parametrize(("memory", "largest"), [(1, 1), (2, 2), (100, 64), (128, 128)])
def test_the_largest_power_of_two_that_fits(memory: int, largest: int) -> None:
    search = search_batch_size(device(memory))
    assert search.largest == search.best == largest
    assert list(search.images_per_second) == [2**i for i in range(largest.bit_length())]


def test_the_best_is_not_always_the_largest() -> None:
    def slow_above_8(batch_size: int) -> float:
        return device(64)(batch_size) * (1 if batch_size <= 8 else 10)  # type: ignore[operator]

    search = search_batch_size(slow_above_8)
    assert (search.best, search.largest) == (8, 64)
    assert search.images_per_second[8] == pytest.approx(8 / 0.018)


def test_the_search_ends_without_the_memory_ending() -> None:
    assert search_batch_size(device(10**9), largest=32).largest == 32


def test_a_device_too_small_for_one_picture_is_said() -> None:
    with pytest.raises(ConfigError, match="not even a batch of one picture fits"):
        search_batch_size(device(0))


def test_other_errors_are_not_the_end_of_memory() -> None:
    def broken(batch_size: int) -> float:
        raise ValueError(f"broken at {batch_size}")

    with pytest.raises(ValueError, match="broken at 1"):
        search_batch_size(broken)
