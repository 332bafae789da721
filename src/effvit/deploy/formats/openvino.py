"""OpenVINO: a folder with the graph, its weights and their description; the fastest of the runtimes on Intel's CPUs."""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from effvit.deploy.formats.base import ExportedModel, FileFormat, WriteOptions, import_optional
from effvit.deploy.formats.program import INPUT_NAME, OUTPUT_NAME, to_program
from effvit.deploy.metadata import FileMetadata
from effvit.errors import ConfigError, ExportError, RunError, WeightsError, first_line
from effvit.files import read_json, write_json
from effvit.silence import quiet

EXTRA = "openvino"
GRAPH = "model.xml"
DESCRIPTION = "metadata.json"
_MAX_COMPILED = 4
"""Batch sizes that are kept compiled: a folder of pictures comes in batches of two sizes."""


class OpenVinoModel(ExportedModel):
    """An `.openvino` folder, the `.xml` in it, or an ONNX file, in OpenVINO on the CPU.

    Compiled anew for each batch size it meets: with the batch known, OpenVINO fuses what it otherwise
    leaves apart (1.5 times faster for M0 at batch 1). Computes in float32: left to itself, OpenVINO
    takes bfloat16 where the processor has it, which is another network.

    Args:
        path: The folder or file.
        num_threads: See `ExportedModel`; by itself OpenVINO takes all cores.
        precision: "f32"; or "bf16" to compute in bfloat16, only where the processor has it: elsewhere OpenVINO
            emulates it, slower than float32.
    """

    def __init__(self, path: Path | str, *, num_threads: int | None = None, precision: str = "f32") -> None:
        openvino = import_optional("openvino", EXTRA)
        super().__init__(path, num_threads=num_threads)
        self._core = openvino.Core()
        _check_precision(precision, self._core)
        self._settings: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": precision}
        if num_threads is not None:
            self._settings["INFERENCE_NUM_THREADS"] = num_threads
        graph = self.path / GRAPH if self.path.is_dir() else self.path
        if graph.suffix not in (".xml", ".onnx") or not graph.is_file():  # OpenVINO would try it as TensorFlow's
            raise WeightsError(f"{path} is not a model that OpenVINO can run: it is no folder with {GRAPH} in it")
        try:
            self._model = self._core.read_model(graph)
        except RuntimeError as error:
            raise WeightsError(f"{path} is not a model that OpenVINO can run: {reason(error)}") from error
        self.metadata = _read_metadata(graph)
        self.input_shape, self.takes_pixels = _input(self._model, self.path)
        self._requests: OrderedDict[tuple[int, ...], Any] = OrderedDict()

    def run(self, array: np.ndarray) -> np.ndarray:
        """Run the request for this batch size; see `ExportedModel.run`."""
        (logits,) = self._request(array.shape).infer([array], share_inputs=True).values()
        return np.array(logits)  # a copy: the request writes its next answer into the same place

    def _request(self, shape: tuple[int, ...]) -> Any:
        """The request for pictures of this shape, compiled if it is not among the last ones used."""
        if shape not in self._requests:
            try:
                if None in self.input_shape:
                    self._model.reshape(list(shape))
                compiled = self._core.compile_model(self._model, "CPU", self._settings)
            except RuntimeError as error:
                raise WeightsError(f"OpenVINO cannot run {self.path} at {shape}: {reason(error)}") from error
            self._requests[shape] = compiled.create_infer_request()
        self._requests.move_to_end(shape)
        if len(self._requests) > _MAX_COMPILED:
            self._requests.popitem(last=False)
        return self._requests[shape]


def write_openvino(model: nn.Module, path: Path, example: Tensor, options: WriteOptions) -> None:
    """Write the folder; fp16 keeps the weights in half precision, which is what takes the room.

    By way of torch.export: the same speed as by way of ONNX (M0, batch 1 and 16) in half the time. By way
    of torch.jit the graph of a network of any size answers with nothing, without an error.
    """
    openvino = import_optional("openvino", EXTRA)
    # The runtime widens half-precision weights itself: a graph that computes in float16 would be slower.
    program = _to_program(model, example, options)
    try:
        with quiet(), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # its converter's calls of torch
            converted = openvino.convert_model(program)
    except Exception as error:  # its failures share no base class but this
        raise ExportError(f"{type(model).__name__} cannot be exported to OpenVINO: {reason(error)}") from error
    # The converter keeps what varies and forgets the rest.
    converted.reshape([-1 if options.batch_size is None else options.batch_size, *example.shape[1:]])
    converted.input(0).get_tensor().set_names({INPUT_NAME})
    converted.output(0).get_tensor().set_names({OUTPUT_NAME})
    path.mkdir()
    openvino.save_model(converted, path / GRAPH, compress_to_fp16=options.precision == "fp16")


