"""aot-inductor: the network compiled to machine code for this kind of processor; runs without Python."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from effvit import timing
from effvit.deploy.formats.archive import describe_archive, read_archive
from effvit.deploy.formats.base import ExportedModel, FileFormat, WriteOptions
from effvit.deploy.formats.program import root_cause, to_program
from effvit.errors import ExportError, WeightsError, first_line
from effvit.silence import quiet


class AotInductorModel(ExportedModel):
    """An `.aoti.pt2` package: machine code, which opening it runs. Open only what you trust.

    The code looks at neither size nor type of what it is given, so the checks of `ExportedModel`, by
    what the package says of itself, are all there is.

    Args:
        path: The file, made by effvit on a processor of the same kind.
        num_threads: See `ExportedModel`; by itself torch takes all cores.
    """

    def __init__(self, path: Path | str, *, num_threads: int | None = None) -> None:
        super().__init__(path, num_threads=num_threads)
        self._num_threads = num_threads
        self.metadata, compiled = read_archive(self.path)
        if not compiled:
            raise WeightsError(f"{path} is not a package of aot-inductor: it holds no machine code")
        try:
            self.input_shape = self.metadata.input_shape
        except WeightsError as error:
            raise WeightsError(f"{path} cannot be opened: {error}") from error
        self.takes_pixels = self.metadata.takes_pixels
        try:
            self._package = torch._inductor.aoti_load_package(str(self.path))
        except Exception as error:  # its exceptions share no base class but this
            raise WeightsError(f"{path} cannot be run on this machine: {first_line(error)}") from error

    def run(self, array: np.ndarray) -> np.ndarray:
        """Run the package; see `ExportedModel.run`."""
        with timing.num_threads(self._num_threads), torch.inference_mode():
            logits: Tensor = self._package(torch.from_numpy(array))
        return logits.numpy()


def write_aot_inductor(model: nn.Module, path: Path, example: Tensor, options: WriteOptions) -> None:
    """Compile and package; takes one to four minutes."""
    program = to_program(model, example, options)
    try:
        with quiet():
            # Freezing lets it lay out the weights for the processor beforehand.
            torch._inductor.aoti_compile_and_package(
                program, package_path=str(path), inductor_configs={"freezing": True}
            )
    except Exception as error:  # compilers fail in many ways
        raise ExportError(f"{type(model).__name__} cannot be compiled: {root_cause(error)}") from error


def find_compiler() -> str | None:
    """What is missing to compile, in one line; None if there is a C++ compiler."""
    from torch._inductor.cpp_builder import get_cpp_compiler

    try:
        get_cpp_compiler()
    except Exception:  # torch's own error has no base class but this
        return "there is no C++ compiler; install g++ or clang, or name one in the environment variable CXX"
    return None


FORMAT = FileFormat(
    suffix=".aoti.pt2",
    extra=None,
    modules=("torch",),
    precisions=("fp32", "fp16"),
    dynamic_batch=True,
    layout="tokens",
    verified="run in torch's package loader",
    write=write_aot_inductor,
    describe=describe_archive,
    open=AotInductorModel,
    needs=find_compiler,
)
