"""executorch: one file that torch's runtime for phones and boards runs, with XNNPACK for what it can compute."""

from __future__ import annotations

import json
import weakref
from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile, is_zipfile

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from effvit.deploy.formats.base import ExportedModel, FileFormat, WriteOptions, import_optional
from effvit.deploy.formats.program import root_cause, to_program
from effvit.deploy.formats.tracing import Replacements, Restated, itself, product_and_sum
from effvit.deploy.metadata import FileMetadata
from effvit.errors import ConfigError, ExportError, WeightsError
from effvit.silence import silence

EXTRA = "executorch"
_aten = torch.ops.aten
_METHOD = "forward"
_DESCRIPTION = "metadata.json"
_DELEGATION = "delegation.json"
_BOOKKEEPING = ("getitem",)
"""Nodes of the graph that are no work at run time."""


class ExecuTorchModel(ExportedModel):
    """A `.pte` file in ExecuTorch's runtime on the CPU.

    Args:
        path: The file.
        num_threads: See `ExportedModel`; by itself ExecuTorch takes the performance cores. All open files share
            one pool of threads, so it cannot change while another file is open.
    """

    delegation: dict[str, Any]
    """How many operators XNNPACK computes and which are left to slower code, see `count_delegated`."""

    def __init__(self, path: Path | str, *, num_threads: int | None = None) -> None:
        with silence():
            runtime = import_optional("executorch.runtime", EXTRA).Runtime.get()
        super().__init__(path, num_threads=num_threads)
        described = _read_descriptions(self.path)
        self.metadata = FileMetadata.from_properties(described.get(_DESCRIPTION, {}))
        self.delegation = described.get(_DELEGATION, {})
        _set_num_threads(num_threads)
        try:
            with silence():
                self._method = runtime.load_program(self.path).load_method(_METHOD)
        except RuntimeError as error:
            raise WeightsError(f"{path} is not a program that ExecuTorch can run ({error})") from error
        self.input_shape, self.takes_pixels = _input(self._method, self.path)
        _open_models.add(self)

    def run(self, array: np.ndarray) -> np.ndarray:
        """Run the program; see `ExportedModel.run`."""
        (logits,) = self._method.execute([torch.from_numpy(array)])
        answer: np.ndarray = logits.float().numpy()
        return answer


def write_executorch(model: nn.Module, path: Path, example: Tensor, options: WriteOptions) -> None:
    """Lower a network to XNNPACK as far as it goes, and write the program.

    In fp16 it computes in float16 where the processor does; XNNPACK keeps the weights in float32, so the file is
    no smaller, and without such a processor it is slower.

    The batch is fixed: with a free one, XNNPACK takes fewer operators, and what it takes cannot be run with
    another number of pictures than that of the example (ExecuTorch 1.5).
    """
    fixed = WriteOptions(batch_size=len(example), precision=options.precision)
    said = Restated(to_program(model, example, fixed), _DELEGATED)
    program = to_program(said, example, WriteOptions(batch_size=len(example)))
    with silence():
        exir = import_optional("executorch.exir", EXTRA)
        xnnpack = import_optional("executorch.backends.xnnpack.partition.xnnpack_partitioner", EXTRA)
        try:
            lowered = exir.to_edge_transform_and_lower(program, partitioner=[xnnpack.XnnpackPartitioner()])
            delegation = count_delegated(lowered.exported_program())
            path.write_bytes(lowered.to_executorch().buffer)
        except Exception as error:  # its failures share no base class but this
            raise ExportError(f"{type(model).__name__} cannot be lowered to ExecuTorch: {root_cause(error)}") from error
    _write_descriptions(path, {_DELEGATION: delegation})


def _slices(x: Tensor, sizes: Sequence[int], dim: int = 0) -> tuple[Tensor, ...]:
    """`split_with_sizes` as slices."""
    ends = list(accumulate(sizes))
    starts = [0, *ends[:-1]]
    return tuple(_aten.slice.Tensor(x, dim, start, end) for start, end in zip(starts, ends, strict=True))


def _chunks(x: Tensor, chunks: int, dim: int = 0) -> tuple[Tensor, ...]:
    """`chunk` as slices."""
    return _slices(x, [part.shape[dim] for part in x.chunk(chunks, dim)], dim)


def _parts(x: Tensor, size: int, dim: int = 0) -> tuple[Tensor, ...]:
    """`split` into parts of one size as slices."""
    return _slices(x, [part.shape[dim] for part in torch.split(x, size, dim)], dim)


def _unbind(x: Tensor, dim: int = 0) -> tuple[Tensor, ...]:
    """`unbind` as slices."""
    return tuple(part.reshape(part.squeeze(dim).shape) for part in _slices(x, [1] * x.shape[dim], dim))


