"""coreml: an ML program for iPhone, iPad and Mac; written anywhere, run on macOS only."""

from __future__ import annotations

import sys
import traceback
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from effvit.deploy.formats.base import ExportedModel, FileFormat, WriteOptions, import_optional
from effvit.deploy.formats.program import INPUT_NAME, OUTPUT_NAME, root_cause, to_program
from effvit.deploy.formats.tracing import Replacements, itself, product_and_sum, trace
from effvit.deploy.metadata import FileMetadata
from effvit.errors import ConfigError, ExportError, WeightsError, first_line
from effvit.files import remove
from effvit.silence import silence

EXTRA = "coreml"
ONLY_INSPECTED = "inspected, not run: Core ML runs on macOS only"


_aten = torch.ops.aten
_KNOWN: Replacements = {_aten.alias.default: itself, _aten.baddbmm.default: product_and_sum}
"""coremltools knows no `alias`, and of `baddbmm` not that its first argument broadcasts."""


class CoreMLModel(ExportedModel):
    """An `.mlpackage`, in Core ML on a Mac; elsewhere it can be opened and inspected, not run.

    Args:
        path: The folder.
        num_threads: Must be positive or None; Core ML itself decides how many it takes, and of which processor.
    """

    num_operators: dict[str, int]
    """Kind of operator in the program -> how often; constants are not counted."""
    num_weight_bytes: int
    """Size of the weights."""

    def __init__(self, path: Path | str, *, num_threads: int | None = None) -> None:
        coremltools = _import_coremltools()
        super().__init__(path, num_threads=num_threads)
        self.runs_here = sys.platform == "darwin"
        try:
            with silence():
                # The processor alone computes as the file says; the graphics and neural units take float16.
                self._model = coremltools.models.MLModel(
                    str(path), skip_model_load=not self.runs_here, compute_units=coremltools.ComputeUnit.CPU_ONLY
                )
                spec = self._model.get_spec()
        except Exception as error:  # its failures share no base class but this
            raise WeightsError(f"{path} is not a Core ML package: {first_line(error)}") from error
        self.input_shape, self.takes_pixels = _input(spec, self.path)
        self.metadata = FileMetadata.from_properties(dict(spec.description.metadata.userDefined))
        self.num_operators = _count_operators(spec, self.path)
        self.num_weight_bytes = sum(file.stat().st_size for file in self.path.rglob("weights/*"))

    def run(self, array: np.ndarray) -> np.ndarray:
        """Run the program, on macOS; see `ExportedModel.run`."""
        if not self.runs_here:
            raise ConfigError(f"{self.path.name} can only be inspected here: Core ML runs on macOS only")
        answer = self._model.predict({INPUT_NAME: _as_picture(array) if self.takes_pixels else array})
        logits: np.ndarray = answer[OUTPUT_NAME].astype(np.float32)
        return logits


