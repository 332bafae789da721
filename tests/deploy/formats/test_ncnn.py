"""An ncnn folder answers as the network does, windows, masks and pixels included, and says nothing on the way."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from helpers import randomise, relative_error
from torch import Tensor, nn

from effvit.data.transforms import normalize
from effvit.deploy.formats import ncnn
from effvit.deploy.formats.base import Precision, WriteOptions
from effvit.deploy.formats.ncnn import FORMAT, NcnnModel
from effvit.deploy.metadata import FileMetadata
from effvit.deploy.pixels import FromPixels
from effvit.deploy.rewrite import rewrite
from effvit.errors import ConfigError, ExportError, WeightsError
from effvit.model.factory import create_model
from effvit.preprocessing import Preprocessing

if FORMAT.obstacle() is not None:
    pytest.skip("needs effvit[ncnn]", allow_module_level=True)

SIZES = [(64, 64), (160, 272)]
"""One window; windows cut, padded in both directions, and masked."""


@pytest.fixture(scope="module")
def network() -> nn.Module:
    return randomise(create_model("efficientvit_tiny", num_classes=5)).eval().requires_grad_(False)


def write(
    network: nn.Module, path: Path, size: tuple[int, int], *, precision: Precision = "fp32", pixels: bool = False
) -> Path:
    deployed = rewrite(network, layout=FORMAT.layout, image_size=size)
    preprocessing = Preprocessing().at_size(size)
    example = torch.zeros(2, 3, *size)
    if pixels:
        deployed = FromPixels(deployed, preprocessing)
        example = torch.zeros(2, *size, 3, dtype=torch.uint8)
    FORMAT.write(deployed, path, example, WriteOptions(precision=precision))
    FORMAT.describe(path, FileMetadata(preprocessing=preprocessing, precision=precision, takes_pixels=pixels))
    return path


@pytest.fixture(scope="module")
def folder(network: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(network, tmp_path_factory.mktemp("ncnn") / "tiny.ncnn", SIZES[0])


@pytest.mark.parametrize("size", SIZES)
def test_the_answer_is_that_of_the_network(
    network: nn.Module, size: tuple[int, int], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model = FORMAT.open(write(network, tmp_path / "tiny.ncnn", size), num_threads=1)
    assert model.input_shape == (None, 3, *size) and model.runs_here
    for batch_size in (1, 3):
        images = torch.randn(batch_size, 3, *size)
        assert relative_error(model(images), network(images)) < 1e-5
    assert sorted(file.name for file in model.path.iterdir()) == ["metadata.json", "model.bin", "model.param"]
    assert capfd.readouterr() == ("", "")


def test_half_the_weights_is_half_the_file(network: nn.Module, folder: Path, tmp_path: Path) -> None:
    size = SIZES[0]
    half = write(network, tmp_path / "half.ncnn", size, precision="fp16")
    # Measured on M0, M5 and tiny: 3e-4 to 2e-3; a wrong weight is above 1e-2.
    images = torch.randn(2, 3, *size)
    error = relative_error(NcnnModel(half)(images), network(images))
    assert 1e-6 < error < 5e-3
    assert (half / "model.bin").stat().st_size < 0.6 * (folder / "model.bin").stat().st_size


def test_pixels_are_normalised_inside(network: nn.Module, tmp_path: Path) -> None:
    height, width = SIZES[0]
    model = NcnnModel(write(network, tmp_path / "pixels.ncnn", SIZES[0], pixels=True))
    assert model.takes_pixels and model.input_shape == (None, height, width, 3)
    pixels = torch.randint(0, 256, (2, height, width, 3), dtype=torch.uint8)
    expected = network(normalize(pixels.permute(0, 3, 1, 2), Preprocessing()))
    assert relative_error(model(pixels), expected) < 1e-5


def test_the_description_is_read_back_and_the_batch_held(folder: Path, tmp_path: Path) -> None:
    metadata = FileMetadata(
        class_names=("apple", "Käse", "米", "d", "e"), preprocessing=Preprocessing().at_size((64, 64)), batch_size=2
    )
    before = NcnnModel(folder).metadata
    FORMAT.describe(folder, metadata)
    model = NcnnModel(folder)
    FORMAT.describe(folder, before)
    assert model.metadata == metadata and NcnnModel(folder).metadata == before
    with pytest.raises(ConfigError, match=r"tiny.ncnn takes pictures of shape \(2, 3, 64, 64\), got \(1, 3, 64, 64\)"):
        model(torch.zeros(1, 3, 64, 64))


class Deep(nn.Module):
    """Cuts windows with six dimensions."""

    def forward(self, x: Tensor) -> Tensor:
        x = x.relu().reshape(1, 3, 2, 4, 2, 4).permute(0, 2, 4, 1, 3, 5)
        return x.reshape(1, -1)


def test_what_ncnn_does_not_have_is_named(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ExportError, match=r"^Deep cannot be exported to ncnn, which has no Tensor\.reshape"):
        FORMAT.write(Deep(), tmp_path / "deep.ncnn", torch.zeros(1, 3, 8, 8), WriteOptions())
    assert not (tmp_path / "deep.ncnn").exists()
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("damage", ["no graph", "text", "half a graph", "half the weights", "no description"])
def test_a_damaged_folder_is_refused(
    folder: Path, damage: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "copy.ncnn"
    copy.mkdir()
    content = {file.name: file.read_bytes() for file in folder.iterdir()}
    graph = content["model.param"]
    if damage == "no graph":
        del content["model.param"]
    if damage == "text":
        content["model.param"] = b"this is no model"
    if damage == "half a graph":
        content["model.param"] = graph[: len(graph) // 2]
    if damage == "half the weights":
        content["model.bin"] = content["model.bin"][:1000]
    if damage == "no description":
        del content["metadata.json"]
    for name, value in content.items():
        (copy / name).write_bytes(value)
    with pytest.raises(WeightsError, match=r"copy\.ncnn (is not a|cannot be opened)"):
        NcnnModel(copy)
    assert capfd.readouterr() == ("", "")


def test_a_missing_package_names_its_extra(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setitem(sys.modules, "ncnn", None)
    with pytest.raises(ConfigError, match=r"ncnn is not installed; pip install 'effvit\[ncnn\]'"):
        NcnnModel(folder)


CONVOLUTIONS = {
    "1x1": nn.Conv2d(6, 4, 1),
    "1x1, no bias": nn.Conv2d(6, 4, 1, bias=False),
    "1x1, padded": nn.Conv2d(6, 4, 1, padding=1),
    "depth-wise": nn.Conv2d(6, 6, 3, padding=1, groups=6),
    "groups, stride, dilation": nn.Conv2d(6, 4, 3, stride=2, dilation=2, groups=2, bias=False),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_convolution_without_a_batch_is_the_same(name: str, batch_size: int) -> None:
    layer = CONVOLUTIONS[name]
    x = torch.randn(batch_size, 6, 9, 7)
    said = ncnn._convolution(
        x,
        layer.weight,
        layer.bias,
        layer.stride,
        layer.padding,
        layer.dilation,
        layer.groups,  # type: ignore[arg-type]
    )
    torch.testing.assert_close(said, F.conv2d(x, layer.weight, layer.bias, *parameters(layer)))


def parameters(layer: nn.Conv2d) -> tuple[object, object, object, int]:
    return layer.stride, layer.padding, layer.dilation, layer.groups
