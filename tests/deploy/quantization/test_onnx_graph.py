"""The rewritings before int8 are exact, and happen only where they may."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from effvit.deploy.quantization.onnx_graph import Graph, plan
from effvit.deploy.quantization.onnx_rewrites import prepare


def write(path: Path, nodes: list[onnx.NodeProto], weights: dict[str, np.ndarray], shape: tuple[object, ...]) -> Path:
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


def run(model: onnx.ModelProto | Path, images: np.ndarray) -> np.ndarray:
    source = str(model) if isinstance(model, Path) else model.SerializeToString()
    session = onnxruntime.InferenceSession(source, providers=["CPUExecutionProvider"])
    result: np.ndarray = session.run(None, {"images": images})[0]
    return result


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape, dtype=np.float32)


def stem(path: Path, size: tuple[int, int], *, bias: bool = True, relu: bool = True, **attributes: object) -> Path:
    settings = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1], **attributes}
    weights = {"stem.weight": random(8, 3, 3, 3)} | ({"stem.bias": random(8)} if bias else {})
    nodes = [helper.make_node("Conv", ["images", *weights], ["a"], "conv", **settings)]
    nodes.append(helper.make_node("Relu" if relu else "Neg", ["a"], ["logits"], "act"))
    return write(path, nodes, weights, ("batch", 3, *size))


@pytest.mark.parametrize(("bias", "relu"), [(True, True), (False, True), (True, False)])
@pytest.mark.parametrize("size", [(32, 32), (33, 36), (34, 4), (31, 40)])
def test_the_wide_first_convolution_is_the_same(tmp_path: Path, size: tuple[int, int], bias: bool, relu: bool) -> None:
    source = stem(tmp_path / "stem.onnx", size, bias=bias, relu=relu)
    graph = prepare(source)
    weight = graph.initializers["stem.weight"]
    assert list(weight.dims) == [16, 12, 3, 2]
    images = random(3, 3, *size)
    np.testing.assert_allclose(run(graph.model, images), run(source, images), rtol=1e-5, atol=1e-5)
    conv = next(node for node in graph.nodes.values() if node.op_type == "Conv")
    assert graph.layer_name(conv) == "stem"
    if relu:  # beside the convolution, so that int8 has it for nothing
        assert graph.consumers[conv.output[0]][0].op_type == "Relu"


@pytest.mark.parametrize(
    ("size", "attributes"),
    [
        ((32, 34), {}),
        ((32, 32), {"strides": [1, 1]}),
        ((32, 32), {"pads": [0, 0, 0, 0]}),
        ((32, 32), {"dilations": [2, 2]}),
        (("height", "width"), {}),
    ],
)
def test_other_convolutions_stay(tmp_path: Path, size: tuple[int, int], attributes: dict[str, list[int]]) -> None:
    graph = prepare(stem(tmp_path / "stem.onnx", size, **attributes))
    assert list(graph.initializers["stem.weight"].dims) == [8, 3, 3, 3]


@pytest.mark.parametrize("keepdims", [0, 1])
@pytest.mark.parametrize("axes", [[2, 3], [-1, -2]])
def test_a_global_mean_is_a_pooling(tmp_path: Path, axes: list[int], keepdims: int) -> None:
    nodes = [helper.make_node("ReduceMean", ["images", "axes"], ["logits"], "mean", keepdims=keepdims)]
    source = write(tmp_path / "mean.onnx", nodes, {"axes": np.array(axes)}, ("batch", 3, 4, 6))
    graph = prepare(source)
    assert next(node.op_type for node in graph.nodes.values()) == "GlobalAveragePool"
    images = random(2, 3, 4, 6)
    expected = run(source, images)
    actual = run(graph.model, images)
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


def test_other_means_stay(tmp_path: Path) -> None:
    nodes = [helper.make_node("ReduceMean", ["images", "axes"], ["logits"], "mean")]
    graph = prepare(write(tmp_path / "mean.onnx", nodes, {"axes": np.array([1])}, ("batch", 3, 4, 6)))
    assert list(graph.nodes) == ["mean"]


def attention(path: Path) -> Path:
    """A layer, then softmax(q k + mask) v on what it gives, joined with the picture."""
    nodes = [
        helper.make_node("MatMul", ["images", "first.weight"], ["q"], "first"),
        helper.make_node("Transpose", ["q"], ["k"], "", perm=[0, 1, 3, 2]),
        helper.make_node("MatMul", ["q", "k"], ["scores"], ""),
        helper.make_node("Add", ["scores", "images"], ["masked"], "mask"),
        helper.make_node("Softmax", ["masked"], ["shares"], ""),
        helper.make_node("MatMul", ["shares", "q"], ["attended"], ""),
        helper.make_node("Add", ["attended", "q"], ["joined"], "join"),
        helper.make_node("MatMul", ["joined", "second.weight"], ["logits"], "second"),
    ]
    return write(path, nodes, {"first.weight": random(6, 6), "second.weight": random(6, 6)}, ("batch", 2, 6, 6))


def test_what_leads_to_a_softmax_stays_in_float(tmp_path: Path) -> None:
    chosen = plan(prepare(attention(tmp_path / "attention.onnx")))
    assert chosen.layers == ("first", "second") and chosen.joins == ("join",)


def test_joins_beside_a_float_layer_stay_in_float(tmp_path: Path) -> None:
    graph = prepare(attention(tmp_path / "attention.onnx"))
    chosen = plan(graph, keep_float=["second"])
    assert chosen.layers == ("first",) and chosen.joins == ()
    assert plan(graph, unusable=["joined"]).nodes == [*plan(graph, unusable=["joined"]).layers, *chosen.carriers]
    assert plan(graph, unusable=["joined"]).layers == ("first",)


def test_a_product_with_a_stack_of_matrices_is_no_layer(tmp_path: Path) -> None:
    nodes = [helper.make_node("MatMul", ["images", "stack.weight"], ["logits"], "stack")]
    graph = prepare(write(tmp_path / "stack.onnx", nodes, {"stack.weight": random(2, 6, 6)}, ("batch", 2, 6, 6)))
    assert plan(graph).nodes == []


def test_nodes_get_names_of_their_own(tmp_path: Path) -> None:
    graph = Graph(onnx.load(attention(tmp_path / "attention.onnx")))
    assert len(graph.nodes) == 8 and all(graph.nodes)
