"""Records of benchmarks that never happened, for tests of what is made of them."""

from __future__ import annotations

from typing import Any

from effvit.deploy.speed.records import CONTROL, Missing, Protocol, Record, Row, Shares
from effvit.timing import Spread, Timing

TIMING = Timing(samples_ms=(9.0, 10.0, 12.0), cpu_samples_ms=(20.0, 20.0, 20.0), calls_per_round=3, stable=True)


def row(model: str, batch_size: int, **changes: Any) -> Row:
    values: dict[str, Any] = {
        "model": model,
        "form": "rewritten",
        "runtime": "torch",
        "precision": "fp32",
        "batch_size": batch_size,
        "image_size": (224, 224),
        "num_params": 2_349_436,
        "timing": TIMING,
        "relative": Spread(1.25, 1.2, 1.3),
        "is_control": model.startswith(CONTROL),
    }
    return Row(**{**values, **changes})


def timing(*samples_ms: float) -> Timing:
    return Timing(samples_ms=samples_ms, cpu_samples_ms=samples_ms, calls_per_round=1, stable=True)


def record(*rows: Row, **changes: Any) -> Record:
    protocol: dict[str, Any] = {
        "batch_sizes": (1, 16),
        "image_size": None,
        "device": "cpu",
        "num_threads": 2,
        "rounds": 3,
        "min_round_seconds": 0.2,
        "warmup_seconds": 1.0,
    }
    protocol.update({name: changes.pop(name) for name in list(changes) if name in Protocol.__dataclass_fields__})
    environment = {
        "date": "2026-01-01",
        "cpu": "A Processor",
        "accelerator": "An Accelerator",
        "cores_usable": 2,
        "os": "Linux 6.1",
        "versions": {"torch": "2.15.0"},
        "commit": "0123456789abcdef",
        "commit_is_exact": False,
    }
    environment.update(changes.pop("environment", {}))
    return Record(protocol=Protocol(**protocol), environment=environment, rows=rows, **changes)


def full_record() -> Record:
    """Something of everything."""
    peers = (
        ("efficientvit_m0", 63.3),
        ("efficientvit_m5", 77.1),
        ("mobilenetv3_large_100", 75.766),
        ("some <model>", None),
    )
    rows = [
        row(model, size, runtime=runtime, precision=precision, top1=top1, timing=timing(9.0 + i, 10.0 + i, 12.0 + i))
        for size in (1, 16)
        for runtime, precision in (("torch", "fp32"), ("onnxruntime", "fp32"), ("onnxruntime", "int8"))
        for i, (model, top1) in enumerate(peers)
    ]
    rows += [row(f"{CONTROL}efficientvit_m0", size, relative=Spread(1.02, 0.99, 1.05)) for size in (1, 16)]
    missing = Missing(model="odd", runtime="openvino", precision="int8", batch_size=1, reason="no <such> operator")
    shares = Shares(
        model="efficientvit_m0",
        runtime="torch",
        precision="fp32",
        batch_size=1,
        shares={"products: convolution, matrix": 0.7, "moving data": 0.3},
    )
    return record(*rows, missing=(missing,), shares=(shares,), command="effvit benchmark <models>")
