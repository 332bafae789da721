"""Ceilings of a machine: how they follow from samples. What the samples are decides nothing here."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch

from effvit import timing
from effvit.analysis import roofline
from effvit.analysis.roofline import Peaks, copying, measure_peaks, products
from effvit.errors import ConfigError

CPU = torch.device("cpu")


def peaks(**changed: Any) -> Peaks:
    values: dict[str, Any] = {
        "device": "cpu",
        "dtype": "float32",
        "num_threads": 1,
        "macs_per_second": 50e9,
        "products": {"matrix product": 20e9, "1x1 convolution": 50e9},
        "bytes_per_second": 10e9,
        "cache_bytes_per_second": 40e9,
        "copied_bytes": 2**28,
        "cached_bytes": 2**17,
    }
    return Peaks(**values | changed)


def test_both_ceilings_meet_at_the_ridge() -> None:
    found = peaks()
    assert found.ridge == 5
    assert found.attainable(found.ridge) == found.macs_per_second
    assert found.attainable(2) == 20e9  # memory limits
    assert found.attainable(50) == 50e9  # arithmetic limits
    assert found.shortest_seconds(100_000_000_000, 1) == 2
    assert found.shortest_seconds(1, 5_000_000_000) == 0.5


def test_it_says_how() -> None:
    assert peaks().how == (
        "Measured here on 1 thread in float32: 50 GMAC/s (1x1 convolution, the best of 2 products) and 10.0 GB/s read "
        "and written (a copy of 256 MiB; 40 GB/s where the caches hold it, 128 KiB); they meet at 5.0 MACs per byte."
    )
    assert "thread" not in peaks(device="cuda").how
    assert "2 threads" in peaks(num_threads=2).how
    assert json.loads(json.dumps(peaks().to_dict()))["ridge"] == 5


def test_the_best_sample_of_the_best_product_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Products take 2 s and then 1 s a call, the 1x1 convolution half of that; copies take 1 s."""

    def pretend(candidates: Mapping[str, Callable[[], object]], **options: Any) -> dict[str, timing.Timing]:
        def samples(label: str) -> tuple[float, float]:
            return (1000.0, 500.0) if label == "1x1 convolution" else (2000.0, 1000.0)

        return {
            label: timing.Timing(
                samples_ms=samples(label), cpu_samples_ms=samples(label), calls_per_round=1, stable=False
            )
            for label in candidates
        }

    monkeypatch.setattr(timing, "measure", pretend)
    monkeypatch.setattr(roofline, "copying", lambda *_: lambda: None)  # sets half a gigabyte aside
    found = measure_peaks("cpu", torch.float32, 1, seconds=1e6)  # patient: the products of full size
    assert found.products["matrix product"] == 1024**3
    assert found.products["1x1 convolution"] == 2 * 512 * 512 * 32 * 32
    assert found.macs_per_second == max(found.products.values())
    assert found.bytes_per_second == 2 * 2**28
    assert found.cache_bytes_per_second == 2 * 2**17
    hurried = measure_peaks("cpu", torch.float32, 1, seconds=1e-6)
    assert hurried.products["matrix product"] == 256**3


def test_a_measurement() -> None:
    before = torch.get_num_threads()
    found = measure_peaks("cpu", torch.float32, 1, seconds=0.01)
    assert torch.get_num_threads() == before
    assert (found.device, found.dtype, found.num_threads) == ("cpu", "float32", 1)
    assert found.macs_per_second == max(found.products.values()) > 0
    assert min(found.bytes_per_second, found.cache_bytes_per_second) > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_products_have_the_macs_they_claim(dtype: torch.dtype) -> None:
    """As torch counts them, two operations each."""
    from torch.utils.flop_counter import FlopCounterMode

    for label, (call, num_macs) in products(CPU, dtype, shrink=8).items():
        with FlopCounterMode(display=False) as counter:
            result = call()
        assert isinstance(result, torch.Tensor)
        assert result.dtype == dtype
        if "oneDNN" not in label:  # which torch's counter does not know
            assert counter.get_total_flops() == 2 * num_macs, label


def test_a_copy_copies_so_many_bytes() -> None:
    target = copying(4096)()
    assert isinstance(target, torch.Tensor)
    assert target.numel() * target.element_size() == 4096
    assert bool((target == 1).all())


def test_what_cannot_be_measured() -> None:
    with pytest.raises(ConfigError, match="peaks are of float64, float32, bfloat16, float16, got int8"):
        measure_peaks("cpu", torch.int8)
    with pytest.raises(ConfigError, match="seconds must be above 0, got 0"):
        measure_peaks(seconds=0)
    with pytest.raises(ConfigError, match="number of threads must be at least 1, got 0"):
        measure_peaks(num_threads=0)
    with pytest.raises(ConfigError, match="cannot time on device meta"):
        measure_peaks("meta")
