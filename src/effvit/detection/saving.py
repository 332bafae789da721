"""A detector as a folder, and back.

config.json         the detector, where its weights came from
model.safetensors   its weights
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from effvit.detection.config import DetectorConfig
from effvit.detection.detectors import Detector, create_detector
from effvit.device import find_device
from effvit.errors import RunError, WeightsError
from effvit.files import read_json
from effvit.model.checkpoints import DETECTOR_FORMAT, FORMAT
from effvit.model.tensors import CONFIG_FILE, WEIGHTS_FILE, read_tensors, write_weights_folder

_MAX_SHOWN = 3
"""Names of tensors that an error lists."""


def save_detector(folder: Path | str, detector: Detector, provenance: dict[str, Any] | None = None) -> Path:
    """Write a detector, each file atomically; returns the folder.

    Args:
        folder: Where; made with its parents.
        detector: In any mode, on any device.
        provenance: Where the weights came from, plain JSON values.

    Raises:
        WeightsError: If provenance is no plain JSON.
        RunError: If the folder cannot be written.
    """
    values = {"format": DETECTOR_FORMAT, "provenance": provenance or {}, "detector": detector.config.to_dict()}
    return write_weights_folder(folder, values, detector.state_dict())


def load_detector(folder: Path | str, *, device: str | torch.device = "cpu") -> Detector:
    """Load a detector exactly as it was saved, in evaluation mode.

    Args:
        folder: What `save_detector` wrote, or a run folder, which is read through its `weights/`.
        device: Where to put it.

    Raises:
        WeightsError: If it is missing, damaged, or no detector.
    """
    folder = detector_folder(folder)
    where = find_device(str(device))
    config, _ = read_description(folder)
    detector = create_detector(config)
    _fill(detector, read_tensors(folder / WEIGHTS_FILE), folder)
    return detector.to(where).eval()


def detector_folder(folder: Path | str) -> Path:
    """The folder itself or its `weights/`, whichever holds both files of a detector.

    Raises:
        WeightsError: If neither does.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise WeightsError(f"no detector at {folder}: {'it is a file' if folder.exists() else 'no such folder'}")
    for candidate in (folder, folder / "weights"):
        if (candidate / CONFIG_FILE).is_file() and (candidate / WEIGHTS_FILE).is_file():
            return candidate
    raise WeightsError(f"no detector in {folder}: it has no {CONFIG_FILE} with {WEIGHTS_FILE}, nor has its weights/")


def read_description(folder: Path) -> tuple[DetectorConfig, dict[str, Any]]:
    """What a detector's `config.json` says: the detector, and where its weights came from.

    Raises:
        WeightsError: If it is damaged, or a classifier's.
    """
    path = folder / CONFIG_FILE
    try:
        values = read_json(path)
    except RunError as error:
        raise WeightsError(str(error)) from error
    kind = values.get("format") if isinstance(values, dict) else None
    if kind == FORMAT:
        raise WeightsError(f"{folder} is a classifier, not a detector; a new detector can begin with its weights")
    if kind != DETECTOR_FORMAT:
        raise WeightsError(f"{path} does not describe a detector: format {kind!r}, wanted {DETECTOR_FORMAT!r}")
    try:
        config = DetectorConfig.from_dict(values["detector"])
        provenance = dict(values["provenance"])
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise WeightsError(f"{path} does not describe a detector: {error}") from error
    return config, provenance


def _fill(detector: Detector, state: dict[str, Tensor], folder: Path) -> None:
    """Put the weights in place; nothing may be missing, unexpected or misshapen."""
    own = detector.state_dict()
    faults = [f"missing {name}" for name in own if name not in state]
    faults += [f"unexpected {name}" for name in state if name not in own]
    faults += [
        f"{name} has shape {tuple(value.shape)}, the detector's is {tuple(own[name].shape)}"
        for name, value in state.items()
        if name in own and value.shape != own[name].shape
    ]
    if faults:
        more = f" and {len(faults) - _MAX_SHOWN} more" if len(faults) > _MAX_SHOWN else ""
        raise WeightsError(
            f"{folder / WEIGHTS_FILE} and the {CONFIG_FILE} beside it do not belong together:"
            f" {'; '.join(faults[:_MAX_SHOWN])}{more}"
        )
    detector.load_state_dict(state)
