"""What every format offers: a row for the table of formats, and an exported file that is called like a network."""

from __future__ import annotations

import importlib
import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from effvit.deploy.metadata import FileMetadata
from effvit.errors import ConfigError, WeightsError

Precision = Literal["fp32", "fp16", "int8"]
"""Number format of a file's weights and arithmetic; what goes in and out stays float32 (or uint8 pictures)."""


@dataclass(frozen=True, kw_only=True)
class WriteOptions:
    """What a writer is asked for."""

    batch_size: int | None = None
    """Pictures per call; None for any number, where the format can."""
    precision: Precision = "fp32"
    """fp32 or fp16; int8 is made from a float32 file, see `effvit.deploy.quantization.damage`."""


class ExportedModel(ABC):
    """An exported file, opened in its runtime on the CPU; called like the network it came from.

    Args:
        path: The file or folder.
        num_threads: Threads within an operator; None leaves it to the runtime.

    Raises:
        WeightsError: If there is no such file, or it is not a model of this kind.
        ConfigError: If the runtime is not installed, or num_threads is not positive.
    """

    path: Path
    metadata: FileMetadata
    """What the file says of itself: class names, preprocessing and more."""
    input_shape: tuple[int | None, ...]
    """As the file takes them: (batch, channels, height, width), or (batch, height, width, channels) if it takes
    uint8 pictures; None where any number will do."""
    takes_pixels: bool = False
    """Whether the file takes uint8 pictures as a decoder gives them and normalises inside."""
    runs_here: bool = True
    """Whether this machine can run the file; where it cannot, opening it has only inspected it."""

    def __init__(self, path: Path | str, *, num_threads: int | None = None) -> None:
        self.path = Path(path)
        if num_threads is not None and num_threads < 1:
            raise ConfigError(f"number of threads must be at least 1, got {num_threads}")
        if not self.path.exists():
            raise WeightsError(f"no such file: {path}")

    @property
    def batch_size(self) -> int | None:
        """Pictures per call; None if any number will do."""
        return self.input_shape[0]

    @abstractmethod
    def run(self, array: np.ndarray) -> np.ndarray:
        """Run the file on exactly what it takes, (see `input_shape`), to logits (B, num_classes), float32."""

    def __call__(self, images: Tensor) -> Tensor:
        """Classify pictures.

        Args:
            images: Float, prepared, (B, C, H, W); or, if the file `takes_pixels`, uint8, (B, H, W, C).
                Moved to the CPU if they are elsewhere.

        Returns:
            Logits, (B, num_classes), float32 on the CPU.

        Raises:
            ConfigError: If shape or type are not what the file takes.
        """
        fits = images.dim() == 4 and all(
            want in (None, got) for want, got in zip(self.input_shape, images.shape, strict=True)
        )
        if not fits:
            wanted = ", ".join("any" if side is None else str(side) for side in self.input_shape)
            raise ConfigError(f"{self.path.name} takes pictures of shape ({wanted}), got {tuple(images.shape)}")
        if self.takes_pixels != (images.dtype == torch.uint8):
            kind = "uint8" if self.takes_pixels else "float"
            raise ConfigError(f"{self.path.name} takes {kind} pictures, got {images.dtype}")
        dtype = torch.uint8 if self.takes_pixels else torch.float32
        return torch.from_numpy(self.run(images.detach().to("cpu", dtype).contiguous().numpy()))


@dataclass(frozen=True, kw_only=True)
class FileFormat:
    """One row of the table of formats."""

    suffix: str
    """End of the file's or folder's name."""
    extra: str | None
    """Extra of effvit that installs what writes and runs it; None for the core's own."""
    modules: tuple[str, ...]
    """Python modules that must be there."""
    precisions: tuple[Precision, ...]
    """What it can be asked for."""
    dynamic_batch: bool
    """Whether one file can take any number of pictures per call."""
    layout: Literal["tokens", "maps"]
    """Which layout of the deploy form is written: the one that measured best in its runtime."""
    verified: str
    """How a file is checked, for people."""
    write: Callable[[nn.Module, Path, Tensor, WriteOptions], None]
    """Writes a deploy form to a path, given an example batch as the file shall take it."""
    describe: Callable[[Path, FileMetadata], None]
    """Writes metadata into such a file, in place of what was there."""
    open: Callable[..., ExportedModel]
    """Opens such a file in its runtime: (path, *, num_threads=None)."""
    quantize: Callable[..., Any] | None = None
    """Makes an int8 file of a float32 one: (source, target, calibration, *, on_step=None) -> Quantization; on_step is
    told (steps done, steps in all)."""
    quantize_modules: tuple[str, ...] = ()
    """Python modules that must be there for int8 besides."""
    needs: Callable[[], str | None] = lambda: None
    """What this machine lacks beside Python modules, in one line; None if nothing."""

    def obstacle(self, precision: Precision = "fp32") -> str | None:
        """Why this format cannot be written on this machine, in one line; None if it can."""
        needed = self.modules + (self.quantize_modules if precision == "int8" else ())
        missing = [module for module in needed if not is_installed(module)]
        if not missing:
            return self.needs()
        return f"{', '.join(missing)} is not installed; pip install {_requirement(self.extra)}"


def is_installed(module: str) -> bool:
    """Whether a Python module can be imported, without importing it."""
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):  # its parent is missing, or it was taken out of sys.modules
        return False


def import_optional(module: str, extra: str) -> ModuleType:
    """Import a module that not every installation has.

    Raises:
        ConfigError: If it is not there, naming the extra that brings it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(f"{module} is not installed; pip install {_requirement(extra)}") from error


def _requirement(extra: str | None) -> str:
    return "effvit" if extra is None else f"'effvit[{extra}]'"