class FromImage(nn.Module):
    """A network that takes pixels, for Core ML's images: these come as (B, C, H, W), in floating point.

    Args:
        network: Takes pictures (B, H, W, C), 0..255.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.train(network.training)

    def forward(self, images: Tensor) -> Tensor:
        """Classify pictures, (B, C, H, W), 0..255, to logits."""
        logits: Tensor = self.network(images.permute(0, 2, 3, 1))  # (B, C, H, W) -> (B, H, W, C)
        return logits


def write_coreml(model: nn.Module, path: Path, example: Tensor, options: WriteOptions) -> None:
    """Write an ML program for iOS 15 and macOS 12 or later.

    A file that takes pixels takes an image as the system's camera and photo frameworks give it. The batch is
    fixed: one that is free cannot be checked without a Mac, and keeps Core ML off the neural unit.

    Raises:
        ExportError: If the network cannot be converted, or a file shall take more than one image.
    """
    coremltools = _import_coremltools()
    takes_pixels = not example.is_floating_point()
    if takes_pixels:
        if len(example) != 1 or example.shape[3] != 3:
            raise ExportError(f"Core ML takes one RGB image at a time, got pixels of shape {tuple(example.shape)}")
        model, example = FromImage(model), example.permute(0, 3, 1, 2).float()  # (B, H, W, C) -> (B, C, H, W)
    # In float32: coremltools rounds to float16 itself, but for constants that would overflow.
    traced = trace(to_program(model, example, WriteOptions(batch_size=len(example))), example, _KNOWN)
    precision = coremltools.precision
    with silence():
        try:
            coremltools.convert(
                traced,
                inputs=[_input_type(coremltools, example, takes_pixels=takes_pixels)],
                outputs=[coremltools.TensorType(OUTPUT_NAME, dtype=np.float32)],
                convert_to="mlprogram",
                compute_precision=precision.FLOAT16 if options.precision == "fp16" else precision.FLOAT32,
                minimum_deployment_target=coremltools.target.iOS15,
                skip_model_load=True,
                package_dir=str(path),
            )
        except Exception as error:  # the converter's failures share no base class but this
            traceback.clear_frames(error.__traceback__)  # its temporary folders complain when they are dropped later
            message = f"{type(model).__name__} cannot be converted to Core ML: {root_cause(error)}"
            raise ExportError(message) from error


def describe_coreml(path: Path, metadata: FileMetadata) -> None:
    """Write the metadata into the program's own, where Xcode shows it."""
    coremltools = _import_coremltools()
    copy = path.with_name(f"copy.{path.name}")  # saved over itself, it would be gone before it is read
    try:
        with silence():
            model = coremltools.models.MLModel(str(path), skip_model_load=True)
            kept = {key: value for key, value in model.user_defined_metadata.items() if not key.startswith("effvit.")}
            model.user_defined_metadata.clear()
            model.user_defined_metadata.update({**kept, **metadata.to_properties()})
            model.save(str(copy))
            del model
        remove(path)
        copy.rename(path)
    finally:
        remove(copy)


def _import_coremltools() -> ModuleType:
    with silence():  # it tells at once which versions it was not tested with, and that this is no Mac
        return import_optional("coremltools", EXTRA)


def _input_type(coremltools: ModuleType, example: Tensor, *, takes_pixels: bool) -> Any:
    """What the program declares to take."""
    shape = tuple(example.shape)
    if takes_pixels:
        return coremltools.ImageType(INPUT_NAME, shape=shape, color_layout=coremltools.colorlayout.RGB)
    return coremltools.TensorType(INPUT_NAME, shape=shape, dtype=np.float32)


def _input(spec: Any, path: Path) -> tuple[tuple[int, ...], bool]:
    """Shape of the input, and whether it takes pixels."""
    inputs = list(spec.description.input)
    if len(inputs) == 1 and inputs[0].type.WhichOneof("Type") == "imageType":
        image = inputs[0].type.imageType
        return (1, image.height, image.width, 3), True
    shapes = [tuple(value.type.multiArrayType.shape) for value in inputs]
    if len(shapes) != 1 or len(shapes[0]) != 4:
        raise WeightsError(f"{path} must take one image or array (batch, channels, height, width), got {shapes}")
    return shapes[0], False


def _count_operators(spec: Any, path: Path) -> dict[str, int]:
    """Kinds of operators of the main function."""
    if spec.WhichOneof("Type") != "mlProgram":
        raise WeightsError(f"{path} must be an ML program, got {spec.WhichOneof('Type')}")
    function = spec.mlProgram.functions["main"]
    block = function.block_specializations[function.opset]
    return dict(Counter(operator.type for operator in block.operations if operator.type != "const"))


def _as_picture(array: np.ndarray) -> Any:
    """(1, H, W, C), uint8 -> what Core ML takes for an image."""
    from PIL import Image

    return Image.fromarray(array[0])


FORMAT = FileFormat(
    suffix=".mlpackage",
    extra=EXTRA,
    modules=("coremltools",),
    precisions=("fp32", "fp16"),
    dynamic_batch=False,
    layout="maps",
    verified=ONLY_INSPECTED if sys.platform != "darwin" else "run in Core ML on the processor",
    write=write_coreml,
    describe=describe_coreml,
    open=CoreMLModel,
)
