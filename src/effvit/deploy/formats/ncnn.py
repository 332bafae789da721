"""ncnn: a folder with graph, weights and description, for phones and boards; small runtime, no dependencies."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from effvit.deploy.formats.base import ExportedModel, FileFormat, WriteOptions, import_optional
from effvit.deploy.formats.program import to_program
from effvit.deploy.formats.tracing import Replacements, itself, product_and_sum, trace
from effvit.deploy.metadata import FileMetadata
from effvit.errors import ExportError, RunError, WeightsError
from effvit.files import read_json, write_json
from effvit.silence import silence

EXTRA = "ncnn"
GRAPH = "model.param"
WEIGHTS = "model.bin"
DESCRIPTION = "metadata.json"
_INPUT, _OUTPUT = "in0", "out0"
"""The names that pnnx gives."""
_aten = torch.ops.aten


class NcnnModel(ExportedModel):
    """An `.ncnn` folder, run on the CPU one picture after the other: ncnn knows no batches.

    A file in fp32 is computed in float32. One in fp16 holds its weights in float16, and ncnn stores and
    computes in float16 too where the processor does (most ARM processors; no x86 before AVX512-FP16).

    Args:
        path: The folder.
        num_threads: See `ExportedModel`; by itself ncnn takes all cores.
    """

    def __init__(self, path: Path | str, *, num_threads: int | None = None) -> None:
        with silence():
            ncnn = import_optional("ncnn", EXTRA)
        super().__init__(path, num_threads=num_threads)
        self._ncnn = ncnn
        self.metadata = _read_metadata(self.path)
        try:
            self.input_shape = self.metadata.input_shape
        except WeightsError as error:
            raise WeightsError(f"{path} cannot be opened: {error}") from error
        self.takes_pixels = self.metadata.takes_pixels
        _check_graph(self.path / GRAPH)
        self._net = ncnn.Net()
        _set_options(self._net.opt, num_threads, in_half=self.metadata.precision == "fp16")
        with silence():
            failed = self._net.load_param(str(self.path / GRAPH)) or self._net.load_model(str(self.path / WEIGHTS))
        if failed:
            raise WeightsError(f"{path} is not a model that ncnn can run: {GRAPH} or {WEIGHTS} is damaged")

    def run(self, array: np.ndarray) -> np.ndarray:
        """Run picture by picture; see `ExportedModel.run`."""
        return np.stack([self._run_one(picture) for picture in array.astype(np.float32, copy=False)])

    def _run_one(self, picture: np.ndarray) -> np.ndarray:
        """(C, H, W) or (H, W, C) -> (num_classes,)."""
        extractor = self._net.create_extractor()
        extractor.input(_INPUT, self._ncnn.Mat(picture))  # a view: the picture outlives the extractor
        failed, logits = extractor.extract(_OUTPUT)
        if failed:
            raise RunError(f"ncnn cannot run {self.path.name} (its error {failed})")
        return np.array(logits, dtype=np.float32).reshape(-1)


def write_ncnn(model: nn.Module, path: Path, example: Tensor, options: WriteOptions) -> None:
    """Write graph and weights; in fp16 the weights alone are rounded, see `NcnnModel`.

    Raises:
        ExportError: If something in the network has no counterpart in ncnn, such as a tensor above four dimensions.
    """
    # ncnn has float tensors only: pixels come in as numbers, which is also how its own decoder gives them.
    one = example[:1].float()
    traced = trace(to_program(model, one, WriteOptions(batch_size=1)), one, _BATCH_FREE)
    with tempfile.TemporaryDirectory() as folder:
        traced.save(str(Path(folder) / "model.pt"))
        graph, weights = _convert(Path(folder), one.shape, in_half=options.precision == "fp16")
        _check_converted(graph, type(model).__name__)
        path.mkdir(parents=True, exist_ok=True)
        shutil.move(graph, path / GRAPH)
        shutil.move(weights, path / WEIGHTS)


def describe_ncnn(path: Path, metadata: FileMetadata) -> None:
    """Write the metadata beside graph and weights."""
    write_json(path / DESCRIPTION, metadata.to_properties())


def _convert(folder: Path, shape: Sequence[int], *, in_half: bool) -> tuple[Path, Path]:
    """Run pnnx, which writes many files beside its input, to those of ncnn."""
    with silence():
        pnnx = import_optional("pnnx", EXTRA)
    sizes = ",".join(map(str, shape))
    command = [pnnx.EXEC_PATH, "model.pt", f"inputshape=[{sizes}]f32", f"fp16={int(in_half)}"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, errors="replace")
    graph, weights = folder / "model.ncnn.param", folder / "model.ncnn.bin"
    if done.returncode or not graph.is_file() or not weights.is_file():
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise ExportError(f"pnnx failed with code {done.returncode}: {said[-1] if said else 'it said nothing'}")
    return graph, weights


def _operators(graph: Path) -> list[str]:
    """Kind of each operator of a graph: after a magic number and two counts, the first word of each line."""
    lines = graph.read_text(encoding="utf-8").splitlines()[2:]
    return [line.split()[0] for line in lines if line.strip()]


def _check_converted(graph: Path, name: str) -> None:
    """What ncnn does not have pnnx passes on under torch's name, and says nothing."""
    foreign = sorted({kind for kind in _operators(graph) if not kind.isidentifier()})
    if foreign:
        raise ExportError(
            f"{name} cannot be exported to ncnn, which has no {', '.join(foreign)} (or not above four dimensions)"
        )