def _mean(x: Tensor, dims: Sequence[int], keepdim: bool = False, *, dtype: torch.dtype | None = None) -> Tensor:
    """`mean` over the last dimensions that keeps them, and then drops them."""
    mean: Tensor = _aten.mean.dim(x, dims, True, dtype=dtype)
    last = sorted(dim % x.dim() for dim in dims) == list(range(x.dim() - len(dims), x.dim()))
    if keepdim or not last:
        return mean if keepdim else _aten.mean.dim(x, dims, False, dtype=dtype)
    return mean.reshape(x.shape[: -len(dims)])


_DELEGATED: Replacements = {
    _aten.alias.default: itself,
    _aten.baddbmm.default: product_and_sum,
    _aten.split_with_sizes.default: _slices,
    _aten.chunk.default: _chunks,
    _aten.split.Tensor: _parts,
    _aten.unbind.int: _unbind,
    _aten.mean.dim: _mean,
}
"""Said so that XNNPACK takes it: the whole network is one part for it, where it would be 51 (M0)."""


def describe_executorch(path: Path, metadata: FileMetadata) -> None:
    """Write the metadata into the file, behind the program."""
    _write_descriptions(path, {**_read_descriptions(path), _DESCRIPTION: metadata.to_properties()})


def count_delegated(program: ExportedProgram) -> dict[str, Any]:
    """What XNNPACK computes of a lowered program, and what ExecuTorch's own, unoptimised operators do.

    Returns:
        `num_delegated` and `num_left` operators, in `num_parts` parts with a step between any two, and
        `left`: kind of operator -> how often.
    """
    devtools = import_optional("executorch.devtools.backend_debug", EXTRA)
    info = devtools.get_delegation_info(program.graph_module)
    left = {
        kind: count.non_delegated
        for kind, count in info.delegation_by_operator.items()
        if count.non_delegated and kind not in _BOOKKEEPING
    }
    delegated = sum(count.delegated for kind, count in info.delegation_by_operator.items() if kind not in _BOOKKEEPING)
    return {
        "num_delegated": delegated,
        "num_left": sum(left.values()),
        "num_parts": info.num_delegated_subgraphs,
        "left": left,
    }


_open_models: weakref.WeakSet[ExecuTorchModel] = weakref.WeakSet()
"""Each holds the pool of threads that was there when it was opened."""


def _set_num_threads(num_threads: int | None) -> None:
    """Give ExecuTorch's one pool this many threads; None leaves it as it is."""
    library = import_optional("executorch.extension.pybindings._C", EXTRA)
    with silence():  # the first to ask for the pool makes it, which looks at the processor and tells
        present = library._threadpool_get_thread_count()
    if num_threads is None or num_threads == present:
        return
    if _open_models:
        raise ConfigError(
            f"ExecuTorch has one pool of threads for all open files, of {present} now; close them to have {num_threads}"
        )
    with silence():
        library._unsafe_reset_threadpool(num_threads)


def _input(method: Any, path: Path) -> tuple[tuple[int, ...], bool]:
    """Shape of the input, and whether it takes pixels."""
    described = method.metadata
    tensors = [described.input_tensor_meta(index) for index in range(described.num_inputs())]
    if len(tensors) != 1 or len(tensors[0].sizes()) != 4:
        raise WeightsError(
            f"{path} must take one input (batch, channels, height, width), got {[t.sizes() for t in tensors]}"
        )
    # ExecuTorch numbers its types as torch does inside; Byte is the first.
    return tuple(tensors[0].sizes()), tensors[0].dtype() == 0


def _write_descriptions(path: Path, texts: Mapping[str, Any]) -> None:
    """Put JSON texts behind the program, as a zip archive, in place of what was there.

    The program tells its own length, and what follows is never looked at; a zip archive is found from its
    end. So the one file is both, and `unzip -p FILE metadata.json` reads it anywhere.
    """
    with path.open("r+b") as file:
        file.truncate(_program_length(path))
    with ZipFile(path, "a") as archive:
        for name, value in texts.items():
            archive.writestr(name, json.dumps(value, ensure_ascii=False))


def _read_descriptions(path: Path) -> dict[str, Any]:
    """What `_write_descriptions` wrote; nothing from a file of another tool."""
    if not is_zipfile(path):
        return {}
    try:
        with ZipFile(path) as archive:
            return {name: json.loads(archive.read(name)) for name in archive.namelist()}
    except (BadZipFile, ValueError) as error:
        raise WeightsError(f"damaged metadata in {path}: {error}") from error


def _program_length(path: Path) -> int:
    """Bytes before the archive."""
    if not is_zipfile(path):
        return path.stat().st_size
    with ZipFile(path) as archive:
        return min(member.header_offset for member in archive.infolist())


FORMAT = FileFormat(
    suffix=".pte",
    extra=EXTRA,
    modules=("executorch",),
    precisions=("fp32", "fp16"),
    dynamic_batch=False,
    layout="maps",
    verified="run in ExecuTorch with XNNPACK",
    write=write_executorch,
    describe=describe_executorch,
    open=ExecuTorchModel,
)
