"""Rewritings of an ONNX graph, all exact, that int8 profits from and ONNX Runtime does not do by itself."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx import NodeProto, helper, numpy_helper, shape_inference

from effvit.deploy.quantization.onnx_graph import Graph

_GROUP = 4
"""Pixels of a row that `widen_first_convolution` takes together."""


def prepare(source: Path) -> Graph:
    """Fold, infer shapes, and rewrite exactly what int8 runs better in another form.

    Args:
        source: File of a float model.

    Returns:
        The graph to be quantised, the same function.
    """
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "prepared.onnx"
        # The symbolic inference wants sympy, and finds nothing more in graphs whose sizes are fixed but for the batch.
        quant_pre_process(source, path, skip_symbolic_shape=True)
        graph = Graph(onnx.load(path))
    widen_first_convolution(graph)
    pool_globally(graph)
    part_sums(graph)
    return Graph(shape_inference.infer_shapes(graph.model))


def widen_first_convolution(graph: Graph) -> None:
    """Let a 3x3 convolution of stride 2 on a picture take four pixels of a row as channels of one, exactly.

    Three channels of one byte are copied one by one into the matrix that int8 multiplies, which takes
    longer than the multiplication. Four pixels side by side are already beside each other in NHWC, so they
    are one pixel of 12 channels for nothing; the kernel becomes 3x2 with zeros in it, of stride (2, 1), and
    gives two output pixels at a time. Half the time of that convolution, on a machine with VNNI.
    """
    found = next((node for node in graph.nodes.values() if _is_first_convolution(graph, node)), None)
    if found is None:
        return
    weight = numpy_helper.to_array(graph.initializers[found.input[1]])
    out_channels, channels = weight.shape[:2]
    wide = np.zeros((2, out_channels, _GROUP, channels, 3, 2), weight.dtype)
    for right in range(2):  # which of the two output pixels
        for column in range(3):
            group, pixel = divmod(2 * right + column - 1 + _GROUP, _GROUP)
            wide[right, :, pixel, :, :, group] = weight[:, :, :, column]
    # (2, O, 4, C, 3, 2) -> (2 * O, 4 * C, 3, 2)
    values = {found.input[1]: wide.reshape(2 * out_channels, _GROUP * channels, 3, 2)}
    if len(found.input) == 3:
        values[found.input[2]] = np.tile(numpy_helper.to_array(graph.initializers[found.input[2]]), 2)
    for name, value in values.items():
        graph.initializers[name].CopyFrom(numpy_helper.from_array(value, name))
    height, width = (side for side in graph.shape(found.input[0])[2:])
    assert height is not None and width is not None
    base = graph.layer_name(found)
    shapes = {
        f"{base}.grouped.shape": [0, height, width // _GROUP, _GROUP * channels],
        f"{base}.apart.shape": [0, -(-height // 2), width // 2, out_channels],
    }
    grouped, apart = shapes
    graph.model.graph.initializer.extend(numpy_helper.from_array(np.array(shapes[name]), name) for name in shapes)
    relu = next((n for n in graph.consumers[found.output[0]] if n.op_type == "Relu"), None)
    last = relu if relu is not None and len(graph.consumers[found.output[0]]) == 1 else found
    before = _in_nhwc(found.input[0], f"{base}.grouped", grouped)
    after = _in_nhwc(f"{base}.wide", last.output[0], apart)
    found.input[0] = f"{base}.grouped"
    last.output[0] = f"{base}.wide"
    del found.attribute[:]
    found.attribute.extend(
        helper.make_attribute(key, value)
        for key, value in {"kernel_shape": [3, 2], "strides": [2, 1], "pads": [1, 1, 1, 0]}.items()
    )
    known = graph.model.graph.value_info
    for value in [value for value in known if value.name in (*found.input, *found.output)]:
        known.remove(value)  # its shape is another now
    _insert(graph.model, found, before, after=False)
    _insert(graph.model, last, after, after=True)


def pool_globally(graph: Graph) -> None:
    """Write the mean over height and width as the pooling that int8 has; nothing else is a global pooling."""
    for node in graph.nodes.values():
        if node.op_type != "ReduceMean" or len(graph.shape(node.input[0])) != 4 or _axes(graph, node) != [2, 3]:
            continue
        keepdims = all(a.i for a in node.attribute if a.name == "keepdims")
        pooled = node.output[0] if keepdims else f"{node.output[0]}.pooled"
        pool = helper.make_node("GlobalAveragePool", [node.input[0]], [pooled], f"{node.name}.pool")
        flat = [] if keepdims else [helper.make_node("Flatten", [pooled], [node.output[0]], f"{node.name}.flat")]
        _insert(graph.model, node, [pool, *flat], after=True)
        graph.model.graph.node.remove(node)


def part_sums(graph: Graph) -> None:
    """Take the sum out of a product with weights where what is added is no constant: int8 has no such product."""
    for node in graph.nodes.values():
        if node.op_type != "Gemm" or len(node.input) < 3 or node.input[2] in graph.initializers:
            continue
        factors = {attribute.name: attribute.f for attribute in node.attribute}
        if node.input[1] not in graph.initializers or factors.get("beta", 1.0) != 1.0:
            continue
        product = f"{node.output[0]}.product"
        add = helper.make_node("Add", [node.input[2], product], [node.output[0]], f"{node.name}.add")
        del node.input[2]
        node.output[0] = product
        _insert(graph.model, node, [add], after=True)


def keep_logits_in_float(model: onnx.ModelProto) -> None:
    """Take the last rounding away: nothing computes with the logits, and ONNX Runtime's int8 layers can give floats."""
    graph = Graph(model)
    for output in model.graph.output:
        dequantize = graph.producer.get(output.name)
        if dequantize is None or dequantize.op_type != "DequantizeLinear":
            continue
        quantize = graph.producer[dequantize.input[0]]
        source = graph.producer.get(quantize.input[0])
        if quantize.op_type == "QuantizeLinear" and source is not None and len(graph.consumers[source.output[0]]) == 1:
            source.output[0] = output.name
            model.graph.node.remove(quantize)
            model.graph.node.remove(dequantize)


