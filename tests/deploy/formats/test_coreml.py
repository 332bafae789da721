"""An ML program holds the network: checked without a Mac by evaluating what is in the package, see `mil`."""

from __future__ import annotations

import functools
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers import randomise, relative_error
from mil import run_package
from torch import Tensor, nn

from effvit.data.transforms import normalize
from effvit.deploy.formats.base import Precision, WriteOptions
from effvit.deploy.formats.coreml import FORMAT, CoreMLModel
from effvit.deploy.metadata import FileMetadata
from effvit.deploy.pixels import FromPixels
from effvit.deploy.rewrite import rewrite
from effvit.errors import ConfigError, ExportError, WeightsError
from effvit.model.factory import create_model
from effvit.preprocessing import Preprocessing

if FORMAT.obstacle() is not None:
    pytest.skip("needs effvit[coreml]", allow_module_level=True)

SIZES = [(64, 64), (160, 272)]
"""One window; windows cut, padded in both directions, and masked."""
Written = Callable[..., Path]
NOT_HERE = pytest.mark.skipif(sys.platform == "darwin", reason="Core ML runs here")


@pytest.fixture(scope="module")
def network() -> nn.Module:
    return randomise(create_model("efficientvit_tiny", num_classes=5)).eval().requires_grad_(False)


def write(network: nn.Module, path: Path, size: tuple[int, int], precision: Precision = "fp32") -> Path:
    deployed = rewrite(network, layout=FORMAT.layout, image_size=size)
    FORMAT.write(deployed, path, torch.zeros(2, 3, *size), WriteOptions(batch_size=2, precision=precision))
    return path


@pytest.fixture(scope="module")
def written(network: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Written:
    """Packages, each written when it is first asked for: that takes seconds."""

    @functools.cache
    def once(size: tuple[int, int], precision: Precision) -> Path:
        return write(network, tmp_path_factory.mktemp("coreml") / "tiny.mlpackage", size, precision)

    return once


@pytest.fixture
def package(written: Written, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return shutil.copytree(written(SIZES[0], "fp32"), tmp_path / "here" / "tiny.mlpackage")


@pytest.mark.parametrize(
    ("size", "precision", "allowed"),
    [
        (SIZES[0], "fp32", 1e-5),
        (SIZES[0], "fp16", 5e-3),
        (SIZES[1], "fp32", 1e-5),
        pytest.param(SIZES[1], "fp16", 5e-3, marks=pytest.mark.slow),
    ],
)
def test_the_package_computes_what_the_network_does(
    network: nn.Module,
    size: tuple[int, int],
    precision: Precision,
    allowed: float,
    written: Written,
    capfd: pytest.CaptureFixture[str],
) -> None:
    path = written(size, precision)
    model = CoreMLModel(path)
    assert model.input_shape == (2, 3, *size) and not model.takes_pixels
    images = torch.randn(2, 3, *size)
    assert relative_error(run_package(path, images), network(images)) < allowed
    assert ("cast" in model.num_operators) == (precision == "fp16")
    assert capfd.readouterr() == ("", "")


def test_half_precision_is_half_the_weights(written: Written, package: Path) -> None:
    half = CoreMLModel(written(SIZES[0], "fp16"))
    assert half.num_weight_bytes < 0.6 * CoreMLModel(package).num_weight_bytes


def test_pixels_come_as_an_image_and_are_normalised_inside(network: nn.Module, tmp_path: Path) -> None:
    height, width = SIZES[0]
    deployed = FromPixels(rewrite(network, layout=FORMAT.layout, image_size=SIZES[0]), Preprocessing())
    path = tmp_path / "pixels.mlpackage"
    FORMAT.write(deployed, path, torch.zeros(1, height, width, 3, dtype=torch.uint8), WriteOptions(batch_size=1))
    model = CoreMLModel(path)
    assert model.takes_pixels and model.input_shape == (1, height, width, 3)
    pixels = torch.randint(0, 256, (1, 3, height, width), dtype=torch.uint8)
    expected = network(normalize(pixels, Preprocessing()))
    assert relative_error(run_package(path, pixels.float()), expected) < 1e-5
    with pytest.raises(ExportError, match=r"one RGB image at a time, got pixels of shape \(2, 64, 64, 3\)"):
        FORMAT.write(deployed, path, torch.zeros(2, height, width, 3, dtype=torch.uint8), WriteOptions(batch_size=2))


def test_the_description_is_read_back_and_replaced(package: Path) -> None:
    before = CoreMLModel(package)
    assert before.metadata == FileMetadata()
    for metadata in (FileMetadata(class_names=("Käse", "米"), variant="tiny"), FileMetadata(version="1")):
        FORMAT.describe(package, metadata)
        assert CoreMLModel(package).metadata == metadata
    assert CoreMLModel(package).num_operators == before.num_operators
    assert [file.name for file in package.parent.iterdir()] == ["tiny.mlpackage"]


def test_a_description_that_cannot_be_written_leaves_nothing_beside(
    package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(Path, "rename", full)
    with pytest.raises(OSError, match="No space left"):
        FORMAT.describe(package, FileMetadata(version="1"))
    assert not (package.parent / "copy.tiny.mlpackage").exists()


@NOT_HERE
def test_off_a_mac_it_is_inspected_and_says_so(package: Path) -> None:
    model = FORMAT.open(package, num_threads=1)
    assert isinstance(model, CoreMLModel) and not model.runs_here
    assert model.num_operators["softmax"] == 8 and "const" not in model.num_operators
    assert "macOS only" in FORMAT.verified
    with pytest.raises(ConfigError, match=r"^tiny\.mlpackage can only be inspected here: Core ML runs on macOS only$"):
        model(torch.zeros(2, 3, *SIZES[0]))


class Unknown(nn.Module):
    """Computes what Core ML has no operator for."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.special.i0(x).mean((2, 3))


def test_what_cannot_be_converted_is_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ExportError, match=r"^Unknown cannot be converted to Core ML: .*i0.*$"):
        FORMAT.write(Unknown(), tmp_path / "no.mlpackage", torch.zeros(1, 3, 8, 8), WriteOptions(batch_size=1))
    assert capfd.readouterr() == ("", "")


def test_what_is_no_package_is_refused(package: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty.mlpackage").mkdir()
    (tmp_path / "text.mlpackage").write_text("this is no model")
    for name in ("empty", "text"):
        with pytest.raises(WeightsError, match=rf"{name}\.mlpackage is not a Core ML package: .+"):
            CoreMLModel(tmp_path / f"{name}.mlpackage")
    assert capfd.readouterr() == ("", "")


def test_a_missing_package_names_its_extra(monkeypatch: pytest.MonkeyPatch, package: Path) -> None:
    monkeypatch.setitem(sys.modules, "coremltools", None)
    with pytest.raises(ConfigError, match=r"coremltools is not installed; pip install 'effvit\[coreml\]'"):
        CoreMLModel(package)
