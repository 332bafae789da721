"""torch-export: the graph and weights as torch keeps them, for whoever compiles or lowers them further with torch."""

from __future__ import annotations

import ast
import json
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.export.pt2_archive import PT2ArchiveReader
from torch.export.pt2_archive._package import load_pt2

from effvit import timing
from effvit.deploy.formats.archive import describe_archive, read_archive
from effvit.deploy.formats.base import ExportedModel, FileFormat, WriteOptions
from effvit.deploy.formats.program import to_program
from effvit.errors import WeightsError, first_line

_NO_CODE = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
_MODELS = "models/"
"""Records under this are graphs."""
_CONSTRUCTORS = frozenset(
    ["Symbol", "Integer", "Rational", "Add", "Mul", "Pow", "Mod", "Max", "Min", "FloorDiv", "CeilDiv", "PythonMod"]
)
"""What torch writes the sizes of tensors with."""


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
            _check_sizes(self.path)
            with _no_code():
                # Not torch.export.load: what this refuses, that tries again as a file of torch 2.7, unchecked.
                program = load_pt2(str(self.path)).exported_programs["model"]
        except WeightsError:
            raise
        except Exception as error:  # its exceptions share no base class but this
            raise WeightsError(f"{path} is not a program of torch.export: {first_line(error)}") from error
        self.input_shape, self.takes_pixels = _input(program, self.path)
        # Of guards torch makes Python code; what the file takes is checked by its shape instead.
        self._module = program.module(check_guards=False)

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


def _check_sizes(path: Path) -> None:
    """Refuse sizes that are more than arithmetic: torch gives their texts to sympy, which evaluates them as Python."""
    reader = PT2ArchiveReader(str(path))
    for name in reader.get_file_names():
        if name.startswith(_MODELS):
            for text in _values(json.loads(reader.read_string(name)), "expr_str"):
                if not _is_arithmetic(text):
                    raise WeightsError(f"{path} holds code where the size of a tensor should be: {text!r:.60}")


def _values(tree: Any, key: str) -> Iterator[Any]:
    """Every value of a key in a JSON document."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            waiting.extend(node.values())
            if key in node:
                yield node[key]
        elif isinstance(node, list):
            waiting.extend(node)


def _is_arithmetic(text: Any) -> bool:
    """Whether a text only constructs numbers, named symbols and operations on them, as torch writes them."""
    try:
        return isinstance(text, str) and _constructs(ast.parse(text, mode="eval").body)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False


def _constructs(node: ast.expr) -> bool:
    if isinstance(node, ast.UnaryOp):
        return isinstance(node.op, ast.USub) and _constructs(node.operand)
    if isinstance(node, ast.Constant):
        return isinstance(node.value, int)
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name) or node.func.id not in _CONSTRUCTORS:
        return False
    arguments = node.args
    if node.func.id == "Symbol":  # nowhere else may a text stand: some constructors would evaluate it, too
        name = arguments[0].value if len(arguments) == 1 and isinstance(arguments[0], ast.Constant) else None
        if not isinstance(name, str) or re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name) is None:
            return False
        arguments = []
    options = [keyword.value for keyword in node.keywords if keyword.arg is not None]
    are_flags = all(isinstance(value, ast.Constant) and isinstance(value.value, bool) for value in options)
    return len(options) == len(node.keywords) and are_flags and all(map(_constructs, arguments))


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
