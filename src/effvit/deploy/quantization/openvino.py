"""int8 for OpenVINO, by nncf: its rounding, its correction of biases, and our measure of what to leave alone.

nncf knows which operators OpenVINO runs in int8 on which processor. What it does not do is say what each
layer costs in accuracy; that is measured here as for ONNX Runtime, each layer alone in int8.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from effvit.deploy.formats.base import import_optional
from effvit.deploy.formats.openvino import EXTRA, GRAPH, reason
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
from effvit.deploy.quantization.openvino_graph import LAYERS, MOVES, is_constant, macs, values, weights_name
from effvit.errors import EffvitError, ExportError, WeightsError

METHODS = ("default", "transformer")
"""Kinds of network nncf tells apart, the fastest first: for a transformer it rounds less inside attention."""


def quantize_openvino(
    source: Path | str,
    target: Path | str,
    calibration: Sequence[Tensor],
    *,
    methods: Sequence[str] = METHODS,
    max_error: float = MAX_ERROR,
    max_float_macs: float = MAX_FLOAT_MACS,
    keep_float: Sequence[str] | None = None,
    on_step: Progress | None = None,
) -> Quantization:
    """Make an int8 file of a float32 one, for any classifier.

    The first method that comes within `max_error` is taken, else the best; then, as in `quantize_onnx`, the
    layers that do the most damage for their time stay in float.

    Args:
        source: Float `.openvino` folder, or `.xml` file, that takes pictures and gives logits; the batch may be free.
        target: Folder to make, or `.xml` to write with its `.bin` beside it; metadata are not carried over.
        calibration: Batches of real pictures, as the file takes them; 100 to 500 pictures are enough.
        methods: Of `METHODS`, to try in this order.
        max_error: Error of the logits, see `logits_error`, to be reached.
        max_float_macs: Largest share of the multiply-accumulates left in float for it.
        keep_float: Layers to leave in float, nothing measured; None to choose by damage.
        on_step: Told (steps done, steps in all): methods, layers, the last quantisation.

    Raises:
        WeightsError: If the source cannot be read or is int8 already.
        DataError: If there are too few pictures.
        ConfigError: If openvino or nncf are missing, the pictures do not fit, or a method or layer is unknown.
        ExportError: If nncf cannot quantise the file.
    """
    source = Path(source)
    check_known("calibration method", methods or ("",), METHODS)
    work = _Work(source, calibration, on_step, num_methods=len(methods))
    check_known("layer", keep_float or (), [layer.name for layer in work.layers])
    with _translated(source), _quiet():
        errors, best, method = {}, None, methods[0]
        for candidate in methods:
            model = work.quantized(candidate, keep_float or ())
            errors[candidate] = logits_error(work.reference, work.run(model))
            if errors[candidate] == min(errors.values()):
                best, method = model, candidate
            if errors[candidate] <= max_error:
                break
        layers, kept = work.layers, tuple(keep_float or ())
        if keep_float is None and errors[method] > max_error:
            layers = work.damages(best)
            kept = choose_float_layers(
                layers,
                errors[method],
                lambda names: logits_error(work.reference, work.run(work.quantized(method, names))),
                max_error=max_error,
                max_float_macs=max_float_macs,
            )
            best = work.quantized(method, kept) if kept else best
        logits = work.run(best)
        work.save(best, Path(target))
    return Quantization.judged(
        "openvino",
        errors,
        method,
        layers,
        kept,
        max_error=max_error if keep_float is None else None,
        reference=work.reference,
        logits=logits,
    )


class _Work:
    """A float model in OpenVINO and its answers; quantises it whole or one layer alone.

    Args:
        source: The file.
        calibration: Batches.
        on_step: Progress.
        num_methods: How many methods may be tried.
    """

    def __init__(
        self, source: Path, calibration: Sequence[Tensor], on_step: Progress | None, *, num_methods: int
    ) -> None:
        self._openvino, self._nncf = _modules()
        self._core = self._openvino.Core()
        self._model = self._read(source)
        shape = [side.get_length() if side.is_static else None for side in self._model.input(0).get_partial_shape()]
        self.arrays = calibration_arrays(calibration, shape, source.name)
        self._nodes = self._layer_nodes()
        self.layers = self._layers()
        self._on_step, self._done, self._total = on_step, 0, num_methods + len(self.layers) + 1
        self.reference = self.run(self._model)

    def quantized(self, method: str, keep_float: Sequence[str]) -> Any:
        """The model in int8 but for some layers."""
        nncf = self._nncf
        ignored = [self._nodes[name].get_friendly_name() for name in keep_float]
        result = nncf.quantize(
            self._model.clone(),
            nncf.Dataset(self.arrays),
            preset=nncf.QuantizationPreset.MIXED,
            target_device=nncf.TargetDevice.CPU,
            subset_size=len(self.arrays),
            model_type=nncf.ModelType.TRANSFORMER if method == "transformer" else None,
            ignored_scope=nncf.IgnoredScope(names=ignored) if ignored else None,
        )
        self._step()
        return result

    def damages(self, quantized: Any) -> tuple[LayerDamage, ...]:
        """Every layer with its damage: the error of the logits with it alone rounded as in the quantised model."""
        rounded = {node.get_friendly_name(): node for node in quantized.get_ops()}
        num_batches = -(-NUM_JUDGES // len(self.arrays[0]))
        found = []
        for layer in self.layers:
            name = self._nodes[layer.name].get_friendly_name()
            logits = self.run(self._alone(name, rounded[name]), self.arrays[:num_batches])
            damage = logits_error(self.reference[: len(logits)], logits)
            found.append(
                LayerDamage(name=layer.name, operator=layer.operator, damage=damage, mac_share=layer.mac_share)
            )
            self._step()
        return tuple(found)

    def run(self, model: Any, arrays: Sequence[np.ndarray] | None = None) -> np.ndarray:
        """Logits, (pictures, classes)."""
        settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
        arrays = self.arrays if arrays is None else arrays
        requests: dict[tuple[int, ...], Any] = {}
        for shape in {array.shape for array in arrays}:
            # For a known batch, as files are run: with a free one, OpenVINO cannot carry scales through every reshape.
            sized = model.clone()
            sized.reshape(list(shape))
            requests[shape] = self._core.compile_model(sized, "CPU", settings).create_infer_request()
        # The request writes its next answer into the same place.
        return np.concatenate([requests[array.shape].infer([array])[0].copy() for array in arrays])

    def save(self, model: Any, target: Path) -> None:
        """Write `.xml` and `.bin`, in a folder if the target is no `.xml`."""
        if target.suffix != ".xml":
            target.mkdir(exist_ok=True)
            target = target / GRAPH
        self._openvino.save_model(model, target, compress_to_fp16=False)

    def _alone(self, name: str, rounded: Any) -> Any:
        """The float model with one layer's input and weights rounded."""
        ops = self._openvino.opset13
        copied = self._model.clone()
        node = next(node for node in copied.get_ops() if node.get_friendly_name() == name)
        weights = ops.constant(values(rounded.input_value(1).get_node()).astype(np.float32))
        node.input(1).replace_source_output(weights.output(0))
        # nncf lifts a rounding above changes of layout, where its channels may be another axis: so it is put there.
        fake, place = rounded.input_value(0).get_node(), node.input(0)
        while fake.get_type_name() in MOVES:
            fake = fake.input_value(0).get_node()
            place = place.get_source_output().get_node().input(0)
        if fake.get_type_name() == "FakeQuantize":
            bounds = [values(fake.input_value(index).get_node()) for index in range(1, 5)]
            levels = fake.get_attributes()["levels"]
            around = ops.fake_quantize(place.get_source_output(), *map(ops.constant, bounds), levels)
            place.replace_source_output(around.output(0))
        return copied

    def _read(self, source: Path) -> Any:
        if not source.exists():
            raise WeightsError(f"no such file: {source}")
        try:
            model = self._core.read_model(source / GRAPH if source.is_dir() else source)
        except RuntimeError as error:
            raise WeightsError(f"{source} is not a model that OpenVINO can read: {reason(error)}") from error
        if any(node.get_type_name() == "FakeQuantize" for node in model.get_ops()):
            raise WeightsError(f"{source} is quantised already: int8 is made from a float32 file")
        return model

    def _layer_nodes(self) -> dict[str, Any]:
        """Operators with weights by name, that of the weights if they have one of their own."""
        found: dict[str, Any] = {}
        for node in self._model.get_ordered_ops():
            if node.get_type_name() in LAYERS and is_constant(node.input_value(1).get_node()):
                name = weights_name(node.input_value(1).get_node())
                found[name if name and name not in found else node.get_friendly_name()] = node
        return found

    def _layers(self) -> tuple[LayerDamage, ...]:
        """Every layer, its damage not measured."""
        sized = self._model.clone()
        sized.reshape(list(self.arrays[0].shape))  # with a free batch, the number of tokens is unknown
        sizes = {
            node.get_friendly_name(): node.output(0).get_shape()
            for node in sized.get_ops()
            if node.get_type_name() in LAYERS
        }
        counts = {name: macs(node, sizes[node.get_friendly_name()]) for name, node in self._nodes.items()}
        total = sum(counts.values()) or 1.0
        return tuple(
            LayerDamage(name=name, operator=node.get_type_name(), damage=None, mac_share=counts[name] / total)
            for name, node in self._nodes.items()
        )

    def _step(self) -> None:
        self._done += 1
        if self._on_step is not None:
            self._on_step(self._done, max(self._done, self._total))


def _modules() -> tuple[Any, Any]:
    """OpenVINO and nncf; ConfigError if they are not installed."""
    with _quiet():
        return import_optional("openvino", EXTRA), import_optional("nncf", EXTRA)


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    """Failures of nncf in one line of ours."""
    try:
        yield
    except EffvitError:
        raise
    except Exception as error:  # its failures share no base class but this
        raise ExportError(f"{path.name} cannot be quantised: {reason(error)}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep nncf's log and its progress bars off the terminal."""
    logger = logging.getLogger("nncf")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)
