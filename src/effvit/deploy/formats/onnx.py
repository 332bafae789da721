"""ONNX: one file with its weights inside, run by ONNX Runtime; what TensorRT and most other runtimes read too."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn

from effvit.deploy.formats.base import ExportedModel, FileFormat, WriteOptions
from effvit.deploy.formats.program import INPUT_NAME, OUTPUT_NAME, dynamic_shapes, root_cause, to_program
from effvit.deploy.metadata import FileMetadata
from effvit.errors import ExportError, WeightsError, first_line
from effvit.silence import quiet

_PICTURE_TYPES = {"tensor(float)": False, "tensor(uint8)": True}
"""Type of a file's input -> whether it takes pixels."""


class OnnxModel(ExportedModel):
    """An ONNX file in ONNX Runtime on the CPU.

    Args:
        path: The file. One that effvit did not write will do, if it takes pictures (batch, C, H, W) alone.
        num_threads: See `ExportedModel`; by itself ONNX Runtime takes all cores.
    """

    def __init__(self, path: Path | str, *, num_threads: int | None = None) -> None:
        super().__init__(path, num_threads=num_threads)
        self._session = open_session(self.path, num_threads)
        self.metadata = FileMetadata.from_properties(self._session.get_modelmeta().custom_metadata_map)
        if self.metadata.detector is not None:
            raise WeightsError(f"{path} is a detector, not a classifier: use it with effvit detect")
        inputs = self._session.get_inputs()
        if len(inputs) != 1 or len(inputs[0].shape) != 4 or inputs[0].type not in _PICTURE_TYPES:
            found = ", ".join(f"{i.name}: {i.type} {i.shape}" for i in inputs)
            raise WeightsError(f"{path} must take one float input (batch, channels, height, width), got {found}")
        if len(self._session.get_outputs()) != 1:
            raise WeightsError(f"{path} must have one output, got {len(self._session.get_outputs())}")
        self._input_name: str = inputs[0].name
        self.takes_pixels = _PICTURE_TYPES[inputs[0].type]
        self.input_shape = tuple(side if isinstance(side, int) else None for side in inputs[0].shape)

    def run(self, array: np.ndarray) -> np.ndarray:
        """Run the session; see `ExportedModel.run`."""
        (logits,) = self._session.run(None, {self._input_name: array})
        return np.asarray(logits)


def write_onnx(model: nn.Module, path: Path, example: Tensor, options: WriteOptions) -> None:
    """Write one file, weights inside; input `images`, output `logits`."""
    program = to_program(model, example, options)
    try:
        with quiet():
            exported = torch.onnx.export(
                program,
                (example,),
                dynamo=True,
                input_names=[INPUT_NAME],
                output_names=[OUTPUT_NAME],
                dynamic_shapes=dynamic_shapes(options),  # for the name of the free dimension
                external_data=False,
                verbose=False,
            )
    except Exception as error:  # the exporter's failures share no base class but this
        raise ExportError(f"{type(model).__name__} cannot be exported to ONNX: {root_cause(error)}") from error
    assert exported is not None
    shape = exported.model.graph.inputs[0].shape
    if shape is None or isinstance(shape[0], int) != (options.batch_size is not None):
        raise ExportError(f"{type(model).__name__} cannot be exported to ONNX: its batch came out as {shape}")
    exported.save(path, external_data=False)


def describe_onnx(path: Path, metadata: FileMetadata) -> None:
    """Write the metadata into the file's properties."""
    import onnx

    model = onnx.load(path)
    onnx.helper.set_model_props(model, metadata.to_properties())
    onnx.save(model, path)


def _quantize(
    source: Path, target: Path, calibration: Sequence[Tensor], *, on_step: Callable[..., None] | None = None
) -> Any:
    from effvit.deploy.quantization.onnx import quantize_onnx

    return quantize_onnx(source, target, calibration, on_step=on_step)


def open_session(path: Path, num_threads: int | None) -> onnxruntime.InferenceSession:
    """A session for a file on the CPU; None leaves the number of threads to ONNX Runtime.

    Raises:
        WeightsError: If it is no ONNX model, or one that cannot be run.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # failures come as exceptions; warnings would go to the terminal
    if num_threads is not None:
        options.intra_op_num_threads = num_threads
        options.inter_op_num_threads = 1
    # Its threads otherwise go on spinning after a run, and take the time of whoever is measured next.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions share no base class but this
        raise WeightsError(f"{path} is not an ONNX model that can be run: {first_line(error)}") from error


FORMAT = FileFormat(
    suffix=".onnx",
    extra=None,
    modules=("onnx", "onnxscript", "onnxruntime"),
    precisions=("fp32", "fp16", "int8"),
    dynamic_batch=True,
    layout="maps",
    verified="run in ONNX Runtime",
    write=write_onnx,
    describe=describe_onnx,
    open=OnnxModel,
    quantize=_quantize,
)
