"""Ranges of activations from calibration pictures: one pass for the histograms, every method from them."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch

from effvit.errors import ConfigError, unknown_name

METHODS = ("min-max", "least-squares", "percentile-99.999", "percentile-99.99", "entropy")
"""How a range may follow from the pictures."""
DEFAULT_METHODS = METHODS[:4]
"""Those tried if nothing is said: on M0, entropy (TensorRT's) took 37 s and lost six points of accuracy."""

Range = tuple[np.ndarray, np.ndarray]
"""Lowest and highest value, float32 without dimensions."""


class Histograms:
    """What the tensors of a float model hold on calibration pictures.

    Args:
        model: The model.
        tensors: Whose values are counted.
        arrays: Batches of pictures as the model takes them.
        on_batch: Told after each batch.

    Counted by ONNX Runtime's own collector, but batch by batch: its calibrators keep the values of all pictures.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        tensors: Sequence[str],
        arrays: Sequence[np.ndarray],
        on_batch: Callable[[], None],
    ) -> None:
        from onnxruntime.quantization.calibrate import HistogramCollector

        self._collector = HistogramCollector("percentile", False, 512, 128, 100.0, "same")
        self.unusable: set[str] = set()
        """Tensors with values that are not finite, such as masks."""
        self.sizes: dict[str, float] = {}
        """Values per picture of each tensor."""
        session = open_session(_with_outputs(model, tensors))
        feed = session.get_inputs()[0].name
        for array in arrays:
            values = dict(zip(tensors, session.run(list(tensors), {feed: array}), strict=True))
            self.unusable |= {name for name, value in values.items() if not np.isfinite(value).all()}
            self.sizes = {name: value.size / len(array) for name, value in values.items()}
            with redirect_stdout(io.StringIO()):  # it tells about every batch
                self._collector.collect({name: values[name] for name in values if name not in self.unusable})
            on_batch()

    def ranges(self, method: str) -> dict[str, Range]:
        """Range of each usable tensor by a method of `METHODS`; ConfigError if there is no such method."""
        counted: dict[str, Any] = self._collector.histogram_dict
        with redirect_stdout(io.StringIO()):
            if method == "min-max":
                found = {name: histogram[2:4] for name, histogram in counted.items()}
            elif method == "least-squares":
                found = {name: _least_squares(*histogram[:4]) for name, histogram in counted.items()}
            elif method == "entropy":
                found = self._collector.compute_entropy()
            elif method in METHODS:
                self._collector.percentile = float(method.removeprefix("percentile-"))
                found = self._collector.compute_percentile()
            else:
                raise ConfigError(unknown_name("calibration method", method, METHODS))
        return {
            name: (np.asarray(value[0], np.float32).reshape(()), np.asarray(value[1], np.float32).reshape(()))
            for name, value in found.items()
            if name not in self.unusable
        }


def _least_squares(counts: np.ndarray, edges: np.ndarray, lowest: float, highest: float) -> tuple[float, float]:
    """The range within lowest..highest whose rounding and clipping together err least on the histogram."""
    lowest, highest = min(float(lowest), 0.0), max(float(highest), 0.0)
    shares, values = counts / max(counts.sum(), 1), (edges[:-1] + edges[1:]) / 2
    factors = np.linspace(0.2, 1.0, 33)
    low, high = (side.ravel()[:, None] for side in np.meshgrid(lowest * factors, highest * factors))
    clipped = np.square(values - np.clip(values, low, high)) @ shares
    rounded = np.square((high - low)[:, 0] / 255) / 12  # the variance of a rounding to steps of this width
    best = int(np.argmin(clipped + rounded))
    return float(low[best, 0]), float(high[best, 0])


def open_session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    """A model in memory, on as many threads as torch."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = torch.get_num_threads()
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def run(model: onnx.ModelProto, arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Logits of a model, (pictures, classes)."""
    session = open_session(model)
    feed = session.get_inputs()[0].name
    return np.concatenate([session.run(None, {feed: array})[0] for array in arrays])


def _with_outputs(model: onnx.ModelProto, tensors: Sequence[str]) -> onnx.ModelProto:
    """A copy that gives these tensors back too."""
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    known = {output.name for output in copied.graph.output}
    copied.graph.output.extend(onnx.ValueInfoProto(name=name) for name in tensors if name not in known)
    return copied
