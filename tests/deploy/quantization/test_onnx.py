"""int8 for ONNX Runtime: what is quantised and how, what stays in float, and that the file computes the network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, numpy_helper
from torch import Tensor

from effvit.deploy.export import Exported
from effvit.deploy.quantization.damage import Quantization
from effvit.deploy.quantization.onnx import quantize_onnx
from effvit.deploy.runtimes import OnnxModel
from effvit.errors import ConfigError, DataError, ExportError, RunError, WeightsError

SIZE = (160, 272)


def pictures(count: int, size: tuple[int, int] = SIZE) -> list[Tensor]:
    return [torch.randn(4, 3, *size, generator=torch.Generator().manual_seed(seed)) for seed in range(count // 4)]


@pytest.fixture(scope="module")
def quantized(exported: tuple[Exported, str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Quantization]:
    """Every layer in int8."""
    path = tmp_path_factory.mktemp("int8") / "tiny.onnx"
    return path, quantize_onnx(exported[0].path, path, pictures(16), keep_float=())


@pytest.fixture(scope="module")
def chosen(exported: tuple[Exported, str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Quantization, list]:
    """Layers chosen to halve the error."""
    path = tmp_path_factory.mktemp("int8") / "chosen.onnx"
    steps: list[tuple[int, int]] = []
    record = quantize_onnx(
        exported[0].path,
        path,
        pictures(8),
        methods=("min-max",),
        max_error=0.006,
        max_float_macs=0.5,
        on_step=lambda done, total: steps.append((done, total)),
    )
    return path, record, steps


def graph_of(path: Path) -> tuple[onnx.GraphProto, dict[str, onnx.TensorProto], dict[str, onnx.NodeProto]]:
    graph = onnx.load(path).graph
    return (
        graph,
        {tensor.name: tensor for tensor in graph.initializer},
        {out: n for n in graph.node for out in n.output},
    )


def test_the_file_computes_the_network_for_any_batch(
    quantized: tuple[Path, Quantization], exported: tuple[Exported, str]
) -> None:
    float32, int8 = OnnxModel(exported[0].path), OnnxModel(quantized[0])
    images = torch.cat(pictures(8))
    expected, actual = float32(images), int8(images)
    assert 0 < (actual - expected).abs().max() < 0.1 * expected.abs().max()  # it is not the float file
    alone = torch.cat([int8(part) for part in images.split([1, 2, 5])])
    torch.testing.assert_close(alone, actual)


def test_weights_take_a_byte(quantized: tuple[Path, Quantization], exported: tuple[Exported, str]) -> None:
    graph, constants, _ = graph_of(exported[0].path)
    layers = {n.input[1] for n in graph.node if n.op_type in ("Conv", "Gemm", "MatMul")} & constants.keys()
    in_int8 = sum(np.prod(t.dims) for t in graph_of(quantized[0])[1].values() if t.data_type == TensorProto.INT8)
    assert in_int8 >= sum(np.prod(constants[name].dims) for name in layers)


def test_weights_are_signed_per_channel_and_activations_unsigned(quantized: tuple[Path, Quantization]) -> None:
    graph, constants, _ = graph_of(quantized[0])
    for node in graph.node:
        zero = constants[node.input[2]] if node.op_type in ("QuantizeLinear", "DequantizeLinear") else None
        if node.op_type == "QuantizeLinear":
            assert zero is not None and zero.data_type == TensorProto.UINT8
        elif zero is not None and node.input[0] in constants and zero.data_type == TensorProto.INT8:
            scales = numpy_helper.to_array(constants[node.input[1]])
            assert scales.ndim == 1 and not numpy_helper.to_array(zero).any()


def test_every_layer_is_in_int8_and_attention_is_not(quantized: tuple[Path, Quantization]) -> None:
    path, record = quantized
    graph, constants, producer = graph_of(path)
    layers = [node for node in graph.node if node.op_type in ("Conv", "Gemm", "MatMul")]
    layers = [node for node in layers if node.op_type != "MatMul" or "weight" in node.input[1]]
    assert len(layers) == len(record.layers) and not record.float_layers
    for node in layers:
        assert all(producer[name].op_type == "DequantizeLinear" for name in node.input[:2])
        assert producer[node.input[1]].input[0] in constants
    attended = [producer[node.input[0]] for node in graph.node if node.op_type == "Softmax"]
    assert attended and all(node.op_type != "DequantizeLinear" for node in attended)


def test_the_logits_are_not_rounded(quantized: tuple[Path, Quantization]) -> None:
    graph, _, producer = graph_of(quantized[0])
    assert producer[graph.output[0].name].op_type == "Gemm"


def test_the_method_that_errs_least_is_taken(quantized: tuple[Path, Quantization]) -> None:
    record = quantized[1]
    assert len(record.method_errors) == 4
    assert record.error == record.error_before == record.method_errors[record.method]
    assert record.error == min(record.method_errors.values())
    assert record.max_error is None and record.within_limit
    assert record.num_pictures == 16 and sum(one.mac_share for one in record.layers) == pytest.approx(1)


def test_layers_have_the_names_of_the_network(quantized: tuple[Path, Quantization]) -> None:
    names = {layer.name for layer in quantized[1].layers}
    assert "head" in names and any(name.startswith("stem") for name in names)
    assert all(layer.damage is None for layer in quantized[1].layers)


def test_layers_left_in_float_bring_the_error_within_the_limit(
    chosen: tuple[Path, Quantization, list[tuple[int, int]]],
) -> None:
    path, record, _ = chosen
    assert record.float_layers and record.error < record.error_before
    assert record.within_limit == (record.error <= 0.006)
    measured = [layer.damage for layer in (*record.layers, *record.float_layers)]
    assert all(damage is not None and damage > 0 for damage in measured)
    assert measured[: len(record.layers)] == sorted(measured[: len(record.layers)], key=lambda d: -(d or 0))
    assert sum(layer.mac_share for layer in record.float_layers) <= 0.5
    _, constants, _ = graph_of(path)
    for layer in record.float_layers:
        weight = next(name for name in constants if name.removesuffix("weight").rstrip("._") == layer.name)
        assert constants[weight].data_type == TensorProto.FLOAT


def test_steps_are_told(chosen: tuple[Path, Quantization, list[tuple[int, int]]]) -> None:
    _, record, steps = chosen
    assert [done for done, _ in steps] == list(range(1, len(steps) + 1))
    assert all(done <= total for done, total in steps)
    assert len(steps) > len(record.layers)


def test_layers_can_be_given(exported: tuple[Exported, str], tmp_path: Path) -> None:
    record = quantize_onnx(
        exported[0].path, tmp_path / "a.onnx", pictures(8), methods=("min-max",), keep_float=("head",)
    )
    assert [layer.name for layer in record.float_layers] == ["head"]
    with pytest.raises(ConfigError, match="unknown layer 'haed' \\(did you mean 'head'\\?\\)"):
        quantize_onnx(exported[0].path, tmp_path / "b.onnx", pictures(8), keep_float=("haed",))
    assert [path.name for path in tmp_path.iterdir()] == ["a.onnx"]


def test_nothing_is_printed(
    exported: tuple[Exported, str], tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    quantize_onnx(exported[0].path, tmp_path / "a.onnx", pictures(8), methods=("percentile-99.99",), keep_float=())
    assert capfd.readouterr() == ("", "") and not caplog.records


def test_what_cannot_be_quantised_is_one_line(
    quantized: tuple[Path, Quantization], exported: tuple[Exported, str], tmp_path: Path
) -> None:
    source, target = exported[0].path, tmp_path / "a.onnx"
    with pytest.raises(WeightsError, match=r"tiny\.onnx is quantised already"):
        quantize_onnx(quantized[0], target, pictures(8))
    with pytest.raises(WeightsError, match=r"no such file: .*missing\.onnx"):
        quantize_onnx(tmp_path / "missing.onnx", target, pictures(8))
    (tmp_path / "text.onnx").write_text("no model")
    with pytest.raises(WeightsError, match=r"text\.onnx is not an ONNX model"):
        quantize_onnx(tmp_path / "text.onnx", target, pictures(8))
    with pytest.raises(DataError, match="at least 8 pictures, got 4"):
        quantize_onnx(source, target, pictures(4))
    with pytest.raises(ConfigError, match=r"takes pictures of shape \(any, 3, 160, 272\)"):
        quantize_onnx(source, target, pictures(8, (160, 160)))
    with pytest.raises(ConfigError, match="unknown calibration method 'max'"):
        quantize_onnx(source, target, pictures(8), methods=("max",))
    with pytest.raises(ConfigError, match="unknown calibration method ''"):
        quantize_onnx(source, target, pictures(8), methods=())
    with pytest.raises(RunError, match="cannot write"):
        quantize_onnx(source, tmp_path / "no" / "a.onnx", pictures(8), methods=("min-max",), keep_float=())
    assert not target.exists()


def test_failures_of_the_tools_are_one_line(
    exported: tuple[Exported, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ValueError("a reason\nand a page")

    monkeypatch.setattr("onnxruntime.quantization.QDQQuantizer.quantize_model", fail)
    with pytest.raises(ExportError, match=r"^tiny\.onnx cannot be quantised: a reason$"):
        quantize_onnx(exported[0].path, tmp_path / "a.onnx", pictures(8), methods=("min-max",), keep_float=())
