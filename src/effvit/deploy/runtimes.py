"""Open any exported file by its name, and run it on batches of any size."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from effvit.deploy.formats.base import ExportedModel
from effvit.deploy.formats.onnx import OnnxModel
from effvit.deploy.formats.openvino import OpenVinoModel
from effvit.deploy.formats.table import FORMATS, format_of
from effvit.errors import WeightsError

__all__ = ["ExportedModel", "OnnxModel", "OpenVinoModel", "any_batch", "is_exported", "open_file"]

_INNER_SUFFIXES = (".xml", ".param")
"""The graph in a folder of OpenVINO or ncnn, which stands for the folder."""


def is_exported(path: Path | str) -> bool:
    """Whether a name is that of an exported file: by its suffix, whether it exists or not."""
    return format_of(_outer(Path(path)).name) is not None


def open_file(path: Path | str, num_threads: int | None = None) -> ExportedModel:
    """Open an exported file in the runtime of its format, told by its suffix.

    Args:
        path: The file or folder; or the graph in an `.openvino` or `.ncnn` folder.
        num_threads: Threads within an operator; None leaves it to the runtime.

    Raises:
        WeightsError: If the suffix is no format's, there is no such file, or it is damaged.
        ConfigError: If the runtime is not installed, or num_threads is not positive.
    """
    path = _outer(Path(path))
    name = format_of(path.name)
    if name is None:
        known = ", ".join(f"{row.suffix} ({key})" for key, row in FORMATS.items())
        raise WeightsError(f"{path.name} is not the name of an exported file; known: {known}")
    return FORMATS[name].open(path, num_threads=num_threads)


def any_batch(model: ExportedModel) -> Callable[[Tensor], Tensor]:
    """Run a file on batches of any size, also if it takes one size only.

    Then a larger batch is cut, and the last part filled with copies of its last picture; their
    answers are dropped. The one place where a batch is padded.
    """
    size = model.batch_size
    if size is None:
        return model

    def run(images: Tensor) -> Tensor:
        parts = []
        for part in torch.split(images, size):
            filled = torch.cat([part, part[-1:].expand(size - len(part), *part.shape[1:])])
            parts.append(model(filled)[: len(part)])
        return torch.cat(parts)

    return run


def _outer(path: Path) -> Path:
    """The folder for the graph in it."""
    inner = path.suffix in _INNER_SUFFIXES and format_of(path.parent.name) is not None
    return path.parent if inner else path
