"""An exported file is called like the network, and what is no such file is refused in one line."""

from __future__ import annotations

import sys
from pathlib import Path

import onnx
import pytest
import torch
from onnx import TensorProto, helper

from effvit.deploy.export import Exported
from effvit.deploy.runtimes import OnnxModel, OpenVinoModel
from effvit.errors import ConfigError, WeightsError


def write(path: Path, *inputs: tuple[str, list[int | str]], outputs: int = 1, **properties: str) -> Path:
    """A small model of another tool: the sum of its inputs."""
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs]
    answers = [helper.make_tensor_value_info(f"y{i}", TensorProto.FLOAT, None) for i in range(outputs)]
    nodes = [helper.make_node("Sum", [name for name, _ in inputs], [answer.name]) for answer in answers]
    graph = helper.make_graph(nodes, "other", values, answers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    helper.set_model_props(model, properties)
    onnx.save(model, path)
    return path


def test_threads_do_not_change_the_answer(exported: tuple[Exported, str]) -> None:
    path = exported[0].path
    images = torch.randn(2, 3, *exported[0].metadata.preprocessing.image_size)
    one, two = (OnnxModel(path, num_threads=threads)(images) for threads in (1, 2))
    assert one.dtype == torch.float32 and one.shape == (2, 5)
    torch.testing.assert_close(one, two)
    with pytest.raises(ConfigError, match="threads must be at least 1, got 0"):
        OnnxModel(path, num_threads=0)


def test_any_layout_and_number_format_of_pictures_will_do(exported: tuple[Exported, str]) -> None:
    model = OnnxModel(exported[0].path)
    images = torch.randn(2, 3, *exported[0].metadata.preprocessing.image_size)
    expected = model(images)
    assert torch.equal(model(images.to(memory_format=torch.channels_last)), expected)
    assert torch.equal(model(images.double().requires_grad_()), expected)


@pytest.mark.parametrize("shape", [(2, 3, 160, 271), (1, 1, 160, 272), (3, 160, 272), (1, 1, 3, 160, 272)])
def test_a_wrong_shape_is_one_line(exported: tuple[Exported, str], shape: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match=r"^tiny.onnx takes pictures of shape \(any, 3, 160, 272\), got \(.*\)$"):
        OnnxModel(exported[0].path)(torch.zeros(shape))


def test_a_file_of_another_tool_will_do(tmp_path: Path) -> None:
    model = OnnxModel(write(tmp_path / "other.onnx", ("x", ["n", 3, "h", "w"]), author="someone"))
    assert model.input_shape == (None, 3, None, None)
    assert model.metadata.class_names is None and model.metadata.preprocessing is None
    images = torch.randn(2, 3, 5, 7)
    assert torch.equal(model(images), images)


def test_what_is_no_such_file_is_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(WeightsError, match=r"no such file: .*missing.onnx"):
        OnnxModel(tmp_path / "missing.onnx")
    (tmp_path / "text.onnx").write_text("this is no model")
    with pytest.raises(WeightsError, match=r"text\.onnx is not an ONNX model that can be run: .+"):
        OnnxModel(tmp_path / "text.onnx")
    two = write(tmp_path / "two.onnx", ("x", ["n", 3, 4, 4]), ("mask", ["n", 3, 4, 4]))
    with pytest.raises(WeightsError, match=r"one float input .* got x: .*, mask: "):
        OnnxModel(two)
    flat = write(tmp_path / "flat.onnx", ("x", ["n", 3]))
    with pytest.raises(WeightsError, match=r"one float input .* got x: tensor\(float\) \['n', 3\]"):
        OnnxModel(flat)
    many = write(tmp_path / "many.onnx", ("x", ["n", 3, 4, 4]), outputs=2)
    with pytest.raises(WeightsError, match="must have one output, got 2"):
        OnnxModel(many)
    damaged = write(tmp_path / "damaged.onnx", ("x", ["n", 3, 4, 4]), **{"effvit.class_names": "["})
    with pytest.raises(WeightsError, match=r"damaged metadata, effvit\.class_names"):
        OnnxModel(damaged)
    assert capfd.readouterr() == ("", "")


def test_openvino_gives_the_same_answer_in_float32(exported: tuple[Exported, str]) -> None:
    pytest.importorskip("openvino")
    path = exported[0].path
    reference, model = OnnxModel(path), OpenVinoModel(path, num_threads=1)
    for batch_size in (1, 3):
        images = torch.randn(batch_size, 3, *exported[0].metadata.preprocessing.image_size)
        expected = reference(images)
        answer = model(images)
        model(torch.zeros_like(images))  # must not change an answer that was given
        # bfloat16 would be off by 1e-2
        assert (answer - expected).abs().max() < 1e-4 * expected.abs().max()


def test_openvino_refuses_what_is_no_model(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    (tmp_path / "text.onnx").write_text("no model")
    with pytest.raises(WeightsError, match="text.onnx is not an ONNX model that OpenVINO can run"):
        OpenVinoModel(tmp_path / "text.onnx")


def test_a_runtime_that_is_not_installed_names_its_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(ConfigError, match=r"openvino is not installed; pip install 'effvit\[openvino\]'"):
        OpenVinoModel(tmp_path / "any.onnx")
