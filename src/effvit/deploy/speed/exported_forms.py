"""The forms a model can take as a file: exported by either of torch's exporters, in float32, float16 or int8."""

from __future__ import annotations

import hashlib
import importlib.metadata
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

import effvit
from effvit.deploy.export import export
from effvit.deploy.formats.base import FileFormat, Precision
from effvit.deploy.formats.program import INPUT_NAME, OUTPUT_NAME
from effvit.deploy.formats.table import FORMATS
from effvit.deploy.runtimes import OnnxModel
from effvit.deploy.speed.forms import Form, Prepared, deploy_text, reparameterized
from effvit.deploy.speed.sources import Entrant
from effvit.deploy.verify import verify
from effvit.errors import ConfigError, ExportError, first_line
from effvit.files import atomic_path
from effvit.model.checkpoints import WeightsInfo
from effvit.model.network import EfficientViT
from effvit.preprocessing import Preprocessing
from effvit.silence import quiet

FILE_RUNTIMES: dict[str, str] = {"onnxruntime" if name == "onnx" else name: name for name in FORMATS}
"""Name of a runtime that takes files -> the format it takes."""

CALIBRATION = "16 pictures of noise, no layer left in float: only the speed was asked for"
"""What networks are calibrated with that come into int8 only to be timed."""
_PACKAGES = ("torch", "timm", "onnx", "onnxscript", "onnxruntime", "nncf")
"""What writes and quantises files beside a format's own modules."""


def exported_forms(
    entrant: Entrant, *, runtime: str, precision: str, num_threads: int | None, folder: Path
) -> list[Form]:
    """All forms of a network as a file of a runtime, none of them written yet.

    Ours is rewritten and exported as `effvit export` does it. Everybody else's is reparameterised by timm where it is
    timm's; for ONNX, where torch has two exporters, by each of them.

    Args:
        entrant: What is exported.
        runtime: Key of `FILE_RUNTIMES`.
        precision: One that the format offers.
        num_threads: Threads within an operator.
        folder: Where files are written, and taken from if they are there: their names tell weights, versions
            and form. Weights that are random anyway are not told apart.

    Raises:
        ConfigError: If the format does not offer the precision.
    """
    row = FORMATS[FILE_RUNTIMES[runtime]]
    if precision not in row.precisions:
        raise ConfigError(f"{runtime} computes in {', '.join(row.precisions)}, not in {precision}")
    assert entrant.network is not None
    text, identity = f"{deploy_text(entrant.network)}, exported", _identity(entrant, row)
    exporters = {"dynamo": (text, _export)}
    if runtime == "onnxruntime" and not isinstance(entrant.network, EfficientViT):
        exporters["torchscript"] = (f"{text} by tracing", _export_by_tracing)
    return [
        Form(
            name=name,
            text=text,
            prepare=_Exporter(
                entrant=entrant,
                file_format=FILE_RUNTIMES[runtime],
                precision=precision,
                num_threads=num_threads,
                folder=folder,
                name=name,
                identity=identity,
                write=write,
            ).prepare,
        )
        for name, (text, write) in exporters.items()
    ]


@dataclass(frozen=True, kw_only=True)
class _Exporter:
    """Writes the file of one form when it is first asked for."""

    entrant: Entrant
    file_format: str
    precision: Precision
    num_threads: int | None
    folder: Path
    name: str
    identity: str
    write: Callable[[Entrant, Path, str, Precision, int | None], None]
    failures: dict[Path, str] = field(default_factory=dict)
    """What failed once fails again, and takes minutes to do so."""

    @property
    def row(self) -> FileFormat:
        return FORMATS[self.file_format]

    def prepare(self, images: Tensor) -> Prepared:
        """Write the file, open it, and bind it to the pictures."""
        file = self._file(len(images))
        model = self.row.open(file, num_threads=self.num_threads)
        return Prepared(call=lambda: model(images), file=file, images=images)

    def _file(self, batch_size: int) -> Path:
        """A file for any batch, or else for this one, where the format or the network does not offer the first."""
        if self.row.dynamic_batch:
            try:
                return self._written(self.precision, None)
            except ExportError:
                pass
        return self._written(self.precision, batch_size)

    def _written(self, precision: Precision, batch_size: int | None) -> Path:
        batch = "any" if batch_size is None else str(batch_size)
        parts = (self.entrant.label, self.name, precision, f"batch-{batch}", self.identity)
        path = self.folder / (re.sub(r"[^\w.-]", "_", "-".join(parts)) + self.row.suffix)
        if path in self.failures:
            raise ExportError(self.failures[path])
        if path.exists():
            return path
        try:
            if precision == "int8":
                self._quantize(self._written("fp32", batch_size), path)
            else:
                self.write(self.entrant, path, self.file_format, precision, batch_size)
        except ExportError as error:
            self.failures[path] = first_line(error)
            raise
        return path

    def _quantize(self, source: Path, target: Path) -> None:
        """Bring a float32 file to int8 the fast way: what it answers does not matter here."""
        generator = torch.Generator().manual_seed(0)
        noise = [torch.randn(8, *self.entrant.input_size, generator=generator) for _ in range(2)]
        if self.file_format == "onnx":
            from effvit.deploy.quantization.onnx import quantize_onnx

            quantize_onnx(source, target, noise, methods=("min-max",), keep_float=())
        else:  # no other format names int8 among its precisions
            from effvit.deploy.quantization.openvino import quantize_openvino

            quantize_openvino(source, target, noise, methods=("default",), keep_float=())