def _to_program(model: nn.Module, example: Tensor, options: WriteOptions) -> ExportedProgram:
    """A graph in float32 with a free batch, if the network's code allows one, also where the file's shall be fixed.

    Of a fixed batch the converter (2026.4) takes window attention for its own attention operator, which refuses
    a mask of fewer windows than there are, and fails. The batch is fixed afterwards instead.
    """
    try:
        # Two pictures: of one, torch.export would take the batch for fixed.
        return to_program(model, torch.cat([example[:1]] * 2), WriteOptions())
    except ExportError:
        if options.batch_size is None:
            raise
        return to_program(model, example, WriteOptions(batch_size=options.batch_size))


def describe_openvino(path: Path, metadata: FileMetadata) -> None:
    """Write the metadata beside the graph."""
    write_json(path / DESCRIPTION, metadata.to_properties())


def reason(error: BaseException) -> str:
    """What OpenVINO says went wrong: its messages begin with the places in its own code where that was noticed."""
    lines = [line.strip() for line in str(error).splitlines()]
    said = [line for line in lines if line and not line.startswith(("Exception from ", "Check '"))]
    return said[0] if said else first_line(error)


def _check_precision(precision: str, core: Any) -> None:
    """Refuse what the processor would have to emulate."""
    usable = ["f32"]
    if "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        usable.append("bf16")
    if precision not in usable:
        raise ConfigError(f"OpenVINO precision {precision!r} cannot be used here; usable: {', '.join(usable)}")


def _read_metadata(graph: Path) -> FileMetadata:
    """From beside the graph, or from within an ONNX file; empty if another tool wrote it."""
    if graph.suffix == ".onnx":
        import onnx

        model = onnx.load(graph, load_external_data=False)
        return FileMetadata.from_properties({entry.key: entry.value for entry in model.metadata_props})
    beside = graph.with_name(DESCRIPTION)
    if not beside.is_file():
        return FileMetadata()
    try:
        properties = read_json(beside)
    except RunError as error:
        raise WeightsError(str(error)) from error
    if not isinstance(properties, dict):
        raise WeightsError(f"damaged metadata: {beside} is not what effvit writes")
    return FileMetadata.from_properties(properties)


def _input(model: Any, path: Path) -> tuple[tuple[int | None, ...], bool]:
    """Shape of the input, and whether it takes pixels."""
    if len(model.inputs) != 1 or len(model.outputs) != 1 or model.input(0).partial_shape.rank.is_dynamic:
        raise WeightsError(f"{path} must have one input of known rank and one output")
    shape = model.input(0).partial_shape
    kind = model.input(0).element_type.get_type_name()
    if len(shape) != 4 or kind not in ("f32", "u8"):
        raise WeightsError(f"{path} must take one float input (batch, channels, height, width), got {kind} {shape}")
    return tuple(None if side.is_dynamic else side.get_length() for side in shape), kind == "u8"


def _quantize(
    source: Path, target: Path, calibration: Sequence[Tensor], *, on_step: Callable[..., None] | None = None
) -> Any:
    from effvit.deploy.quantization.openvino import quantize_openvino

    return quantize_openvino(source, target, calibration, on_step=on_step)


FORMAT = FileFormat(
    suffix=".openvino",
    extra=EXTRA,
    modules=("openvino",),
    precisions=("fp32", "fp16", "int8"),
    dynamic_batch=True,
    layout="maps",
    verified="run in OpenVINO, in float32",
    write=write_openvino,
    describe=describe_openvino,
    open=OpenVinoModel,
    quantize=_quantize,
    quantize_modules=("nncf",),
)
