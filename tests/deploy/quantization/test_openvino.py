"""int8 for OpenVINO: that the file computes the network, and that each layer's damage is its own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from helpers import randomise
from torch import Tensor

from effvit.deploy.export import export
from effvit.deploy.quantization.damage import Quantization, logits_error
from effvit.deploy.quantization.openvino import quantize_openvino
from effvit.errors import ConfigError, DataError, WeightsError
from effvit.model.factory import create_model

openvino = pytest.importorskip("openvino")
pytest.importorskip("nncf")

from effvit.deploy.formats.openvino import OpenVinoModel  # noqa: E402

SIZE = (32, 48)
Made = tuple[Path, Quantization, list[tuple[int, int]]]
"""The file, the record and the steps told."""


def pictures(count: int, size: tuple[int, int] = SIZE) -> list[Tensor]:
    return [torch.randn(8, 3, *size, generator=torch.Generator().manual_seed(seed)) for seed in range(count // 8)]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small network of every kind of layer, one of which bears no rounding."""
    from torch import nn

    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 1, 1, groups=8), nn.Conv2d(8, 16, 1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5),
    ).eval()  # fmt: skip
    with torch.no_grad():
        network[3].weight[0] *= 30
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(network, (torch.zeros(2, 3, *SIZE),), dynamic_shapes=({0: batch},))
    converted = openvino.convert_model(program)
    converted.reshape([-1, 3, *SIZE])
    path = tmp_path_factory.mktemp("openvino") / "network.xml"
    openvino.save_model(converted, path, compress_to_fp16=False)
    return path


@pytest.fixture(scope="module")
def quantized(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """With a limit that makes it measure every layer."""
    path = tmp_path_factory.mktemp("int8") / "int8.openvino"
    steps: list[tuple[int, int]] = []
    record = quantize_openvino(
        source,
        path,
        pictures(16),
        methods=("default",),
        max_error=1e-6,
        max_float_macs=1.0,
        on_step=lambda done, total: steps.append((done, total)),
    )
    return path, record, steps


def test_the_file_computes_the_network_for_any_batch(quantized: Made, source: Path) -> None:
    float32, int8 = OpenVinoModel(source), OpenVinoModel(quantized[0])
    images = torch.cat(pictures(8))
    expected, actual = float32(images), int8(images)
    assert 0 < logits_error(expected.numpy(), actual.numpy()) < 0.2
    alone = torch.cat([int8(part) for part in images.split([1, 2, 5])])
    torch.testing.assert_close(alone, actual, rtol=1e-3, atol=1e-3)
    nodes = openvino.Core().read_model(quantized[0] / "model.xml").get_ops()
    assert any(node.get_type_name() == "FakeQuantize" for node in nodes)


def test_every_layer_has_its_own_damage(quantized: Made) -> None:
    _, record, steps = quantized
    layers = (*record.layers, *record.float_layers)
    assert len(layers) == 4 and all(layer.damage is not None and layer.damage > 0 for layer in layers)
    assert len({layer.damage for layer in layers}) == 4
    assert sum(layer.mac_share for layer in layers) == pytest.approx(1)
    shares = {layer.operator: layer.mac_share for layer in layers}
    pixels = 16 * 24
    total = pixels * (8 * 27 + 8 * 9 + 16 * 8) + 5 * 16
    assert shares["MatMul"] == pytest.approx(5 * 16 / total)
    assert shares["GroupConvolution"] == pytest.approx(pixels * 8 * 9 / total)
    assert [done for done, _ in steps] == list(range(1, len(steps) + 1)) and len(steps) >= 5
    assert json.loads(json.dumps(record.to_dict()))["runtime"] == "openvino"


def test_a_layer_given_stays_in_float(source: Path, tmp_path: Path) -> None:
    everything = quantize_openvino(source, tmp_path / "a.xml", pictures(16), methods=("default",), keep_float=())
    name = next(layer.name for layer in everything.layers if layer.operator == "MatMul")
    record = quantize_openvino(source, tmp_path / "b.xml", pictures(16), methods=("default",), keep_float=(name,))
    assert [layer.name for layer in record.float_layers] == [name]
    assert record.error != everything.error and record.max_error is None


def test_what_cannot_be_quantised_is_one_line(source: Path, quantized: Made, tmp_path: Path) -> None:
    target = tmp_path / "a.xml"
    with pytest.raises(WeightsError, match="is quantised already"):
        quantize_openvino(quantized[0], target, pictures(8))
    with pytest.raises(WeightsError, match=r"no such file: .*missing\.xml"):
        quantize_openvino(tmp_path / "missing.xml", target, pictures(8))
    (tmp_path / "text.xml").write_text("no model")
    with pytest.raises(WeightsError, match=r"text\.xml is not a model that OpenVINO can read"):
        quantize_openvino(tmp_path / "text.xml", target, pictures(8))
    with pytest.raises(DataError, match="at least 8 pictures, got 0"):
        quantize_openvino(source, target, [])
    with pytest.raises(ConfigError, match=r"takes pictures of shape \(any, 3, 32, 48\)"):
        quantize_openvino(source, target, pictures(8, (48, 32)))
    with pytest.raises(ConfigError, match="unknown calibration method 'mixed'"):
        quantize_openvino(source, target, pictures(8), methods=("mixed",))
    with pytest.raises(ConfigError, match="unknown layer 'haed'"):
        quantize_openvino(source, target, pictures(8), keep_float=("haed",))


def test_nothing_is_printed(source: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    capfd.readouterr()
    quantize_openvino(source, tmp_path / "a.xml", pictures(8), methods=("default",), keep_float=())
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
@pytest.mark.parametrize("size", [(64, 64), (160, 272)], ids=str)
def test_every_layer_of_our_network_can_be_measured(size: tuple[int, int], tmp_path: Path) -> None:
    """nncf lifts roundings to where channels are another axis, and padded windows reshape what it scales."""
    network = randomise(create_model("efficientvit_tiny", num_classes=5)).eval()
    source = export(network, tmp_path / "float.openvino", image_size=size, file_format="openvino").path
    record = quantize_openvino(
        source, tmp_path / "int8.openvino", pictures(8, size), methods=("default",), max_error=1e-6, max_float_macs=0.0
    )
    assert len(record.layers) > 50
    assert all(layer.damage is not None and 0 <= layer.damage < 1 for layer in record.layers)
