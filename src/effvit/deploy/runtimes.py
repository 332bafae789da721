"""Run an exported file: one adapter per runtime, the same call for all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnxruntime
import torch
from torch import Tensor

from effvit.deploy.metadata import FileMetadata
from effvit.errors import ConfigError, WeightsError, first_line


class OnnxModel:
    """An ONNX file in ONNX Runtime on the CPU; called like the network it came from.

    Args:
        path: The file. One that effvit did not write will do, if it takes pictures (batch, C, H, W) alone.
        num_threads: Threads within an operator; None leaves it to ONNX Runtime, which takes all cores.

    Raises:
        WeightsError: If there is no such file, or it is not an ONNX model of this kind.
        ConfigError: If num_threads is not positive.
    """

    def __init__(self, path: Path | str, *, num_threads: int | None = None) -> None:
        self.path = Path(path)
        if num_threads is not None and num_threads < 1:
            raise ConfigError(f"number of threads must be at least 1, got {num_threads}")
        if not self.path.is_file():
            raise WeightsError(f"no such file: {path}")
        self._session = _open(self.path, num_threads)
        inputs = self._session.get_inputs()
        if len(inputs) != 1 or len(inputs[0].shape) != 4 or inputs[0].type != "tensor(float)":
            found = ", ".join(f"{i.name}: {i.type} {i.shape}" for i in inputs)
            raise WeightsError(f"{path} must take one float input (batch, channels, height, width), got {found}")
        if len(self._session.get_outputs()) != 1:
            raise WeightsError(f"{path} must have one output, got {len(self._session.get_outputs())}")
        self._input_name: str = inputs[0].name
        self.input_shape: tuple[int | None, ...] = tuple(
            side if isinstance(side, int) else None for side in inputs[0].shape
        )
        """(batch, channels, height, width); None where any number will do."""
        self.metadata = FileMetadata.from_properties(self._session.get_modelmeta().custom_metadata_map)
        """What the file says of itself: class names, preprocessing and more."""

    def __call__(self, images: Tensor) -> Tensor:
        """Classify pictures.

        Args:
            images: Prepared pictures, float, (B, C, H, W); moved to the CPU if they are elsewhere.

        Returns:
            Logits, (B, num_classes), float32 on the CPU.

        Raises:
            ConfigError: If the shape is not what the file takes.
        """
        fits = images.dim() == 4 and all(
            want in (None, got) for want, got in zip(self.input_shape, images.shape, strict=True)
        )
        if not fits:
            wanted = ", ".join("any" if side is None else str(side) for side in self.input_shape)
            raise ConfigError(f"{self.path.name} takes pictures of shape ({wanted}), got {tuple(images.shape)}")
        array = images.detach().to("cpu", torch.float32).contiguous().numpy()
        (logits,) = self._session.run(None, {self._input_name: array})
        return torch.from_numpy(logits)


class OpenVinoModel:
    """An ONNX file in OpenVINO on the CPU; called like the network it came from.

    Computes in float32 as the file says: left to itself, OpenVINO takes bfloat16 where the processor
    has it, which is another network.

    Args:
        path: The file.
        num_threads: Threads of the CPU; None leaves it to OpenVINO, which takes all cores.

    Raises:
        ConfigError: If OpenVINO is not installed.
        WeightsError: If it cannot run the file.
    """

    def __init__(self, path: Path | str, *, num_threads: int | None = None) -> None:
        try:
            import openvino
        except ImportError as error:
            raise ConfigError("runtime openvino is not installed; pip install 'effvit[openvino]'") from error
        settings: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
        if num_threads is not None:
            settings["INFERENCE_NUM_THREADS"] = num_threads
        try:
            compiled = openvino.Core().compile_model(str(path), "CPU", settings)
        except RuntimeError as error:
            raise WeightsError(f"{path} is not an ONNX model that OpenVINO can run: {first_line(error)}") from error
        self._request = compiled.create_infer_request()

    def __call__(self, images: Tensor) -> Tensor:
        """Classify pictures, (B, C, H, W) -> (B, num_classes), float32 on the CPU."""
        array = images.detach().to("cpu", torch.float32).contiguous().numpy()
        (logits,) = self._request.infer([array], share_inputs=True).values()
        return torch.from_numpy(logits.copy())  # the request writes its next answer into the same place


def _open(path: Path, num_threads: int | None) -> onnxruntime.InferenceSession:
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
