"""Graphs for converters that do not know all of torch: operators said otherwise, sizes as numbers, TorchScript."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram

Replacements = Mapping[Callable[..., Any], Callable[..., Any]]
"""Operator of the graph -> what says the same in operators that the converter knows."""


def itself(tensor: Tensor) -> Tensor:
    """For torch.export's other names of one tensor, `alias`, which no converter knows and none needs."""
    return tensor


def product_and_sum(
    added: Tensor,
    first: Tensor,
    second: Tensor,
    *,
    beta: float = 1,
    alpha: float = 1,
    product: Callable[[Tensor, Tensor], Tensor] = torch.bmm,
) -> Tensor:
    """`baddbmm` said as a product and a sum, which broadcast everywhere and stay in float16 if they are given it.

    The scale goes to a factor, (B, N, K): the product, (B, N, N), is larger where it matters.
    """
    multiplied = product(first if alpha == 1 else first * alpha, second)
    return multiplied + (added if beta == 1 else added * beta)


class Restated(nn.Module):
    """A graph that is run with some of its operators said otherwise.

    Args:
        program: With a fixed batch.
        replacements: What to say otherwise.
    """

    def __init__(self, program: ExportedProgram, replacements: Replacements) -> None:
        super().__init__()
        self.network = program.module(check_guards=False)
        self.replacements = replacements
        self.training = False  # a graph refuses to be told, and has no such mode

    def forward(self, images: Tensor) -> Tensor:
        """Run the graph on a batch as the program takes it."""
        logits: Tensor = _Interpreter(self.network, self.replacements).run(images)
        return logits


class _Interpreter(fx.Interpreter):
    def __init__(self, graph: fx.GraphModule, replacements: Replacements) -> None:
        super().__init__(graph)
        self._replacements = replacements

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return super().call_function(self._replacements.get(target, target), args, kwargs)


def trace(program: ExportedProgram, example: Tensor, replacements: Replacements) -> torch.jit.ScriptModule:
    """Trace the graph of torch.export, whose sizes are numbers, rather than the network's code.

    A trace of the code keeps its arithmetic on sizes as operators. coremltools fails on it, and pnnx rounds
    `-(-height // window)` towards zero: it pads by a negative amount without a word.

    Args:
        program: With a fixed batch.
        example: A batch as the program takes it.
        replacements: What to say otherwise.

    Returns:
        A module whose weights are constants.
    """
    with warnings.catch_warnings(), torch.no_grad():
        # torch announces the end of its tracer; the converters read nothing else (coremltools 9, pnnx 2026).
        warnings.filterwarnings("ignore", category=FutureWarning, message="`torch.jit.trace")
        # Sizes are numbers here, so what the tracer says of Python values holds for no other batch: it is fixed.
        warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)  # type: ignore[attr-defined]
        call = _Call(Restated(program, replacements))
        traced = torch.jit.trace(call, (example,), check_trace=False)  # type: ignore[no-untyped-call]
    assert isinstance(traced, torch.jit.ScriptModule)
    return traced.eval()


class _Call(nn.Module):
    """Keeps the graph out of torch's sight: of a module it would trace the modules inside, whose operators pnnx
    then takes for what their names say."""

    def __init__(self, restated: Restated) -> None:
        super().__init__()
        self._run = restated.forward

    def forward(self, images: Tensor) -> Tensor:
        return self._run(images)