def _is_first_convolution(graph: Graph, node: NodeProto) -> bool:
    if node.op_type != "Conv" or node.input[1] not in graph.initializers:
        return False
    weight = list(graph.initializers[node.input[1]].dims)
    attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    shape = graph.shape(node.input[0])
    return (
        len(weight) == 4
        and all(len(graph.consumers[name]) == 1 for name in node.input[1:])
        and set(node.input[1:]) <= set(graph.initializers)
        and weight[1] <= 4
        and weight[2:] == [3, 3]
        and attributes.get("strides") == [2, 2]
        and attributes.get("pads") == [1, 1, 1, 1]
        and attributes.get("group", 1) == 1
        and attributes.get("dilations", [1, 1]) == [1, 1]
        and len(shape) == 4
        and None not in shape[1:]
        and (shape[3] or 0) % _GROUP == 0
    )


def _in_nhwc(source: str, target: str, shape: str) -> list[NodeProto]:
    """Reshape a feature map as it lies in NHWC: two transposes that ONNX Runtime takes away again in int8."""
    there, back = f"{target}.nhwc", f"{target}.reshaped"
    return [
        helper.make_node("Transpose", [source], [there], f"{target}.transpose", perm=[0, 2, 3, 1]),
        helper.make_node("Reshape", [there, shape], [back], f"{target}.reshape"),
        helper.make_node("Transpose", [back], [target], f"{target}.transpose_back", perm=[0, 3, 1, 2]),
    ]


def _axes(graph: Graph, node: NodeProto) -> list[int]:
    """Axes of a reduction, counted from the front, in order."""
    values = [list(a.ints) for a in node.attribute if a.name == "axes"]
    if len(node.input) > 1 and node.input[1] in graph.initializers:
        values = [numpy_helper.to_array(graph.initializers[node.input[1]]).tolist()]
    rank = len(graph.shape(node.input[0]))
    return sorted(axis % rank for axis in values[0]) if values else []


def _insert(model: onnx.ModelProto, beside: NodeProto, nodes: list[NodeProto], *, after: bool) -> None:
    """Put nodes before or after one: a graph is written in the order it runs."""
    position = list(model.graph.node).index(beside) + after
    for offset, node in enumerate(nodes):
        model.graph.node.insert(position + offset, node)
