"""An ONNX graph on its way to int8: who makes and takes what, and which nodes are quantised."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import onnx
from onnx import NodeProto

LAYERS = ("Conv", "Gemm", "MatMul")
"""Operators with weights: what is quantised, measured, and if need be left in float."""
JOINS = ("Add", "Mul", "Concat", "GlobalAveragePool", "Sigmoid")
"""Operators between layers that run in int8; without them each would convert to float and back."""
CARRIERS = ("Relu", "Reshape", "Transpose", "Split", "Flatten", "Squeeze", "Unsqueeze", "Pad", "Slice", "MaxPool")
"""Operators that give back values they were given: in int8 wherever a neighbour is."""


@dataclass(frozen=True)
class Plan:
    """Names of the nodes to be quantised."""

    layers: tuple[str, ...]
    """Nodes of `LAYERS`."""
    joins: tuple[str, ...]
    """Nodes of `JOINS`."""
    carriers: tuple[str, ...]
    """Nodes of `CARRIERS`."""

    @property
    def nodes(self) -> list[str]:
        """All of them."""
        return [*self.layers, *self.joins, *self.carriers]


class Graph:
    """A model with its nodes named, and who makes and takes each tensor."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.initializers = {tensor.name: tensor for tensor in model.graph.initializer}
        self.nodes: dict[str, NodeProto] = {}
        self.producer: dict[str, NodeProto] = {}
        self.consumers: dict[str, list[NodeProto]] = defaultdict(list)
        names = {node.name for node in model.graph.node}
        for index, node in enumerate(model.graph.node):
            if not node.name or node.name in self.nodes:
                node.name = next(n for n in (f"{node.op_type}_{index}", f"{node.op_type}_{index}_") if n not in names)
            self.nodes[node.name] = node
            self.producer.update(dict.fromkeys(node.output, node))
            for tensor in node.input:
                self.consumers[tensor].append(node)

    def layer_name(self, node: NodeProto) -> str:
        """What people call a layer: the name of its weights, as in the network."""
        return (
            node.input[1].removesuffix("weight").rstrip("._") if len(self.consumers[node.input[1]]) == 1 else node.name
        )

    def activations(self, node: NodeProto) -> list[str]:
        """Inputs of a node that are no constants."""
        return [tensor for tensor in node.input if tensor and tensor not in self.initializers]

    def shape(self, tensor: str) -> list[int | None]:
        """Sides of a tensor, None where they are free or unknown; empty if nothing is known."""
        values = (*self.model.graph.input, *self.model.graph.value_info, *self.model.graph.output)
        found = next((value for value in values if value.name == tensor), None)
        if found is None:
            return []
        return [side.dim_value if side.HasField("dim_value") else None for side in found.type.tensor_type.shape.dim]

    def is_quantized(self) -> bool:
        """Whether the model holds int8 operators already."""
        return any("QuantizeLinear" in node.op_type or "QLinear" in node.op_type for node in self.nodes.values())


def plan(graph: Graph, *, keep_float: Iterable[str] = (), unusable: Iterable[str] = ()) -> Plan:
    """Choose the nodes that are quantised.

    What leads to a softmax stays in float, and so do products of two activations: in these networks they
    are small, conversions cost more than int8 saves, and masks of minus infinity have no range.

    Args:
        graph: As prepared.
        keep_float: Names of layers, see `Graph.layer_name`, that stay in float.
        unusable: Tensors without a finite range; nodes that touch them stay in float.
    """
    left, bad = set(keep_float), set(unusable)

    def usable(node: NodeProto) -> bool:
        return not bad.intersection((*node.input, *node.output)) and not _leads_to_softmax(graph, node)

    nodes = [node for node in graph.nodes.values() if usable(node)]
    layers = [n for n in nodes if _is_layer(graph, n) and graph.layer_name(n) not in left]
    touched = _touched(graph, [n for n in nodes if _is_layer(graph, n) and graph.layer_name(n) in left])
    joins = [
        n
        for n in nodes
        if n.op_type in JOINS
        and len(graph.activations(n)) == len(n.input)
        and touched.isdisjoint((*n.input, *n.output))
    ]
    int8 = {tensor for node in (*layers, *joins) for tensor in (*graph.activations(node), *node.output)}
    candidates = [n for n in nodes if n.op_type in CARRIERS and graph.activations(n)]
    carriers: list[str] = []
    while found := [n for n in candidates if not int8.isdisjoint((graph.activations(n)[0], *n.output))]:
        carriers += [n.name for n in found]
        int8.update(tensor for n in found for tensor in (graph.activations(n)[0], *n.output))
        candidates = [n for n in candidates if n not in found]
    return Plan(tuple(n.name for n in layers), tuple(n.name for n in joins), tuple(carriers))


def plan_layer(graph: Graph, name: str) -> Plan:
    """Only one layer, with the ReLU behind it, which int8 has for nothing."""
    consumers = graph.consumers[graph.nodes[name].output[0]]
    relu = [consumer.name for consumer in consumers if consumer.op_type == "Relu" and len(consumers) == 1]
    return Plan((name,), (), tuple(relu))


def _is_layer(graph: Graph, node: NodeProto) -> bool:
    """Whether a node is a layer in int8: a product with a stack of matrices is none, its weights have no channels."""
    if node.op_type not in LAYERS or node.input[1] not in graph.initializers or not graph.activations(node):
        return False
    return node.op_type != "MatMul" or len(graph.initializers[node.input[1]].dims) == 2


def _leads_to_softmax(graph: Graph, node: NodeProto) -> bool:
    """Whether a softmax takes what comes out, perhaps scaled, shifted or moved on the way."""
    if node.op_type not in (*JOINS, *CARRIERS):
        return False
    takers = [taker for tensor in node.output for taker in graph.consumers[tensor]]
    return any(taker.op_type == "Softmax" or _leads_to_softmax(graph, taker) for taker in takers)


def _touched(graph: Graph, layers: Iterable[NodeProto]) -> set[str]:
    """What these layers take and give, and the same values before and after the carriers beside them."""
    tensors = {tensor for node in layers for tensor in (*graph.activations(node), *node.output)}
    carriers = [node for node in graph.nodes.values() if node.op_type in CARRIERS and graph.activations(node)]
    for node in (*carriers, *reversed(carriers)):
        around = {graph.activations(node)[0], *node.output}
        if not tensors.isdisjoint(around):
            tensors |= around
    return tensors
