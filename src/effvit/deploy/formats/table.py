"""The table of formats: what can be written, and why the ones people ask for beside them cannot."""

from __future__ import annotations

from effvit.deploy.formats import aot_inductor, coreml, executorch, ncnn, onnx, openvino, torch_export
from effvit.deploy.formats.base import FileFormat, Precision
from effvit.errors import ConfigError, unknown_name

FORMATS: dict[str, FileFormat] = {
    "onnx": onnx.FORMAT,
    "openvino": openvino.FORMAT,
    "torch-export": torch_export.FORMAT,
    "aot-inductor": aot_inductor.FORMAT,
    "coreml": coreml.FORMAT,
    "executorch": executorch.FORMAT,
    "ncnn": ncnn.FORMAT,
}
"""Name -> format."""

ELSEWHERE = {
    "tensorrt": "TensorRT reads the ONNX file: export --format onnx, then trtexec --onnx=FILE on the target machine",
    "litert": "litert-torch does not install beside this torch; the ONNX file can be converted elsewhere (onnx2tf)",
}
"""Formats that are not written here -> what to do instead."""
_OTHER_NAMES = {"trt": "tensorrt", "engine": "tensorrt", "tflite": "litert"}


def find_format(name: str, precision: Precision = "fp32") -> FileFormat:
    """The row of a format that can be asked for a precision.

    Raises:
        ConfigError: If there is none of this name, it is not written here (saying what to do instead), or not in
            this precision.
    """
    if name not in FORMATS:
        elsewhere = ELSEWHERE.get(_OTHER_NAMES.get(name, name))
        unknown = unknown_name("format", name, FORMATS)
        raise ConfigError(unknown if elsewhere is None else f"no format {name!r}: {elsewhere}")
    row = FORMATS[name]
    if precision not in row.precisions:
        raise ConfigError(f"format {name!r} can be {', '.join(row.precisions)}; got precision {precision!r}")
    return row


def format_of(name: str) -> str | None:
    """The format whose suffix a file name has, the longest that fits; None if it has none's."""
    fitting = [key for key, row in FORMATS.items() if name.endswith(row.suffix)]
    return max(fitting, key=lambda key: len(FORMATS[key].suffix), default=None)
