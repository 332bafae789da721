"""int8 for ONNX Runtime: QDQ, weights signed and per channel, activations unsigned.

Unsigned activations are what x86 multiplies fast: with signed ones the same network is two to three times
slower. The file stays an ordinary ONNX file (QuantizeLinear and DequantizeLinear around float operators),
which ONNX Runtime turns into int8 operators when it opens it.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
from torch import Tensor

from effvit.deploy.quantization.damage import (
    MAX_ERROR,
    MAX_FLOAT_MACS,
    NUM_JUDGES,
    LayerDamage,
    Progress,
    Quantization,
    calibration_arrays,
    check_known,
    choose_float_layers,
    logits_error,
)
from effvit.deploy.quantization.onnx_graph import Graph, Plan, plan, plan_layer
from effvit.deploy.quantization.onnx_ranges import DEFAULT_METHODS, METHODS, Histograms, Range, run
from effvit.deploy.quantization.onnx_rewrites import keep_logits_in_float, prepare
from effvit.errors import EffvitError, ExportError, WeightsError, first_line
from effvit.files import atomic_path


def quantize_onnx(
    source: Path | str,
    target: Path | str,
    calibration: Sequence[Tensor],
    *,
    methods: Sequence[str] = DEFAULT_METHODS,
    max_error: float = MAX_ERROR,
    max_float_macs: float = MAX_FLOAT_MACS,
    keep_float: Sequence[str] | None = None,
    on_step: Progress | None = None,
) -> Quantization:
    """Make an int8 file of a float32 one, for any classifier.

    The method that errs least on the calibration pictures is taken. If it errs more than `max_error`, every
    layer is measured alone, and those that do the most damage for their time stay in float.

    Args:
        source: Float ONNX file that takes pictures and gives logits; the batch may be free.
        target: Where to write; metadata are not carried over.
        calibration: Batches of real pictures, as the file takes them; 100 to 500 pictures are enough.
        methods: Names in `effvit.deploy.quantization.onnx_ranges.METHODS` to try.
        max_error: Error of the logits, see `logits_error`, to be reached by leaving layers in float.
        max_float_macs: Largest share of the multiply-accumulates left in float for it.
        keep_float: Layers to leave in float, nothing measured; `()` with one method is the fast way for
            networks whose accuracy does not matter. None to choose by damage.
        on_step: Told (steps done, steps in all): batches, methods, layers.

    Raises:
        WeightsError: If the source cannot be read or is int8 already.
        DataError: If there are too few pictures.
        ConfigError: If the pictures do not fit the file, or a method or layer is unknown.
        ExportError: If ONNX Runtime's tools cannot quantise the file.
        RunError: If the target cannot be written.
    """
    source = Path(source)
    model = _read(source)
    arrays = calibration_arrays(calibration, Graph(model).shape(model.graph.input[0].name), source.name)
    check_known("calibration method", methods or ("",), METHODS)
    with _translated(source), _quiet():
        work = _Work(source, model, arrays, on_step, num_methods=len(methods))
        work.check_layers(keep_float or ())
        errors = {method: work.error(method, work.plan(keep_float or ())) for method in methods}
        method = min(errors, key=lambda name: errors[name])
        damages = work.layers()
        kept = tuple(keep_float or ())
        if keep_float is None and errors[method] > max_error:
            damages = work.damages(method)
            kept = choose_float_layers(
                damages,
                errors[method],
                lambda names: work.error(method, work.plan(names)),
                max_error=max_error,
                max_float_macs=max_float_macs,
            )
        result = work.quantized(method, work.plan(kept))
        logits = run(result, arrays)
        with atomic_path(target) as temporary:
            onnx.save(result, temporary)
    return Quantization.judged(
        "onnxruntime",
        errors,
        method,
        damages,
        kept,
        max_error=max_error if keep_float is None else None,
        reference=work.reference,
        logits=logits,
    )


class _Work:
    """A prepared graph, its float answers and its histograms; quantises it whole or in part.

    Args:
        source: The float file.
        model: What is in it.
        arrays: Calibration batches.
        on_step: Progress.
        num_methods: How many methods will be tried.
    """

    def __init__(
        self,
        source: Path,
        model: onnx.ModelProto,
        arrays: Sequence[np.ndarray],
        on_step: Progress | None,
        *,
        num_methods: int,
    ) -> None:
        self.graph = prepare(source)
        self.arrays = arrays
        everything = plan(self.graph)
        self._on_step, self._done = on_step, 0
        self._total = len(arrays) + num_methods + len(everything.layers)
        self.reference = run(model, arrays)
        self._histograms = Histograms(self.graph.model, _tensors(self.graph, everything), arrays, self._step)
        self.unusable = self._histograms.unusable
        self._ranges: dict[str, dict[str, Range]] = {}
        self._everything = self.plan(())

    def plan(self, keep_float: Sequence[str]) -> Plan:
        """Everything in int8 that can be, but for these layers."""
        return plan(self.graph, keep_float=keep_float, unusable=self.unusable)

    def check_layers(self, names: Sequence[str]) -> None:
        """ConfigError if one of these is no layer."""
        check_known("layer", names, [layer.name for layer in self.layers()])

    def layers(self) -> list[LayerDamage]:
        """Every layer that can be quantised, its damage not measured."""
        macs = {name: self._macs(name) for name in self._everything.layers}
        total = sum(macs.values()) or 1.0
        return [self._layer(name, None, macs[name] / total) for name in macs]

    def damages(self, method: str) -> list[LayerDamage]:
        """Every layer with its damage: the error of the logits with it alone in int8."""
        found = []
        for name, layer in zip(self._everything.layers, self.layers(), strict=True):
            damage = self.error(method, plan_layer(self.graph, name), num_pictures=NUM_JUDGES)
            found.append(self._layer(name, damage, layer.mac_share))
        return found

    def error(self, method: str, nodes: Plan, *, num_pictures: int | None = None) -> float:
        """Error of the logits with these nodes in int8, on so many of the pictures; None for all."""
        arrays, count = [], 0
        for array in self.arrays:
            if num_pictures is not None and count >= num_pictures:
                break
            arrays.append(array)
            count += len(array)
        error = logits_error(self.reference[:count], run(self.quantized(method, nodes), arrays))
        self._step()
        return error

    def quantized(self, method: str, nodes: Plan) -> onnx.ModelProto:
        """A copy with these nodes between QuantizeLinear and DequantizeLinear."""
        from onnxruntime.quantization import CalibrationMethod, QDQQuantizer, QuantType
        from onnxruntime.quantization.calibrate import TensorsData

        if method not in self._ranges:
            ranges = self._histograms.ranges(method)
            for tensor, origin in _carried(self.graph, plan(self.graph)).items():  # in the order they run
                if origin in ranges:
                    ranges[tensor] = ranges[origin]
            self._ranges[method] = ranges
        # Ranges are given, so the method named here is but a label.
        data = TensorsData(CalibrationMethod.MinMax, self._ranges[method])
        copied = onnx.ModelProto()
        copied.CopyFrom(self.graph.model)
        quantizer = QDQQuantizer(
            copied,
            True,  # per channel
            False,  # all eight bits of the weights: with VNNI nothing overflows
            QuantType.QInt8,
            QuantType.QUInt8,
            data,
            nodes.nodes,
            [],
            sorted({self.graph.nodes[name].op_type for name in nodes.nodes}),
            {"ForceQuantizeNoInputCheck": True},  # the plan has decided
        )
        quantizer.quantize_model()
        result: onnx.ModelProto = quantizer.model.model
        keep_logits_in_float(result)
        return result

    def _macs(self, name: str) -> float:
        """Multiply-accumulates per picture: every value is one product with each weight of its channel."""
        node = self.graph.nodes[name]
        sides = self.graph.initializers[node.input[1]].dims
        transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
        channels = sides[0] if node.op_type == "Conv" or transposed else sides[-1]
        return float(self._histograms.sizes[node.output[0]] * math.prod(sides) / channels)

    def _layer(self, name: str, damage: float | None, mac_share: float) -> LayerDamage:
        node = self.graph.nodes[name]
        return LayerDamage(name=self.graph.layer_name(node), operator=node.op_type, damage=damage, mac_share=mac_share)

    def _step(self) -> None:
        self._done += 1
        if self._on_step is not None:
            self._on_step(self._done, max(self._done, self._total))


def _carried(graph: Graph, nodes: Plan) -> dict[str, str]:
    """What carriers give back -> what they took, whose range it has; a ReLU's output has its own."""
    carriers = [node for node in graph.nodes.values() if node.name in nodes.carriers and node.op_type != "Relu"]
    return {tensor: graph.activations(node)[0] for node in carriers for tensor in node.output}


