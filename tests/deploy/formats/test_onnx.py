"""ONNX files of effvit and of other tools, in ONNX Runtime; what is no such file is refused in one line."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch
from onnx import TensorProto, helper

from effvit.deploy.export import Exported
from effvit.deploy.formats.onnx import OnnxModel
from effvit.errors import ConfigError, WeightsError


def write(
    path: Path,
    *inputs: tuple[str, list[int | str]],
    outputs: int = 1,
    kind: int = TensorProto.FLOAT,
    **properties: str,
) -> Path:
    """A small model of another tool: the sum of its inputs."""
    values = [helper.make_tensor_value_info(name, kind, shape) for name, shape in inputs]
    answers = [helper.make_tensor_value_info(f"y{i}", kind, None) for i in range(outputs)]
    nodes = [helper.make_node("Sum", [name for name, _ in inputs], [answer.name]) for answer in answers]
    graph = helper.make_graph(nodes, "other", values, answers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    helper.set_model_props(model, properties)
    onnx.save(model, path)
    return path


def test_names_and_the_free_dimension_are_for_people(exported: tuple[Exported, str]) -> None:
    graph = onnx.load(exported[0].path).graph
    (taken,), (given,) = graph.input, graph.output
    assert (taken.name, given.name) == ("images", "logits")
    assert taken.type.tensor_type.shape.dim[0].dim_param == given.type.tensor_type.shape.dim[0].dim_param == "batch"


def test_half_precision_is_in_the_weights_and_not_at_the_ends(export_once) -> None:
    result, _ = export_once("onnx", precision="fp16", batch_size=3, preprocessing=True)
    model = onnx.load(result.path)
    kinds = {value.data_type for value in model.graph.initializer if len(value.dims) == 4 and value.dims[0] > 1}
    assert kinds & {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE} == {TensorProto.FLOAT16}
    assert model.graph.input[0].type.tensor_type.elem_type == TensorProto.UINT8
    assert model.graph.output[0].type.tensor_type.elem_type == TensorProto.FLOAT


def test_threads_do_not_change_the_answer(exported: tuple[Exported, str]) -> None:
    path = exported[0].path
    images = torch.randn(2, 3, 160, 272)
    one, two = (OnnxModel(path, num_threads=threads)(images) for threads in (1, 2))
    torch.testing.assert_close(one, two)
    with pytest.raises(ConfigError, match="threads must be at least 1, got 0"):
        OnnxModel(path, num_threads=0)


def test_a_file_of_another_tool_will_do(tmp_path: Path) -> None:
    model = OnnxModel(write(tmp_path / "other.onnx", ("x", ["n", 3, "h", "w"]), author="someone"))
    assert model.input_shape == (None, 3, None, None)
    assert model.metadata.class_names is None and model.metadata.preprocessing is None
    assert model(torch.ones(2, 3, 4, 5)).shape == (2, 3, 4, 5)


def test_what_is_no_classifier_is_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(WeightsError, match=r"no such file: .*missing\.onnx"):
        OnnxModel(tmp_path / "missing.onnx")
    (tmp_path / "text.onnx").write_text("no model")
    with pytest.raises(WeightsError, match=r"text\.onnx is not an ONNX model that can be run"):
        OnnxModel(tmp_path / "text.onnx")
    two = write(tmp_path / "two.onnx", ("a", ["n", 3, 4, 4]), ("b", ["n", 3, 4, 4]))
    with pytest.raises(WeightsError, match=r"must take one float input .*, got a: .*, b: "):
        OnnxModel(two)
    flat = write(tmp_path / "flat.onnx", ("x", ["n", 3]))
    with pytest.raises(WeightsError, match="must take one float input"):
        OnnxModel(flat)
    double = write(tmp_path / "double.onnx", ("x", ["n", 3, 4, 4]), kind=TensorProto.DOUBLE)
    with pytest.raises(WeightsError, match=r"must take one float input .* tensor\(double\)"):
        OnnxModel(double)
    many = write(tmp_path / "many.onnx", ("x", ["n", 3, 4, 4]), outputs=2)
    with pytest.raises(WeightsError, match="must have one output, got 2"):
        OnnxModel(many)
    damaged = write(tmp_path / "damaged.onnx", ("x", ["n", 3, 4, 4]), **{"effvit.class_names": "["})
    with pytest.raises(WeightsError, match=r"damaged metadata, effvit\.class_names"):
        OnnxModel(damaged)
    assert capfd.readouterr() == ("", "")
