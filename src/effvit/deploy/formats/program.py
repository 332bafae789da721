"""From a deploy form to the graph of torch.export that the writers for several formats start from."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from effvit.deploy.formats.base import WriteOptions
from effvit.deploy.pixels import in_half
from effvit.errors import ExportError, first_line
from effvit.silence import quiet

INPUT_NAME = "images"
OUTPUT_NAME = "logits"


def dynamic_shapes(options: WriteOptions) -> tuple[dict[int, Dim], ...] | None:
    """The first dimension free, as torch's exporters take it; None for a fixed batch."""
    return ({0: Dim("batch", min=1)},) if options.batch_size is None else None


def to_program(model: nn.Module, example: Tensor, options: WriteOptions) -> ExportedProgram:
    """Trace a network into a graph, in half precision if that is asked for.

    Args:
        model: In eval mode, float32, on the CPU.
        example: A batch as the file shall take it.
        options: Fixed or free batch; precision.

    Raises:
        ExportError: If its code depends on the pictures' values, or fixes a batch that shall be free.
    """
    if options.precision == "fp16":
        model = in_half(model)
    try:
        with warnings.catch_warnings(), quiet(), torch.no_grad():
            # Models that keep tensors for the next call, as timm's do: this copy has no next call.
            warnings.filterwarnings("ignore", message="The tensor attributes? .* assigned during export")
            return torch.export.export(model, (example,), dynamic_shapes=dynamic_shapes(options))
    except Exception as error:  # the exporter's failures share no base class but this
        if "specialized it to be a constant" in str(error):
            reason = "with a free batch: its code fixes the batch; ask for a fixed one"
        else:
            reason = f"as a graph: {root_cause(error)}"
        raise ExportError(f"{type(model).__name__} cannot be exported {reason}") from error


def root_cause(error: BaseException) -> str:
    """First line of what went wrong first: exporters wrap it in pages of advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    return first_line(error)
