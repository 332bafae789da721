"""OpenVINO: its own folders and ONNX files, in float32 unless something else is asked for and there."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
import torch

from effvit.deploy.export import Exported
from effvit.deploy.formats.onnx import OnnxModel
from effvit.deploy.formats.openvino import _MAX_COMPILED, OpenVinoModel
from effvit.errors import ConfigError, WeightsError

openvino = pytest.importorskip("openvino")


@pytest.fixture
def folder(export_once) -> Path:
    return export_once("openvino")[0].path


def test_an_onnx_file_gives_the_same_answer(exported: tuple[Exported, str]) -> None:
    path = exported[0].path
    reference, model = OnnxModel(path), OpenVinoModel(path, num_threads=1)
    assert model.metadata == reference.metadata and model.input_shape == reference.input_shape
    for batch_size in (1, 3):
        images = torch.randn(batch_size, 3, 160, 272)
        expected = reference(images)
        # bfloat16 would be off by 1e-2
        assert (model(images) - expected).abs().max() < 1e-4 * expected.abs().max()


def test_the_graph_in_the_folder_stands_for_it(folder: Path) -> None:
    images = torch.randn(1, 3, 160, 272)
    inner, outer = OpenVinoModel(folder / "model.xml", num_threads=1), OpenVinoModel(folder, num_threads=1)
    assert inner.metadata == outer.metadata and inner.metadata.class_names is not None
    assert torch.equal(inner(images), outer(images))


def test_the_folder_can_be_used_without_effvit(folder: Path) -> None:
    """Names for people, sizes as exported, and nothing else in it."""
    assert {file.name for file in folder.iterdir()} == {"model.xml", "model.bin", "metadata.json"}
    model = openvino.Core().read_model(folder / "model.xml")
    assert model.input("images").partial_shape.to_string() == "[?,3,160,272]"
    assert model.output("logits").partial_shape.to_string() == "[?,5]"


def test_old_batch_sizes_are_let_go(folder: Path) -> None:
    """Each compiled one holds its own memory."""
    model = OpenVinoModel(folder, num_threads=1)
    first = model(torch.ones(1, 3, 160, 272))
    for batch_size in range(2, _MAX_COMPILED + 3):
        model(torch.ones(batch_size, 3, 160, 272))
    assert len(model._requests) == _MAX_COMPILED
    assert torch.equal(model(torch.ones(1, 3, 160, 272)), first)


def test_half_precision_halves_the_weights(folder: Path, export_once) -> None:
    half = export_once("openvino", precision="fp16", batch_size=3, preprocessing=True)[0].path
    kinds = {
        node.get_element_type().get_type_name()
        for node in openvino.Core().read_model(half / "model.xml").get_ops()
        if node.get_type_name() == "Constant" and len(node.get_output_shape(0)) == 4
    }
    assert "f16" in kinds and "f32" not in kinds


def test_bfloat16_only_where_the_processor_has_it(folder: Path) -> None:
    images = torch.randn(1, 3, 160, 272)
    able = "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if able:
        exact, rough = OpenVinoModel(folder)(images), OpenVinoModel(folder, precision="bf16")(images)
        assert 1e-5 < (exact - rough).abs().max() / exact.abs().max() < 0.2
    else:
        with pytest.raises(ConfigError, match="precision 'bf16' cannot be used here; usable: f32$"):
            OpenVinoModel(folder, precision="bf16")
    with pytest.raises(ConfigError, match="precision 'f8' cannot be used here; usable: f32"):
        OpenVinoModel(folder, precision="f8")


def test_what_is_no_model_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "text.onnx").write_text("no model")
    with pytest.raises(WeightsError, match="text.onnx is not a model that OpenVINO can run"):
        OpenVinoModel(tmp_path / "text.onnx")
    (tmp_path / "empty.openvino").mkdir()
    with pytest.raises(WeightsError, match=r"empty\.openvino is not a model that OpenVINO can run"):
        OpenVinoModel(tmp_path / "empty.openvino")
    shutil.copytree(folder, tmp_path / "a.openvino")
    for text, message in (("{", "is not valid JSON"), ("[]", "is not what effvit writes")):
        (tmp_path / "a.openvino" / "metadata.json").write_text(text)
        with pytest.raises(WeightsError, match=rf"metadata\.json {message}"):
            OpenVinoModel(tmp_path / "a.openvino")
    (tmp_path / "a.openvino" / "metadata.json").unlink()
    assert OpenVinoModel(tmp_path / "a.openvino").metadata.class_names is None
    (tmp_path / "a.openvino" / "model.bin").write_bytes(b"")
    with pytest.raises(WeightsError, match=r"a\.openvino is not a model that OpenVINO can run"):
        OpenVinoModel(tmp_path / "a.openvino")


def test_a_runtime_that_is_not_installed_names_its_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(ConfigError, match=r"openvino is not installed; pip install 'effvit\[openvino\]'"):
        OpenVinoModel(tmp_path / "any.onnx")