def _export(entrant: Entrant, path: Path, file_format: str, precision: Precision, batch_size: int | None) -> None:
    network = entrant.network
    assert network is not None
    if not isinstance(network, EfficientViT):
        network = reparameterized(network)
    info = _info(entrant.input_size)
    export(network, path, info=info, file_format=file_format, precision=precision, batch_size=batch_size)


def _export_by_tracing(
    entrant: Entrant, path: Path, file_format: str, precision: Precision, batch_size: int | None
) -> None:
    """Write ONNX by the exporter that torch keeps for what the newer one cannot do, and verify it."""
    if precision != "fp32":
        raise ExportError(f"{entrant.label}: the tracing exporter writes fp32, not {precision}")
    assert entrant.network is not None
    module = reparameterized(entrant.network).to("cpu", torch.float32)
    noise = torch.randn(batch_size or 2, *entrant.input_size, generator=torch.Generator().manual_seed(0))
    free = {INPUT_NAME: {0: "batch"}, OUTPUT_NAME: {0: "batch"}} if batch_size is None else None
    with atomic_path(path) as temporary:
        try:
            with warnings.catch_warnings(), quiet():
                warnings.simplefilter("ignore")  # it warns of its own end, and of every branch it takes as constant
                torch.onnx.export(
                    module,
                    (noise,),
                    temporary,
                    dynamo=False,
                    input_names=[INPUT_NAME],
                    output_names=[OUTPUT_NAME],
                    dynamic_axes=free,
                )
        except Exception as error:  # its failures share no base class but this
            raise ExportError(f"{entrant.label} cannot be traced to ONNX: {first_line(error)}") from error
        check = noise if batch_size is not None else torch.cat([noise, noise.flip(0), noise[:1]])
        verification = verify(module, OnnxModel(temporary), [check])
        if not verification.passed:
            raise ExportError(f"{entrant.label} traced to ONNX does not compute what it does in torch: {verification}")


def _info(input_size: tuple[int, int, int]) -> WeightsInfo:
    channels, *size = input_size
    preprocessing = Preprocessing(image_size=(size[0], size[1]), mean=(0.5,) * channels, std=(0.5,) * channels)
    return WeightsInfo(preprocessing=preprocessing)


def _identity(entrant: Entrant, row: FileFormat) -> str:
    """What makes one file of a name differ from another, as a short text for its name."""
    network = entrant.network
    assert network is not None
    state = network.state_dict()
    config = network.config.to_json() if isinstance(network, EfficientViT) else ""
    structure = re.sub(r"\b0x[0-9a-f]+", "", str(network))  # an address in memory is another one every time
    shapes = {name: tuple(value.shape) for name, value in state.items()}
    versions = [_version(package) for package in (*_PACKAGES, *row.modules)]
    digest = hashlib.sha256(repr((entrant.input_size, config, structure, shapes, versions)).encode())
    package = Path(effvit.__file__).parent
    for source in sorted(path for part in ("model", "deploy") for path in (package / part).glob("**/*.py")):
        digest.update(source.read_bytes())
    if not entrant.is_random:
        for value in state.values():
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:12]


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