def _tensors(graph: Graph, nodes: Plan) -> list[str]:
    """Tensors whose values must be counted."""
    chosen = [graph.nodes[name] for name in nodes.nodes]
    tensors = dict.fromkeys(tensor for node in chosen for tensor in (*graph.activations(node), *node.output))
    carried = _carried(graph, nodes)
    return [tensor for tensor in tensors if tensor not in carried]


def _read(path: Path) -> onnx.ModelProto:
    try:
        model = onnx.load(path)
    except FileNotFoundError as error:
        raise WeightsError(f"no such file: {path}") from error
    except Exception as error:  # protobuf's and onnx's errors share no base class but this
        raise WeightsError(f"{path} is not an ONNX model: {first_line(error)}") from error
    if Graph(model).is_quantized():
        raise WeightsError(f"{path} is quantised already: int8 is made from a float32 file")
    return model


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    """Failures of ONNX Runtime's tools in one line of ours."""
    try:
        yield
    except EffvitError:
        raise
    except Exception as error:  # their failures share no base class but this
        raise ExportError(f"{path.name} cannot be quantised: {first_line(error)}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the tools' advice off the terminal: they log through the root logger, and set it up to print."""
    handler, root = logging.NullHandler(), logging.getLogger()
    root.addHandler(handler)
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)
        root.removeHandler(handler)
