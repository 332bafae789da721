"""A `.pte` file answers as the network does, and carries its description behind the program."""

from __future__ import annotations

import gc
import json
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from helpers import randomise, relative_error
from torch import nn

from effvit.data.transforms import normalize
from effvit.deploy.formats import executorch
from effvit.deploy.formats.base import Precision, WriteOptions
from effvit.deploy.formats.executorch import FORMAT, ExecuTorchModel
from effvit.deploy.metadata import FileMetadata
from effvit.deploy.pixels import FromPixels
from effvit.deploy.rewrite import rewrite
from effvit.errors import ConfigError, WeightsError
from effvit.model.factory import create_model
from effvit.preprocessing import Preprocessing

if FORMAT.obstacle() is not None:
    pytest.skip("needs effvit[executorch]", allow_module_level=True)

pytestmark = pytest.mark.slow  # lowering takes a quarter of a minute a file

SIZE = (64, 64)
CUT = (160, 272)
"""Windows are cut, padded in both directions, and masked."""


@pytest.fixture(scope="module")
def network() -> nn.Module:
    return randomise(create_model("efficientvit_tiny", num_classes=5)).eval().requires_grad_(False)


def write(network: nn.Module, path: Path, size: tuple[int, int], precision: Precision = "fp32") -> Path:
    deployed = rewrite(network, layout=FORMAT.layout, image_size=size)
    FORMAT.write(deployed, path, torch.zeros(2, 3, *size), WriteOptions(batch_size=2, precision=precision))
    return path


@pytest.fixture(scope="module")
def written(network: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(network, tmp_path_factory.mktemp("executorch") / "tiny.pte", SIZE)


def check(network: nn.Module, path: Path, size: tuple[int, int], allowed: float) -> None:
    model = FORMAT.open(path)
    assert model.input_shape == (2, 3, *size) and model.runs_here and not model.takes_pixels
    images = torch.randn(2, 3, *size)
    answer = model(images)
    kept = answer.clone()
    model(torch.zeros_like(images))  # must not change an answer that was given
    assert torch.equal(answer, kept) and answer.dtype == torch.float32
    assert relative_error(answer, network(images)) < allowed


def test_the_answer_is_that_of_the_network(network: nn.Module, written: Path) -> None:
    check(network, written, SIZE, 1e-5)
    with pytest.raises(ConfigError, match=r"tiny.pte takes pictures of shape \(2, 3, 64, 64\), got \(1, 3, 64, 64\)"):
        ExecuTorchModel(written)(torch.zeros(1, 3, *SIZE))


def test_the_answer_is_that_of_the_network_where_windows_are_cut(network: nn.Module, tmp_path: Path) -> None:
    check(network, write(network, tmp_path / "cut.pte", CUT), CUT, 1e-5)


def test_half_precision_is_fed_and_read_in_float32(network: nn.Module, written: Path, tmp_path: Path) -> None:
    half = write(network, tmp_path / "half.pte", SIZE, "fp16")
    check(network, half, SIZE, 5e-3)


def test_pixels_are_normalised_inside(network: nn.Module, tmp_path: Path) -> None:
    deployed = FromPixels(rewrite(network, layout=FORMAT.layout, image_size=SIZE), Preprocessing())
    pixels = torch.randint(0, 256, (2, *SIZE, 3), dtype=torch.uint8)
    FORMAT.write(deployed, tmp_path / "pixels.pte", pixels, WriteOptions(batch_size=2))
    model = ExecuTorchModel(tmp_path / "pixels.pte")
    assert model.takes_pixels and model.input_shape == (2, *SIZE, 3)
    expected = network(normalize(pixels.permute(0, 3, 1, 2), Preprocessing()))
    assert relative_error(model(pixels), expected) < 1e-5


def test_the_description_is_read_back_and_replaced(written: Path, tmp_path: Path) -> None:
    path = tmp_path / "copy.pte"
    path.write_bytes(written.read_bytes())
    sizes = []
    for metadata in (FileMetadata(class_names=("Käse", "米"), version="1"), FileMetadata(version="2")) * 2:
        FORMAT.describe(path, metadata)
        model = ExecuTorchModel(path)
        assert model.metadata == metadata and model.delegation["num_delegated"] > 0
        sizes.append(path.stat().st_size)
    assert sizes[:2] == sizes[2:]  # nothing piles up
    with zipfile.ZipFile(path) as archive:
        assert json.loads(archive.read("metadata.json")) == {"effvit.version": '"2"'}


def test_what_is_delegated_is_told(written: Path) -> None:
    delegation = ExecuTorchModel(written).delegation
    assert delegation["num_left"] == sum(delegation["left"].values())
    assert delegation["num_parts"] == 1 and delegation["num_left"] < 0.05 * delegation["num_delegated"]


def test_the_pool_of_threads_cannot_change_under_an_open_file(written: Path) -> None:
    gc.collect()
    model = FORMAT.open(written, num_threads=1)
    FORMAT.open(written, num_threads=1)
    with pytest.raises(ConfigError, match="one pool of threads for all open files, of 1 now"):
        FORMAT.open(written, num_threads=2)
    images = torch.randn(2, 3, *SIZE)
    expected = model(images)
    del model
    gc.collect()
    torch.testing.assert_close(FORMAT.open(written, num_threads=2)(images), expected)


def test_nothing_reaches_the_terminal(written: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    content = written.read_bytes()
    damaged = {"text.pte": b"this is no program", "zeros.pte": bytes(5000), "half.pte": content[: len(content) // 2]}
    for name, value in damaged.items():
        (tmp_path / name).write_bytes(value)
        with pytest.raises(WeightsError, match=rf"{name} is not a program that ExecuTorch can run"):
            ExecuTorchModel(tmp_path / name)
    ExecuTorchModel(written)(torch.zeros(2, 3, *SIZE))
    assert capfd.readouterr() == ("", "")


def test_a_missing_package_names_its_extra(monkeypatch: pytest.MonkeyPatch, written: Path) -> None:
    monkeypatch.setitem(sys.modules, "executorch.runtime", None)
    with pytest.raises(ConfigError, match=r"executorch.* is not installed; pip install 'effvit\[executorch\]'"):
        ExecuTorchModel(written)


def test_what_is_said_for_xnnpack_is_the_same() -> None:
    x = torch.randn(2, 7, 3, 5)
    pairs = [
        (executorch._slices(x, [3, 4], 1), x.split([3, 4], 1)),
        (executorch._chunks(x, 3, 1), x.chunk(3, 1)),
        (executorch._parts(x, 3, 1), x.split(3, 1)),
        (executorch._unbind(x, 2), x.unbind(2)),
        ((executorch._mean(x, [2, 3]),), (x.mean((2, 3)),)),
        ((executorch._mean(x, [-2, -1], True),), (x.mean((2, 3), keepdim=True),)),
        ((executorch._mean(x, [1]),), (x.mean(1),)),
    ]
    for said, meant in pairs:
        assert len(said) == len(meant)
        assert all(torch.equal(one, other) for one, other in zip(said, meant, strict=True))
