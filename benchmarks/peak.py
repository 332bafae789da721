"""What one core of this machine can do at most: the yardstick of docs/performance.md.

Multiplies large matrices in every library that the benchmarks lead through, and copies memory; the best of many
samples counts here, not the median, because a peak is asked for. Writes `results/peak.json`.

    python benchmarks/peak.py
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import onnxruntime
import torch
from onnx import TensorProto, helper

from effvit import timing
from effvit.analysis.roofline import copying
from effvit.deploy.speed.resources import pinned
from effvit.environment import environment
from effvit.files import write_json

RECORD = Path(__file__).resolve().parents[1] / "results" / "peak.json"
SIDE = 1024
"""Of the square matrices: large enough for full speed, small enough for the caches."""
COPIED_BYTES = 256 * 2**20
"""Far more than the caches hold."""


def main() -> int:
    """Measure and write the record; the exit code."""
    with timing.num_threads(1), pinned(1), torch.inference_mode():
        timings = timing.measure(_candidates(), rounds=20, min_round_seconds=0.1, warmup_seconds=0.5)
    seconds = {label: min(result.samples_ms) / 1e3 for label, result in timings.items()}
    copy_seconds = seconds.pop("copy")
    record = {
        "environment": environment(),
        "num_threads": 1,
        "side": SIDE,
        "giga_macs_per_second": {label: SIDE**3 / 1e9 / value for label, value in seconds.items()},
        "copy_gigabytes_per_second": 2 * COPIED_BYTES / 1e9 / copy_seconds,  # read and written
    }
    write_json(RECORD, record)
    for label, rate in record["giga_macs_per_second"].items():
        print(f"{label}: {rate:.0f} GMAC/s")
    print(f"copying: {record['copy_gigabytes_per_second']:.0f} GB/s")
    return 0


def _candidates() -> dict[str, Callable[[], object]]:
    a, b = torch.randn(SIDE, SIDE), torch.randn(SIDE, SIDE)
    return {
        "float32, torch with MKL": lambda: torch.mm(a, b),
        "float32, torch with oneDNN": lambda: torch.ops.mkldnn._linear_pointwise(a, b, None, "none", [], ""),
        "float32, ONNX Runtime": _onnx_product("MatMul", TensorProto.FLOAT, TensorProto.FLOAT, TensorProto.FLOAT),
        "int8, ONNX Runtime": _onnx_product("MatMulInteger", TensorProto.UINT8, TensorProto.INT8, TensorProto.INT32),
        "copy": copying(COPIED_BYTES),
    }


def _onnx_product(operator: str, left: int, right: int, result: int) -> Callable[[], object]:
    """A product in ONNX Runtime with a constant right side, as weights are."""
    ones = b"\x01" * SIDE * SIDE if right == TensorProto.INT8 else [1.0] * SIDE * SIDE
    weight = helper.make_tensor("b", right, [SIDE, SIDE], ones, raw=isinstance(ones, bytes))
    graph = helper.make_graph(
        [helper.make_node(operator, ["a", "b"], ["y"])],
        operator,
        [helper.make_tensor_value_info("a", left, [SIDE, SIDE])],
        [helper.make_tensor_value_info("y", result, [SIDE, SIDE])],
        [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    array = torch.ones(SIDE, SIDE, dtype=torch.uint8 if left == TensorProto.UINT8 else torch.float32).numpy()
    return lambda: session.run(None, {"a": array})


if __name__ == "__main__":
    sys.exit(main())
