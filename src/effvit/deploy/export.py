"""Write a network to a file for a runtime, run that file there, compare it, and only then give it its name."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import effvit
from effvit.deploy.formats.base import ExportedModel, FileFormat, Precision, WriteOptions
from effvit.deploy.formats.table import FORMATS, find_format
from effvit.deploy.metadata import FileMetadata
from effvit.deploy.pixels import FromPixels
from effvit.deploy.proof import TOLERANCES, Job, verify_deploy_form, verify_file
from effvit.deploy.rewrite import rewrite
from effvit.deploy.verify import Labelled, Verification
from effvit.errors import ConfigError, ExportError
from effvit.files import atomic_folder, size_in_bytes
from effvit.model.checkpoints import WeightsInfo, default_info
from effvit.model.network import EfficientViT

__all__ = ["FORMATS", "Exported", "export"]


@dataclass(frozen=True, kw_only=True)
class Exported:
    """A file that was written, run and found right."""

    path: Path
    """Where it is."""
    num_bytes: int
    """Its size, of all files in it if it is a folder."""
    verification: Verification | None
    """How far it is from the network, on the pictures given or else on noise; None if this machine cannot run it."""
    metadata: FileMetadata
    """What it says of itself."""


def export(
    model: nn.Module,
    path: Path | str,
    *,
    info: WeightsInfo | None = None,
    image_size: int | tuple[int, int] | None = None,
    batches: Iterable[Tensor | Labelled] | None = None,
    file_format: str = "onnx",
    precision: Precision = "fp32",
    batch_size: int | None = None,
    preprocessing: bool = False,
    calibration: Iterable[Tensor | Labelled] | None = None,
    tolerance: float | None = None,
    on_step: Callable[[str], None] | None = None,
) -> Exported:
    """Export a network, and verify the file in its runtime.

    The reference is the network as it is in training, in float32, not the deploy form, so that a fault of
    the rewriting shows too. A file that fails is not left behind, and one that was there before stays.

    Args:
        model: The network; not changed, whatever its mode, device and dtype.
        path: File, or folder for some formats, to write.
        info: Class names, preprocessing and provenance, kept in the file; None for what the network tells.
        image_size: Side, or height and width, in pixels; None for that of the preprocessing.
        batches: Normalised pictures to verify on, the validation set for choice, labelled if accuracy shall be
            told; None for noise alone, or for int8 the calibration pictures.
        file_format: Key of `FORMATS`.
        precision: Number format; int8 needs `calibration`.
        batch_size: Pictures per call, fixed in the file; None for any number.
        preprocessing: Whether the file shall take uint8 pictures, (B, H, W, C), and normalise inside.
        calibration: Normalised pictures to measure the ranges of int8 on, from the training set for choice.
        tolerance: See `TOLERANCES`; None for what stands there.
        on_step: Told in a few words what is being done.

    Raises:
        ConfigError: If the format is unknown, cannot be written here or not like this, or the path ends wrongly.
        ExportError: If the network cannot be exported, or the file does not compute what the network does.
        RunError: If the place cannot be written.
    """
    path = Path(path)
    row = find_format(file_format, precision)
    _check_request(file_format, row, path, precision, batch_size, calibration is not None)
    if info is None:
        info = default_info(model) if isinstance(model, EfficientViT) else WeightsInfo()
    size = (image_size, image_size) if isinstance(image_size, int) else image_size
    info = replace(info, preprocessing=info.preprocessing.at_size(size))
    network = copy.deepcopy(model).to("cpu", torch.float32).eval()
    _check_answer(network, info)
    job = Job(
        name=file_format,
        row=row,
        options=WriteOptions(batch_size=batch_size, precision=precision),
        info=info,
        takes_pixels=preprocessing,
        tolerance=TOLERANCES[precision] if tolerance is None else tolerance,
        network=network,
        on_step=on_step or (lambda _: None),
    )
    with atomic_folder(path) as temporary:
        metadata = _metadata(model, job)
        if precision == "int8":
            assert calibration is not None
            calibration = list(calibration)
            batches = calibration if batches is None else batches
            metadata = replace(metadata, quantization=_write_int8(model, temporary, job, metadata, calibration))
        else:
            _write(model, temporary, job)
        metadata = replace(metadata, num_bytes=size_in_bytes(temporary))
        row.describe(temporary, metadata)
        verification = verify_file(temporary, path.name, job, batches)
        proof = {"inspected_only": row.verified} if verification is None else verification.to_dict()
        metadata = replace(metadata, verification=proof)
        row.describe(temporary, metadata)
        _check_description(row.open(temporary), metadata, path.name)
    return Exported(path=path, num_bytes=size_in_bytes(path), verification=verification, metadata=metadata)


def _check_request(
    name: str, row: FileFormat, path: Path, precision: Precision, batch_size: int | None, calibrated: bool
) -> None:
    """Refuse what cannot be done before the minutes of an export."""
    if not path.name.endswith(row.suffix) or path.name == row.suffix:
        raise ConfigError(f"a file of format {name!r} must end in {row.suffix}, got {path.name!r}")
    if batch_size is None and not row.dynamic_batch:
        raise ConfigError(f"format {name!r} takes a fixed number of pictures per call: give the batch size")
    if batch_size is not None and batch_size < 1:
        raise ConfigError(f"batch size must be at least 1, got {batch_size}")
    if calibrated != (precision == "int8"):
        needed = "precision int8 needs calibration pictures" if precision == "int8" else "calibration is for int8"
        raise ConfigError(f"{needed}; got precision {precision!r}{'' if calibrated else ' without them'}")
    obstacle = row.obstacle(precision)
    if obstacle is not None:
        raise ConfigError(f"format {name!r} cannot be written here: {obstacle}")


def _check_answer(network: nn.Module, info: WeightsInfo) -> None:
    """Refuse a size or class names that do not fit."""
    example = torch.zeros(2, len(info.preprocessing.mean), *info.preprocessing.image_size)
    with torch.inference_mode():
        answer = network(example)
    if not isinstance(answer, Tensor) or answer.dim() != 2:
        raise ExportError(f"{type(network).__name__} must answer pictures with logits (batch, num_classes)")
    if info.class_names is not None and len(info.class_names) != answer.shape[1]:
        raise ExportError(f"{len(info.class_names)} class names for {answer.shape[1]} logits")


def _write(model: nn.Module, path: Path, job: Job) -> None:
    """Write the deploy form in float32 or half precision."""
    job.on_step("write")
    height, width = job.preprocessing.image_size
    # Rewritten in float64 and rounded once: in the network's own precision, bfloat16 say, it would be rounded there.
    exact = copy.deepcopy(model).to("cpu", torch.float64)
    deployed = rewrite(exact, layout=job.row.layout, image_size=(height, width)).to(torch.float32)
    verify_deploy_form(deployed, job)
    num_pictures, channels = job.options.batch_size or 2, len(job.preprocessing.mean)
    example = torch.zeros(num_pictures, channels, height, width)
    if job.takes_pixels:
        deployed = FromPixels(deployed, job.preprocessing)
        example = torch.zeros(num_pictures, height, width, channels, dtype=torch.uint8)
    job.row.write(deployed, path, example, job.options)


def _write_int8(
    model: nn.Module, path: Path, job: Job, metadata: FileMetadata, calibration: list[Tensor | Labelled]
) -> dict[str, Any]:
    """Write and verify a float32 file, and an int8 file made of it; gives how."""
    assert job.row.quantize is not None
    pictures = [batch.images if isinstance(batch, Labelled) else batch for batch in job.prepared(calibration)]
    pictures = _of_size(pictures, job.options.batch_size)
    exact = replace(job, options=replace(job.options, precision="fp32"), tolerance=TOLERANCES["fp32"])
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / f"float32{job.row.suffix}"
        _write(model, source, exact)
        job.row.describe(source, metadata)
        verify_file(source, source.name, exact, None)
        job.on_step("quantise")
        quantization = job.row.quantize(
            source,
            path,
            pictures,
            on_step=lambda done, total: job.on_step(f"quantise: {done} of {total} steps"),
        )
    values: dict[str, Any] = quantization.to_dict()
    return values


def _of_size(batches: list[Tensor], batch_size: int | None) -> list[Tensor]:
    """The same pictures in full batches of a fixed size; those that do not fill one are left out."""
    if batch_size is None:
        return batches
    full = [part for part in torch.split(torch.cat(batches), batch_size) if len(part) == batch_size]
    if not full:
        raise ConfigError(f"calibration needs at least one batch of {batch_size} pictures")
    return full


def _metadata(model: nn.Module, job: Job) -> FileMetadata:
    config = model.config if isinstance(model, EfficientViT) else None
    return FileMetadata(
        variant=config.name if config else None,
        config=config,
        class_names=job.info.class_names,
        preprocessing=job.preprocessing,
        temperature=job.info.temperature if job.info.temperature != 1 else None,
        provenance=dict(job.info.provenance),
        version=effvit.__version__,
        file_format=job.name,
        precision=job.options.precision,
        batch_size=job.options.batch_size,
        takes_pixels=job.takes_pixels,
    )


def _check_description(opened: ExportedModel, metadata: FileMetadata, name: str) -> None:
    """What is reported must open, metadata and all, and take what it says it takes."""
    # As texts: what is a tuple here comes back as a list.
    if opened.metadata.to_properties() != metadata.to_properties() or opened.input_shape != metadata.input_shape:
        raise ExportError(f"{name} does not say of itself what was written into it")
