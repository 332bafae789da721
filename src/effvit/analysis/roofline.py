"""What a machine can do at most, measured: the two ceilings of a roofline.

An operator with few MACs per byte cannot be faster than memory delivers, one with many not faster than the arithmetic
units multiply; where both ceilings meet is the ridge. The ceilings are measured with the libraries that torch itself
leads to, so that they are within reach of a network, and in a second or two, so that they hold for this moment.

Source: Williams, Waterman, Patterson, "Roofline", CACM 52(4), 2009.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F

from effvit import timing
from effvit.errors import ConfigError

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
"""Types that networks here run in."""


@dataclass(frozen=True, kw_only=True)
class Peaks:
    """The most that was measured on one machine, in one type, on so many threads."""

    device: str
    """`cpu`, `cuda`."""
    dtype: str
    """Of the operands."""
    num_threads: int
    """Threads of torch; of no consequence on other devices than the CPU."""
    macs_per_second: float
    """The best of `products`."""
    products: dict[str, float]
    """MACs per second of each kind of product that was tried."""
    bytes_per_second: float
    """Read plus written, copying far more than the caches hold."""
    cache_bytes_per_second: float
    """The same for a copy that the caches hold: what small feature maps can get between two operators."""
    copied_bytes: int
    """Size of the large copy, one side."""
    cached_bytes: int
    """Size of the small copy, one side."""

    @property
    def ridge(self) -> float:
        """MACs per byte from which on memory no longer limits."""
        return self.macs_per_second / self.bytes_per_second

    @property
    def how(self) -> str:
        """How the ceilings were found, in one sentence."""
        best = max(self.products, key=self.products.__getitem__)
        threads = f" on {self.num_threads} thread{'s' * (self.num_threads > 1)}" if self.device == "cpu" else ""
        return (
            f"Measured here{threads} in {self.dtype}: {self.macs_per_second / 1e9:,.0f} GMAC/s ({best}, the best of "
            f"{len(self.products)} products) and {self.bytes_per_second / 1e9:,.1f} GB/s read and written (a copy of "
            f"{self.copied_bytes / 2**20:,.0f} MiB; {self.cache_bytes_per_second / 1e9:,.0f} GB/s where the caches "
            f"hold it, {self.cached_bytes / 2**10:,.0f} KiB); they meet at {self.ridge:.1f} MACs per byte."
        )

    def attainable(self, intensity: float) -> float:
        """MACs per second that an operator of so many MACs per byte can reach."""
        return min(self.macs_per_second, intensity * self.bytes_per_second)

    def shortest_seconds(self, num_macs: int, bytes_moved: int) -> float:
        """The least time that so much work can take here: arithmetic or memory, whichever is longer."""
        return max(num_macs / self.macs_per_second, bytes_moved / self.bytes_per_second)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**asdict(self), "ridge": self.ridge, "how": self.how}


def measure_peaks(
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    num_threads: int | None = None,
    *,
    seconds: float = 2.0,
) -> Peaks:
    """Measure this machine's ceilings.

    Products are tried in every library that torch has for them: on CPUs its matrix product (MKL on x86) and its
    convolution (oneDNN) can differ by a factor of two. The best sample counts, not the median: a peak is asked for.

    Args:
        device: Where.
        dtype: Of the operands; on CUDA torch's settings for TF32 are left as they are, and hold for networks too.
        num_threads: Threads of torch on the CPU; None for its setting.
        seconds: About how long to measure.

    Raises:
        ConfigError: If the type is not a floating-point one, seconds are not positive, or torch cannot wait for
            the device.
    """
    device = torch.device(device)
    if dtype not in DTYPES:
        raise ConfigError(f"peaks are of {', '.join(map(_name, DTYPES))}, got {_name(dtype)}")
    if not seconds > 0:
        raise ConfigError(f"seconds must be above 0, got {seconds:g}")
    wait = timing.synchronizer(device)
    large, small = (2**28, 2**17) if device.type == "cpu" else (2**29, _cached_bytes(device))
    with timing.num_threads(num_threads) as threads, torch.inference_mode():
        share = seconds / (_ROUNDS * 6)
        candidates = _affordable(device, dtype, share, wait)
        calls = {label: call for label, (call, _) in candidates.items()}
        copies = {_LARGE: copying(large, device), _SMALL: copying(small, device)}
        # No warm-up: the best of all rounds counts, and the first of them warm up.
        timings = timing.measure(
            calls | copies, rounds=_ROUNDS, min_round_seconds=share, warmup_seconds=0, synchronize=wait
        )
    best = {label: min(result.samples_ms) / 1e3 for label, result in timings.items()}
    rates = {label: num_macs / best[label] for label, (_, num_macs) in candidates.items()}
    return Peaks(
        device=device.type,
        dtype=_name(dtype),
        num_threads=threads,
        macs_per_second=max(rates.values()),
        products=rates,
        bytes_per_second=2 * large / best[_LARGE],
        cache_bytes_per_second=2 * small / best[_SMALL],
        copied_bytes=large,
        cached_bytes=small,
    )


_LARGE, _SMALL = "large copy", "small copy"
_ROUNDS = 8
_PATIENCE = 5
"""A product is made smaller where one call would take so many times its share of the time."""


def products(
    device: torch.device, dtype: torch.dtype, *, shrink: int = 1
) -> dict[str, tuple[Callable[[], object], int]]:
    """Large products in every library that torch has for them.

    Args:
        device: Where.
        dtype: Of the operands.
        shrink: Divides both widths of each matrix, and so the MACs by its square or cube.

    Returns:
        Label to the call and its MACs.
    """
    on_cpu = device.type == "cpu"
    # Large enough for full speed; on a CPU small enough for its caches.
    side, channels, rows, batch = (1024, 512, 32, 1) if on_cpu else (8192, 2048, 64, 4)
    side, channels = side // shrink, channels // shrink
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    x = torch.randn(batch, channels, rows, rows, device=device).to(dtype)
    pointwise = torch.randn(channels, channels, 1, 1, device=device).to(dtype)
    last = x.contiguous(memory_format=torch.channels_last)
    num_pointwise = x.numel() * channels
    found: dict[str, tuple[Callable[[], object], int]] = {
        "matrix product": (lambda: torch.mm(a, b), side**3),
        "1x1 convolution": (lambda: F.conv2d(x, pointwise), num_pointwise),
        "1x1 convolution, channels last": (lambda: F.conv2d(last, pointwise), num_pointwise),
    }
    if on_cpu and dtype in (torch.float32, torch.bfloat16) and _has_onednn():
        linear = torch.ops.mkldnn._linear_pointwise
        found["matrix product, oneDNN"] = (lambda: linear(a, b, None, "none", [], ""), side**3)
    return found


def _affordable(
    device: torch.device, dtype: torch.dtype, seconds: float, wait: Callable[[], None] | None
) -> dict[str, tuple[Callable[[], object], int]]:
    """The products, each smaller where one call of the large one would take long: some types have no fast kernel."""
    full, small = products(device, dtype), products(device, dtype, shrink=4)
    tried = timing.measure(
        {label: call for label, (call, _) in small.items()},
        rounds=1,
        min_round_seconds=0,
        warmup_seconds=0,
        synchronize=wait,
    )
    slow = {
        label
        for label, (_, num_macs) in full.items()
        if tried[label].latency_ms / 1e3 * num_macs / small[label][1] > _PATIENCE * seconds
    }
    return {label: small[label] if label in slow else found for label, found in full.items()}


def copying(num_bytes: int, device: torch.device | str = "cpu") -> Callable[[], object]:
    """A call that copies so many bytes: it reads as many and writes as many."""
    source = torch.ones(num_bytes // 4, device=device)
    target = torch.empty_like(source)
    return lambda: target.copy_(source)


def _cached_bytes(device: torch.device) -> int:
    """A size of which two fit into the cache of an accelerator."""
    if device.type != "cuda":
        return 2**22
    return max(2**21, int(torch.cuda.get_device_properties(device).L2_cache_size) // 4)


def _has_onednn() -> bool:
    available: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return available and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
