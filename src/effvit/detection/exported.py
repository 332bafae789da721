"""A detector's exported file, run by ONNX Runtime: called like the detector it came from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torchvision.models.detection.roi_heads import paste_masks_in_image

from effvit.deploy.formats.onnx import open_session
from effvit.deploy.metadata import FileMetadata
from effvit.detection.config import DetectorConfig
from effvit.detection.detectors import MASK_THRESHOLD
from effvit.detection.inputs import check_not_too_narrow
from effvit.detection.records import Detections
from effvit.errors import ConfigError, DataError, WeightsError

OUTPUTS = ("boxes", "scores", "labels")
"""Outputs of every file; one with masks has `masks` besides."""
MASKS = "masks"


class ExportedDetector:
    """An exported detector in ONNX Runtime on the CPU; see `open_exported`.

    Args:
        path: The file.
        num_threads: Threads within an operator; None leaves it to the runtime.
    """

    config: DetectorConfig
    """What it finds, and how its pictures are brought to size: the file does that itself."""
    metadata: FileMetadata
    """All that the file says of itself."""
    picture_size: tuple[int, int] | None
    """Height and width of the only pictures it takes; None for any."""

    def __init__(self, path: Path | str, *, num_threads: int | None = None) -> None:
        self.path = Path(path)
        if num_threads is not None and num_threads < 1:
            raise ConfigError(f"number of threads must be at least 1, got {num_threads}")
        if not self.path.is_file():
            raise WeightsError(f"no such file: {path}")
        self._session = open_session(self.path, num_threads)
        self.metadata = FileMetadata.from_properties(self._session.get_modelmeta().custom_metadata_map)
        if self.metadata.detector is None:
            kind = "a classifier" if self.metadata.class_names is not None else "no detector that effvit exported"
            raise WeightsError(f"{path} is {kind}: a detector's file is made by effvit detect export")
        try:
            self.config = DetectorConfig.from_dict(self.metadata.detector)
        except (ConfigError, TypeError, KeyError) as error:
            raise WeightsError(f"{path} has damaged metadata, effvit.detector: {error}") from error
        inputs = self._session.get_inputs()
        names = tuple(output.name for output in self._session.get_outputs())
        wanted = (*OUTPUTS, MASKS) if self.config.task == "masks" else OUTPUTS
        if len(inputs) != 1 or inputs[0].type != "tensor(uint8)" or len(inputs[0].shape) != 4 or names != wanted:
            raise WeightsError(f"{path} must take one uint8 picture and give {', '.join(wanted)}, got {names}")
        self._input_name: str = inputs[0].name
        sides = inputs[0].shape[1:3]
        self.picture_size = (sides[0], sides[1]) if all(isinstance(side, int) for side in sides) else None

    def detect(self, images: Sequence[Tensor]) -> list[Detections]:
        """Find things.

        Args:
            images: Pictures, uint8, (3, H, W), of any sizes unless the file has one of its own.

        Returns:
            What was found in each, the surest first, masks as large as the picture.

        Raises:
            DataError: If a picture is none.
            ConfigError: If it is not of the file's size.
        """
        return [self._detect(image) for image in images]

    def run(self, pixels: np.ndarray) -> list[np.ndarray]:
        """Run the file on what it takes, uint8 (1, H, W, 3), to its outputs in their order."""
        outputs: list[np.ndarray] = self._session.run(None, {self._input_name: pixels})
        return outputs

    def _detect(self, image: Tensor) -> Detections:
        if image.dim() != 3 or image.shape[0] != 3 or image.dtype != torch.uint8 or 0 in image.shape:
            raise DataError(f"a picture must be uint8 (3, height, width), got {image.dtype} {tuple(image.shape)}")
        check_not_too_narrow(image.shape[1], image.shape[2], self.config.max_size)
        height, width = image.shape[1:]
        if self.picture_size not in (None, (height, width)):
            raise ConfigError(
                f"{self.path.name} was exported for pictures of {self.picture_size} (height, width) only, got"
                f" {(height, width)}"
            )
        pixels = image.permute(1, 2, 0)[None].cpu().contiguous()  # (3, H, W) -> (1, H, W, 3)
        boxes, scores, labels, *rest = map(torch.from_numpy, self.run(pixels.numpy()))
        masks = None
        if rest:
            pasted = paste_masks_in_image(rest[0][:, None], boxes, (height, width))  # (N, 28, 28) -> (N, 1, H, W)
            masks = pasted[:, 0] >= MASK_THRESHOLD
        return Detections(boxes=boxes, scores=scores, labels=labels, masks=masks)


def open_exported(path: Path | str, *, num_threads: int | None = None) -> ExportedDetector:
    """Open a file that `effvit detect export` wrote.

    Args:
        path: The file.
        num_threads: Threads within an operator; None leaves it to ONNX Runtime.

    Raises:
        WeightsError: If there is none, it is damaged, or it is something else, such as a classifier.
        ConfigError: If num_threads is not positive.
    """
    return ExportedDetector(path, num_threads=num_threads)
