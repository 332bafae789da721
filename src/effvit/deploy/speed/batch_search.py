"""The largest batch that fits on a device, and the one of the highest throughput, found by doubling."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from effvit.errors import ConfigError

LARGEST = 2**14
"""Where the search ends: throughput is flat long before."""


@dataclass(frozen=True, kw_only=True)
class BatchSearch:
    """What was found."""

    largest: int
    """Largest power of two that fits."""
    best: int
    """The one of the highest throughput."""
    images_per_second: dict[int, float]
    """Batch size -> pictures per second, of all that were tried."""


def search_batch_size(seconds_per_call: Callable[[int], float], *, largest: int = LARGEST) -> BatchSearch:
    """Double the batch until memory ends.

    Args:
        seconds_per_call: From a batch size to the time of one call; raises `torch.OutOfMemoryError` where the batch
            does not fit.
        largest: No batch above this is tried.

    Raises:
        ConfigError: If not even one picture fits.
    """
    speeds: dict[int, float] = {}
    batch_size, fits = 1, True
    while fits and batch_size <= largest:
        try:
            speeds[batch_size] = batch_size / seconds_per_call(batch_size)
        except torch.OutOfMemoryError:
            fits = False
        batch_size *= 2
    if not fits:
        torch.cuda.empty_cache()  # not in the handler, where the error still holds what the failed batch took
    if not speeds:
        raise ConfigError("not even a batch of one picture fits into the device's memory")
    return BatchSearch(largest=max(speeds), best=max(speeds, key=speeds.__getitem__), images_per_second=speeds)
