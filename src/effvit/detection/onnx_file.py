"""From a detector to an ONNX model in one piece: preparation and graph joined, nothing outside."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import nn
from torch.export import Dim

from effvit.deploy.formats.program import root_cause
from effvit.detection.config import DetectorConfig
from effvit.detection.onnx_graph import DetectorGraph, as_graph
from effvit.detection.onnx_operators import network_size, preparation, translations
from effvit.errors import ExportError
from effvit.model.attention import WindowAttention
from effvit.silence import quiet

DIVISOR = 32
"""Torchvision pads a batch to multiples of this."""
_INPUTS = ("images", "size", "given", "threshold")
_COARSEST = 64
"""Stride of the coarsest map that is cut into windows, at most, in pixels."""
_WINDOW = 7


class DetectorModel:
    """A detector in ONNX, for any threshold: the graph is made once, which takes most of the time.

    Args:
        model: A detector of torchvision's: RetinaNet, Faster R-CNN or Mask R-CNN; not changed.
        config: How pictures are brought to size.
        picture_size: Height and width of all pictures; None for any.

    Raises:
        ExportError: If it cannot be written as a graph.
    """

    def __init__(self, model: nn.Module, config: DetectorConfig, picture_size: tuple[int, int] | None = None) -> None:
        self.config, self.picture_size = config, picture_size
        size = None if picture_size is None else network_size(config, picture_size, DIVISOR)
        self._graph = _to_onnx(as_graph(model, size), size or _example_size(model), is_free=size is None)

    def at(self, threshold: float) -> Any:
        """The ONNX model that leaves out what it is not surer of than a threshold."""
        import onnx

        before = preparation(
            self.config,
            picture_size=self.picture_size,
            divisor=DIVISOR,
            threshold=threshold,
            opset=self._graph.opset_import[0].version,
            ir_version=self._graph.ir_version,
        )
        return onnx.compose.merge_models(before, self._graph, io_map=[(name, name) for name in _INPUTS])


def _to_onnx(graph: DetectorGraph, size: tuple[int, int], *, is_free: bool) -> Any:
    example = (torch.zeros(1, 3, *size), torch.tensor(size).float(), torch.tensor(size).float(), torch.tensor([0.5]))
    # By AUTO and not by multiples of the divisor: torch reasons three times as long about those.
    shapes = ({2: Dim.AUTO, 3: Dim.AUTO}, None, None, None) if is_free else None
    try:
        with warnings.catch_warnings(), quiet(), torch.no_grad():
            warnings.filterwarnings("ignore", message="The tensor attributes? .* assigned during export")
            program = torch.export.export(graph, example, dynamic_shapes=shapes)
            exported = torch.onnx.export(
                program,
                example,
                dynamo=True,
                input_names=list(_INPUTS),
                output_names=list(graph.output_names),
                custom_translation_table=translations(),
                external_data=False,
                verbose=False,
            )
    except Exception as error:  # the exporter's failures share no base class but this
        raise ExportError(f"the detector cannot be exported to ONNX: {root_cause(error)}") from error
    assert exported is not None
    model = exported.model_proto
    dimensions = model.graph.input[0].type.tensor_type.shape.dim[2:]
    if is_free and not all(dimension.dim_param for dimension in dimensions):
        raise ExportError("the detector cannot be exported to ONNX for pictures of any size: its code fixes the size")
    return model


def _example_size(model: nn.Module) -> tuple[int, int]:
    """A picture whose maps all have several windows each way, as many as no other: a one, or two equal numbers, would
    be taken for a law of the graph."""
    windows = [module.window for module in model.modules() if isinstance(module, WindowAttention)]
    side = _COARSEST * max([_WINDOW, *windows])
    return side + 3 * DIVISOR, 2 * side + 3 * DIVISOR