def _check_graph(graph: Path) -> None:
    """Refuse what is no graph: ncnn itself crashes on some of it."""
    try:
        text = graph.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise WeightsError(f"{graph.parent} is not a folder of ncnn: {GRAPH} cannot be read") from error
    lines = text.splitlines()
    counts = lines[1].split() if len(lines) > 1 else []
    if lines[:1] != ["7767517"] or not counts or counts[0] != str(len(lines) - 2):
        raise WeightsError(f"{graph.parent} is not a folder of ncnn: {GRAPH} is damaged")


def _read_metadata(folder: Path) -> FileMetadata:
    """Of another tool's folder there is none."""
    if not (folder / DESCRIPTION).is_file():
        return FileMetadata()
    try:
        return FileMetadata.from_properties(read_json(folder / DESCRIPTION))
    except (RunError, AttributeError) as error:
        raise WeightsError(f"damaged metadata in {folder}: {error}") from error


def _set_options(options: Any, num_threads: int | None, *, in_half: bool) -> None:
    """Compute in what the file says; by itself ncnn rounds to float16 or bfloat16 where the processor can."""
    options.use_fp16_packed = options.use_fp16_storage = options.use_fp16_arithmetic = in_half
    options.use_bf16_packed = options.use_bf16_storage = False
    if num_threads is not None:
        options.num_threads = num_threads


def _convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0),
    dilation: Sequence[int] = (1, 1),
    groups: int = 1,
) -> Tensor:
    """A convolution of one picture, also where windows lie in the batch.

    ncnn takes a batch apart; a constant of one value per window, such as a mask, then meets a tensor without
    windows, and ncnn crashes.
    """
    batch, channels, height, width = x.shape
    if batch == 1:
        return _aten.conv2d.default(x, weight, bias, stride, padding, dilation, groups)  # type: ignore[no-any-return]
    if weight.shape[2:] == (1, 1) and groups == 1 and tuple(stride) == (1, 1) and tuple(padding) == (0, 0):
        size = height * width
        x = x.flatten(2).transpose(0, 1).reshape(1, channels, batch, size)  # (B, C, H, W) -> (1, C, B, H * W)
        x = _aten.conv2d.default(x, weight, bias)
        x = x.reshape(-1, batch, size).transpose(0, 1)  # (1, C', B, H * W) -> (B, C', H * W)
        return x.reshape(batch, -1, height, width)
    x = x.reshape(1, batch * channels, height, width)  # (B, C, H, W) -> (1, B * C, H, W)
    weight = weight.repeat(batch, 1, 1, 1)
    bias = None if bias is None else bias.repeat(batch)
    x = _aten.conv2d.default(x, weight, bias, stride, padding, dilation, batch * groups)
    return x.reshape(batch, -1, *x.shape[2:])  # (1, B * C', H', W') -> (B, C', H', W')


_BATCH_FREE: Replacements = {
    _aten.alias.default: itself,
    _aten.bmm.default: torch.matmul,
    _aten.baddbmm.default: partial(product_and_sum, product=torch.matmul),
    _aten.conv2d.default: _convolution,
}
"""pnnx guesses which dimension is the batch; said like this, there is none to guess beyond that of the picture."""

FORMAT = FileFormat(
    suffix=".ncnn",
    extra=EXTRA,
    modules=("ncnn", "pnnx"),
    precisions=("fp32", "fp16"),
    dynamic_batch=True,
    layout="maps",
    verified="run in ncnn, picture by picture",
    write=write_ncnn,
    describe=describe_ncnn,
    open=NcnnModel,
)
