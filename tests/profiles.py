"""Profiles that several test files read: written by hand, so that every number in them is known."""

from __future__ import annotations

from typing import Any

from effvit.analysis.profiling.records import ModelProfile, Operator, Profile
from effvit.analysis.roofline import Peaks
from effvit.operators import MOVEMENT, NORMS, OTHER, PRODUCTS
from effvit.timing import Timing

PEAKS = Peaks(
    device="cpu",
    dtype="float32",
    num_threads=1,
    macs_per_second=100e9,
    products={"matrix product": 40e9, "matrix product, oneDNN": 100e9},
    bytes_per_second=10e9,
    cache_bytes_per_second=50e9,
    copied_bytes=2**28,
    cached_bytes=2**17,
)
"""A ridge of ten MACs per byte."""


def operator(cause: str, ms: float, *, module: str = "blocks.0.conv", **facts: Any) -> Operator:
    kinds = {"copies": MOVEMENT, "batch_norm": NORMS, "layer_norm": NORMS, "other": OTHER}
    given = {"name": "aten::convolution", "kind": kinds.get(cause, PRODUCTS), "num_macs": 0, "bytes_moved": 0}
    return Operator(module=module, cause=cause, ms=ms, is_counted=True, **(given | facts))


def model(*operators: Operator, between_ms: float = 0.0, **facts: Any) -> ModelProfile:
    wall = between_ms + sum(one.ms for one in operators)
    given: dict[str, Any] = {
        "label": "timm:some",
        "is_ours": False,
        "is_compiled": False,
        "input_size": (3, 64, 64),
        "batch_size": 1,
        "dtype": "float32",
        "num_params": 10,
        "num_macs": max(1, sum(one.num_macs for one in operators)),
        "timing": Timing(samples_ms=(wall,), cpu_samples_ms=(wall,), calls_per_round=1, stable=True),
    }
    return ModelProfile(operators=operators, between_ms=between_ms, **(given | facts))


def profile(*models: ModelProfile, device: str = "cpu") -> Profile:
    return Profile(models=models, device=device, num_threads=1, event_cost_us=0.5, peaks=PEAKS)
