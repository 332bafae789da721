"""Write a network to a file for a runtime, run that file, compare it, and only then give it its name."""

from __future__ import annotations

import copy
import io
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

import effvit
from effvit.deploy.metadata import FileMetadata
from effvit.deploy.rewrite import rewrite
from effvit.deploy.runtimes import OnnxModel
from effvit.deploy.verify import TOLERANCE, Verification, verify
from effvit.errors import ConfigError, ExportError, first_line, unknown_name
from effvit.files import atomic_path
from effvit.model.checkpoints import WeightsInfo, default_info
from effvit.model.network import EfficientViT


@dataclass(frozen=True, kw_only=True)
class FileFormat:
    """One row of the table of formats."""

    suffix: str
    """End of the file's name."""
    write: Callable[[nn.Module, Path, Tensor], None]
    """Writes a deploy form to a path, given a batch of pictures of the right size."""
    describe: Callable[[Path, FileMetadata], None]
    """Writes metadata into such a file."""
    open: Callable[[Path], Callable[[Tensor], Tensor]]
    """Opens such a file in its runtime."""


@dataclass(frozen=True, kw_only=True)
class Exported:
    """A file that was written, run and found right."""

    path: Path
    """Where it is."""
    num_bytes: int
    """Its size."""
    verification: Verification
    """How far it is from the network, on the pictures given or else on noise."""
    metadata: FileMetadata
    """What it says of itself."""


def export(
    model: nn.Module,
    path: Path | str,
    *,
    info: WeightsInfo | None = None,
    image_size: int | tuple[int, int] | None = None,
    batches: Iterable[Tensor] | None = None,
    file_format: str = "onnx",
    tolerance: float = TOLERANCE,
) -> Exported:
    """Export a network in float32 with a batch of any size, and verify the file in its runtime.

    The reference is the network as it is in training, not the deploy form, so that a fault of the
    rewriting shows too. A file that fails is not left behind, and one that was there before stays.

    Args:
        model: The network; not changed, whatever its mode, device and dtype.
        path: File to write.
        info: Class names, preprocessing and provenance, kept in the file; None for what the network tells.
        image_size: Side, or height and width, in pixels; None for that of the preprocessing.
        batches: Prepared pictures to verify on, the validation set for choice; None for noise alone.
        file_format: Key of `FORMATS`.
        tolerance: See `verify`.

    Raises:
        ConfigError: If the format is unknown, the path ends wrongly or the size is not allowed.
        ExportError: If the network cannot be exported, or the file does not compute what the network does.
        RunError: If the place cannot be written.
    """
    path = Path(path)
    if file_format not in FORMATS:
        raise ConfigError(unknown_name("format", file_format, FORMATS))
    row = FORMATS[file_format]
    if path.suffix != row.suffix:
        raise ConfigError(f"a file of format {file_format!r} must end in {row.suffix}, got {path.name!r}")
    if info is None:
        info = default_info(model) if isinstance(model, EfficientViT) else WeightsInfo()
    info = _for_size(info, image_size)
    channels, size = len(info.preprocessing.mean), info.preprocessing.image_size
    reference = copy.deepcopy(model).to("cpu", torch.float32).eval()
    example = torch.zeros(2, channels, *size)
    _check_answer(reference, example, info)
    with atomic_path(path) as temporary:
        # Folded before the cast: folding is exact in the network's own precision.
        row.write(rewrite(model).to("cpu", torch.float32), temporary, example)
        candidate = row.open(temporary)
        # Noise first even if there are pictures: it is quick, and its batches are of more than one size.
        for pictures in (_noise(channels, size), batches):
            if pictures is None:
                continue
            verification = verify(reference, candidate, pictures, tolerance=tolerance)
            if not verification.passed:
                raise ExportError(f"{path.name} does not compute what the network does: {verification}")
        metadata = _metadata(model, info, verification)
        row.describe(temporary, metadata)
        row.open(temporary)  # what is reported must open, metadata and all
    return Exported(path=path, num_bytes=path.stat().st_size, verification=verification, metadata=metadata)


def _for_size(info: WeightsInfo, image_size: int | tuple[int, int] | None) -> WeightsInfo:
    """The same with another picture size, given as side or (height, width); None keeps it."""
    size = (image_size, image_size) if isinstance(image_size, int) else image_size
    return replace(info, preprocessing=info.preprocessing.at_size(size))


def _check_answer(model: nn.Module, images: Tensor, info: WeightsInfo) -> None:
    """Refuse a size or class names that do not fit before the minutes of an export."""
    with torch.inference_mode():
        answer = model(images)
    if not isinstance(answer, Tensor) or answer.dim() != 2:
        raise ExportError(f"{type(model).__name__} must answer pictures with logits (batch, num_classes)")
    if info.class_names is not None and len(info.class_names) != answer.shape[1]:
        raise ExportError(f"{len(info.class_names)} class names for {answer.shape[1]} logits")


def _noise(channels: int, size: tuple[int, int]) -> Iterator[Tensor]:
    """Batches of two sizes, neither that of the example, so that a batch frozen into the file shows."""
    generator = torch.Generator().manual_seed(0)
    for batch_size in (1, 5):
        yield torch.randn(batch_size, channels, *size, generator=generator)


def _metadata(model: nn.Module, info: WeightsInfo, verification: Verification) -> FileMetadata:
    config = model.config if isinstance(model, EfficientViT) else None
    return FileMetadata(
        variant=config.name if config else None,
        config=config,
        class_names=info.class_names,
        preprocessing=info.preprocessing,
        provenance=dict(info.provenance),
        version=effvit.__version__,
        verification=verification.to_dict(),
    )


def _write_onnx(model: nn.Module, path: Path, images: Tensor) -> None:
    """One file, weights inside; input `images`, output `logits`, first dimension free."""
    try:
        with warnings.catch_warnings(), _quiet():
            # Models that keep tensors for the next call, as timm's do: this copy has no next call.
            warnings.filterwarnings("ignore", message="The tensor attributes? .* assigned during export")
            program = torch.onnx.export(
                model,
                (images,),
                dynamo=True,
                input_names=["images"],
                output_names=["logits"],
                dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
                external_data=False,
                verbose=False,
            )
    except Exception as error:  # the exporter's failures share no base class but this
        raise ExportError(f"{type(model).__name__} cannot be exported to ONNX: {_root_cause(error)}") from error
    assert program is not None
    shape = program.model.graph.inputs[0].shape
    if shape is None or isinstance(shape[0], int):
        # The exporter falls back to this without a word when something in the model needs a number.
        raise ExportError(f"{type(model).__name__} cannot be exported with a free batch: its code fixes the batch")
    program.save(path, external_data=False)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what the exporter prints off the terminal: on a failure it writes whole programs to stderr."""
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        yield


def _root_cause(error: BaseException) -> str:
    """First line of what went wrong first: the exporter wraps it in pages of advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    return first_line(error)


def _describe_onnx(path: Path, metadata: FileMetadata) -> None:
    import onnx

    model = onnx.load(path)
    onnx.helper.set_model_props(model, metadata.to_properties())
    onnx.save(model, path)


FORMATS: dict[str, FileFormat] = {
    "onnx": FileFormat(suffix=".onnx", write=_write_onnx, describe=_describe_onnx, open=OnnxModel),
}
"""Name -> format."""
