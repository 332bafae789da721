"""torch-export: the graph and weights as torch keeps them, for whoever compiles or lowers them further with torch."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from effvit import timing
from effvit.deploy.formats.archive import describe_archive, read_archive
from effvit.deploy.formats.base import ExportedModel, FileFormat, WriteOptions
from effvit.deploy.formats.program import to_program
from effvit.errors import WeightsError, first_line

_NO_CODE = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"


class TorchExportModel(ExportedModel):
    """A `.pt2` file of torch.export, run by torch operator by operator.

    Args:
        path: The file.
        num_threads: See `ExportedModel`; by itself torch takes all cores.
    """

    def __init__(self, path: Path | str, *, num_threads: int | None = None) -> None:
        super().__init__(path, num_threads=num_threads)
        self._num_threads = num_threads
        self.metadata, compiled = read_archive(self.path)
        if compiled:
            raise WeightsError(f"{path} is a package of machine code: its name must end in .aoti.pt2")
        try:
            with _no_code():
                program = torch.export.load(self.path)
        except Exception as error:  # its exceptions share no base class but this
            raise WeightsError(f"{path} is not a program of torch.export: {first_line(error)}") from error
        self._module = program.module()
        self.input_shape, self.takes_pixels = _input(program, self.path)

    def run(self, array: np.ndarray) -> np.ndarray:
        """Run the graph; see `ExportedModel.run`."""
        with timing.num_threads(self._num_threads), torch.inference_mode():
            logits: Tensor = self._module(torch.from_numpy(array))
        return logits.numpy()


def write_torch_export(model: nn.Module, path: Path, example: Tensor, options: WriteOptions) -> None:
    """Write graph and weights, in half precision if asked for."""
    program = to_program(model, example, options)
    program.example_inputs = None  # of no use to anyone, and as large as the batch
    with warnings.catch_warnings():
        # Said of every kernel in channels-last order; its memory is kept as it lies, and its strides with it.
        warnings.filterwarnings("ignore", message="No complete tensor found in the group")
        torch.export.save(program, path)


def _input(program: torch.export.ExportedProgram, path: Path) -> tuple[tuple[int | None, ...], bool]:
    """Shape of the input, and whether it takes pixels."""
    names = program.graph_signature.user_inputs
    nodes = [node for node in program.graph.nodes if node.op == "placeholder" and node.name in names]
    if len(nodes) != 1 or nodes[0].meta["val"].dim() != 4:
        raise WeightsError(f"{path} must take one input (batch, channels, height, width), got {len(nodes)} inputs")
    value = nodes[0].meta["val"]
    return tuple(side if isinstance(side, int) else None for side in value.shape), value.dtype == torch.uint8


@contextmanager
def _no_code() -> Iterator[None]:
    """Hold torch.export's reader to the rule of this house: tensors are read, pickled code is refused.

    The reader asks for code itself where a file says that a tensor is pickled; only this setting overrules it.
    """
    before = os.environ.get(_NO_CODE)
    os.environ[_NO_CODE] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_NO_CODE]
        else:
            os.environ[_NO_CODE] = before


FORMAT = FileFormat(
    suffix=".pt2",
    extra=None,
    modules=("torch",),
    precisions=("fp32", "fp16"),
    dynamic_batch=True,
    layout="tokens",
    verified="run in torch",
    write=write_torch_export,
    describe=describe_archive,
    open=TorchExportModel,
)
