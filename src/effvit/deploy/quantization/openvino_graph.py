"""What a graph of OpenVINO tells of its layers: their names, weights and multiplications."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

LAYERS = ("Convolution", "GroupConvolution", "MatMul")
"""Operators with weights: what is measured, and if need be left in float."""
MOVES = ("Reshape", "Split", "VariadicSplit", "Transpose", "Squeeze", "Unsqueeze", "Pad", "StridedSlice", "Slice")
"""Operators that nncf lifts a rounding above."""


def macs(node: Any, shape: Sequence[int]) -> float:
    """Multiply-accumulates of a batch: every value is one product with each weight of its channel."""
    weights = tuple(node.input_value(1).get_shape())
    channels = shape[-1] if node.get_type_name() == "MatMul" else shape[1]
    return float(np.prod(shape)) * float(np.prod(weights)) / channels


def is_constant(node: Any) -> bool:
    """Whether a value is known without a picture."""
    if node.get_type_name() == "Constant":
        return True
    inputs = [value.get_source_output().get_node() for value in node.inputs()]
    return node.get_type_name() in ("Convert", "Multiply", "Subtract", "Reshape") and all(map(is_constant, inputs))


def values(node: Any) -> np.ndarray:
    """The value of a constant expression, as nncf writes weights: (Convert(int8) - zero) * scale."""
    if node.get_type_name() == "Constant":
        return np.asarray(node.data)
    inputs = [values(value.get_source_output().get_node()) for value in node.inputs()]
    match node.get_type_name():
        case "Convert":
            return inputs[0].astype(np.float32)
        case "Multiply":
            product: np.ndarray = inputs[0] * inputs[1]
            return product
        case "Subtract":
            difference: np.ndarray = inputs[0] - inputs[1]
            return difference
        case _:
            return inputs[0].reshape(node.get_output_shape(0))


def weights_name(node: Any) -> str:
    """Name of a layer from that of its weights: `self.stem.0.weight` is `stem.0`; empty if they have none."""
    while node.get_type_name() != "Constant":
        node = node.input_value(0).get_node()
    name = node.get_friendly_name()
    return name.removeprefix("self.").removesuffix("weight").rstrip("._") if name.endswith("weight") else ""
