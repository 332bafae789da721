"""Write a detector to an ONNX file, run it there, compare it on pictures, and only then give it its name."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import effvit
from effvit.deploy.formats.onnx import describe_onnx
from effvit.deploy.metadata import FileMetadata
from effvit.detection.agreement import Agreement, compare_detections
from effvit.detection.config import DetectorConfig
from effvit.detection.detectors import Detector
from effvit.detection.exported import open_exported
from effvit.detection.onnx_file import DetectorModel
from effvit.errors import ConfigError, ExportError
from effvit.files import atomic_path, size_in_bytes

SUFFIX = ".onnx"
_ASPECTS = ((1.0, 0.8), (0.5, 1.0), (1.0, 0.15))
"""Heights and widths of the noise pictures, over the long side: maps of several windows, and of one."""


@dataclass(frozen=True, kw_only=True)
class Exported:
    """A file that was written, run and found right."""

    path: Path
    """Where it is."""
    num_bytes: int
    """Its size."""
    on_noise: Agreement
    """How far it is from the detector on noise, the score threshold at 0: all that it computes is compared."""
    on_pictures: Agreement | None
    """The same on the pictures given, at its own threshold; None without."""
    metadata: FileMetadata
    """What it says of itself."""


def export_detector(
    detector: Detector,
    path: Path | str,
    *,
    pictures: Iterable[Tensor] | None = None,
    picture_size: tuple[int, int] | None = None,
    provenance: dict[str, Any] | None = None,
    on_step: Callable[[str], None] = lambda _: None,
) -> Exported:
    """Export a detector, and verify the file in ONNX Runtime.

    The file takes a picture as a decoder gives it and gives boxes in that picture's pixels; see docs/detection.md.
    It is compared with the detector as it is in training, in float32, not with the deploy form that is inside it.
    A file that fails is not left behind, and one that was there before stays.

    Args:
        detector: Not changed, whatever its mode, device and dtype.
        path: File to write, ending in `.onnx`.
        pictures: uint8 (3, H, W), real ones for choice, on which the detector finds something.
        picture_size: Height and width of all pictures, fixed in the file, which makes it faster; None for any.
        provenance: Where the weights come from.
        on_step: Told in a few words what is being done.

    Raises:
        ConfigError: If the path ends wrongly or a picture is not of the fixed size.
        ExportError: If the detector cannot be exported, or the file does not find what the detector finds.
        RunError: If the place cannot be written.
    """
    import onnx

    path = Path(path)
    if path.suffix != SUFFIX or path.name == SUFFIX:
        raise ConfigError(f"an exported detector must end in {SUFFIX}, got {path.name!r}")
    config = detector.config
    reference = copy.deepcopy(detector).to("cpu", torch.float32).eval()
    on_step("write")
    model = DetectorModel(reference.model, config, picture_size)
    metadata = _metadata(config, provenance)
    with atomic_path(path) as temporary, tempfile.TemporaryDirectory() as folder:
        onnx.save(model.at(config.score_threshold), temporary)
        metadata = replace(metadata, num_bytes=size_in_bytes(temporary))
        on_step("compare on noise")
        twin = Path(folder) / path.name
        onnx.save(model.at(0.0), twin)
        describe_onnx(twin, metadata)
        on_noise = _passed(_at_threshold_0(reference), twin, noise(config, picture_size), path.name)
        on_pictures = None
        describe_onnx(temporary, metadata)
        if pictures is not None:
            on_step("compare on pictures")
            on_pictures = _passed(reference, temporary, pictures, path.name, may_be_empty=True)
        proof = {"noise": on_noise.to_dict(), "pictures": None if on_pictures is None else on_pictures.to_dict()}
        metadata = replace(metadata, verification=proof)
        describe_onnx(temporary, metadata)
        _check_description(temporary, metadata, picture_size, path.name)
    return Exported(
        path=path,
        num_bytes=size_in_bytes(path),
        on_noise=on_noise,
        on_pictures=on_pictures,
        metadata=metadata,
    )


def noise(config: DetectorConfig, picture_size: tuple[int, int] | None = None) -> Iterator[Tensor]:
    """Coarse noise as pictures, uint8 (3, H, W), of several sizes unless there is one only."""
    generator = torch.Generator().manual_seed(0)
    side = min(config.min_size, 480)
    sizes = [(int(side * y) + 7, int(side * x) + 3) for y, x in _ASPECTS] if picture_size is None else [picture_size]
    for height, width in sizes:
        coarse = torch.rand(1, 3, max(2, height // 16), max(2, width // 16), generator=generator)
        smooth = F.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1)
        yield (255 * smooth[0]).round().to(torch.uint8)


def _at_threshold_0(detector: Detector) -> Detector:
    """A copy that leaves nothing out for its score."""
    result = copy.deepcopy(detector)
    heads: Any = result.model.roi_heads if result.config.task == "masks" else result.model
    heads.score_thresh = 0.0
    return result


def _passed(
    reference: Detector, file: Path, pictures: Iterable[Tensor], name: str, *, may_be_empty: bool = False
) -> Agreement:
    candidate = open_exported(file)
    agreement = compare_detections(reference.detect, candidate.detect, pictures)
    nothing = may_be_empty and agreement.num_detections == agreement.num_unmatched == 0
    if not (agreement.passed or nothing):
        raise ExportError(f"{name} does not find what the detector finds: {agreement}")
    return agreement


def _metadata(config: DetectorConfig, provenance: dict[str, Any] | None) -> FileMetadata:
    return FileMetadata(
        variant=config.backbone if isinstance(config.backbone, str) else str(config.backbone.get("name")),
        class_names=config.class_names,
        detector=config.to_dict(),
        provenance=provenance or {},
        version=effvit.__version__,
        file_format="onnx",
        precision="fp32",
        batch_size=1,
        takes_pixels=True,
    )


def _check_description(file: Path, metadata: FileMetadata, picture_size: tuple[int, int] | None, name: str) -> None:
    """What is reported must open, metadata and all, and take what it was asked to take."""
    opened = open_exported(file)
    if opened.metadata.to_properties() != metadata.to_properties() or opened.picture_size != picture_size:
        raise ExportError(f"{name} does not say of itself what was written into it")
