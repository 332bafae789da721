"""Where the time of a forward pass goes, by class of operators: in torch and in ONNX Runtime.

The profilers cost time themselves, more for small operators, so the shares say where to look and not how fast
something is.
"""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch import Tensor

from effvit.operators import CLASSES, class_of
from effvit.silence import silence


def torch_shares(call: Callable[[], object], device: torch.device, *, repeats: int = 10) -> dict[str, float]:
    """Shares of the time that torch's operators take in themselves, those they call left out.

    Args:
        call: A forward pass in eager mode.
        device: Where it runs; on CUDA the kernels' time counts, and the launches' does not.
        repeats: Passes to sum over.
    """
    from torch.profiler import ProfilerActivity, profile

    on_cuda = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_cuda else [])]
    call()
    with silence(), profile(activities=activities, acc_events=True) as profiler:  # it announces itself in C++
        for _ in range(repeats):
            call()
        if on_cuda:
            torch.cuda.synchronize(device)
    events = [event for event in profiler.key_averages() if "::" in event.key]
    times = ((e.key, e.self_device_time_total if on_cuda else e.self_cpu_time_total) for e in events)
    return _shares(times)


def onnx_shares(path: Path, images: Tensor, *, num_threads: int, repeats: int = 10) -> dict[str, float]:
    """Shares of the time that the nodes of an ONNX file take in ONNX Runtime, after its own optimisations.

    Args:
        path: The file.
        images: What it takes: (B, C, H, W), float32, or (B, H, W, C), uint8.
        num_threads: Threads within an operator.
        repeats: Passes to sum over.
    """
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = num_threads
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        feed = {session.get_inputs()[0].name: images.numpy()}
        for _ in range(repeats):
            session.run(None, feed)
        events = json.loads(Path(session.end_profiling()).read_text())
    nodes = [event for event in events if event.get("cat") == "Node" and event["name"].endswith("_kernel_time")]
    return _shares((event["args"]["op_name"], event["dur"]) for event in nodes)


def _shares(times: Iterable[tuple[str, float]]) -> dict[str, float]:
    """Time by operator to share by class, in the order of `CLASSES`, without those that take none."""
    sums: dict[str, float] = defaultdict(float)
    for operator, duration in times:
        sums[class_of(operator)] += duration
    total = sum(sums.values())
    return {kind: sums[kind] / total for kind in CLASSES if sums[kind] > 0}
