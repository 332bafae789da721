"""What finds things on pictures: a detector, or the file it was exported to."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from torch import Tensor

from effvit.detection.config import DetectorConfig
from effvit.detection.records import Detections
from effvit.device import find_device
from effvit.errors import ConfigError, WeightsError

_EXPORTED_SUFFIX = ".onnx"


class Finder(Protocol):
    """A detector as its users see it; an exported file's runner is one as well."""

    @property
    def config(self) -> DetectorConfig:
        """What it finds, and how it wants its pictures."""
        ...

    def detect(self, images: list[Tensor]) -> list[Detections]:
        """The things on each picture, uint8 (3, H, W), in pixels of that picture."""
        ...


def open_finder(source: Path | str, device: str = "auto") -> Finder:
    """Open a detector's run folder, its weights folder, or the file it was exported to.

    Args:
        source: Where it is.
        device: Where a detector runs; an exported file runs on the CPU.

    Raises:
        WeightsError: If there is none, or it cannot be read.
        ConfigError: If the device is not there, or is asked of an exported file.
    """
    path = Path(source)
    if not path.exists():
        raise WeightsError(f"no detector at {path}: give a run folder, its weights folder or an exported .onnx file")
    if path.suffix.lower() == _EXPORTED_SUFFIX:
        from effvit.detection.exported import open_exported

        if device not in ("auto", "cpu"):
            raise ConfigError(f"{path} is an exported file and runs on the CPU here; leave out --device {device}")
        exported: Finder = open_exported(path)
        return exported
    from effvit.detection.saving import load_detector

    detector: Finder = load_detector(path, device=find_device(device))
    return detector
