"""What holds for every format that this machine writes and runs: the file is the network, and says what it is."""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import effvit
from effvit.data.transforms import normalize
from effvit.deploy.export import Exported
from effvit.deploy.formats.base import ExportedModel, FileFormat, is_installed
from effvit.deploy.formats.table import FORMATS, find_format, format_of
from effvit.deploy.runtimes import any_batch, open_file
from effvit.deploy.verify import verify
from effvit.errors import ConfigError, WeightsError
from effvit.model.checkpoints import WeightsInfo
from effvit.model.network import EfficientViT
from effvit.preprocessing import Preprocessing

SIZE = (160, 272)
PLAIN = ["onnx", "openvino", "torch-export", pytest.param("aot-inductor", marks=pytest.mark.slow)]
"""Machine code takes minutes to write."""
SPECIAL = [
    "onnx",
    "openvino",
    *(pytest.param(name, marks=pytest.mark.slow) for name in ("torch-export", "aot-inductor")),
]
"""The program that torch-export keeps is what the ONNX file is made of."""
PIXELS: dict[str, Any] = {"precision": "fp16", "batch_size": 3, "preprocessing": True}
"""Everything that a plain file is not."""


@pytest.fixture(params=PLAIN)
def plain(request: pytest.FixtureRequest, export_once: Any) -> tuple[Exported, str]:
    """float32, any batch, normalised pictures."""
    return _export(request.param, export_once)


@pytest.fixture(params=SPECIAL)
def special(request: pytest.FixtureRequest, export_once: Any) -> Exported:
    """float16, three pictures a call, pixels."""
    return _export(request.param, export_once, **PIXELS)[0]


def _export(name: str, export_once: Any, **arguments: Any) -> tuple[Exported, str]:
    for module in FORMATS[name].modules:
        pytest.importorskip(module)
    result: tuple[Exported, str] = export_once(name, **arguments)
    return result


@functools.cache
def opened(path: Path) -> ExportedModel:
    """Opened once for all tests here that only ask it: a program of torch takes seconds."""
    return open_file(path, num_threads=1)


def test_the_file_computes_what_the_network_does(plain: tuple[Exported, str], network: EfficientViT) -> None:
    """At batch sizes other than the example's, with windows that are padded and masked."""
    pictures = [torch.randn(batch, 3, *SIZE) for batch in (1, 2, 3, 7, 1)]
    checked = verify(lambda images: network(images.double()), open_file(plain[0].path), pictures)
    assert checked.passed and checked.top1_agreement == 1
    assert checked.max_rel_error < 1e-5


def test_pictures_of_one_batch_are_pictures_alone(plain: tuple[Exported, str]) -> None:
    model = opened(plain[0].path)
    images = torch.randn(3, 3, *SIZE)
    alone = torch.cat([model(image[None]) for image in images])
    torch.testing.assert_close(model(images), alone, rtol=1e-4, atol=1e-5)


def test_an_answer_stays_what_it_was(plain: tuple[Exported, str]) -> None:
    """A runtime may write its next answer into the same place."""
    model = opened(plain[0].path)
    images = torch.randn(2, 3, *SIZE)
    answer = model(images)
    before = answer.clone()
    model(torch.zeros_like(images))
    assert torch.equal(answer, before)


def test_the_file_says_what_it_is(plain: tuple[Exported, str], network: EfficientViT, info: WeightsInfo) -> None:
    result, printed = plain
    assert printed == ""
    model = open_file(result.path)
    described = model.metadata
    assert described == result.metadata
    assert described.class_names == info.class_names
    assert described.preprocessing == Preprocessing(image_size=SIZE, interpolation="bilinear", crop_ratio=1.0)
    assert (described.variant, described.config) == ("efficientvit_tiny", network.config)
    assert (described.provenance, described.version) == (info.provenance, effvit.__version__)
    assert result.verification is not None and result.verification.passed
    assert described.verification == result.verification.to_dict()
    assert described.file_format == format_of(result.path.name)
    assert (described.precision, described.batch_size, described.takes_pixels) == ("fp32", None, False)
    assert model.input_shape == described.input_shape == (None, 3, *SIZE)


def test_it_is_all_there_is_and_of_the_size_it_says(plain: tuple[Exported, str]) -> None:
    result, _ = plain
    assert list(result.path.parent.iterdir()) == [result.path]
    files = [result.path] if result.path.is_file() else list(result.path.iterdir())
    assert result.num_bytes == sum(file.stat().st_size for file in files)
    described = result.metadata.num_bytes
    assert described is not None and 0 < described < result.num_bytes


@pytest.mark.parametrize("shape", [(2, 3, 160, 271), (1, 1, 160, 272), (3, 160, 272), (1, 1, 3, 160, 272)])
def test_a_wrong_shape_is_one_line(plain: tuple[Exported, str], shape: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match=r"^tiny\.\S+ takes pictures of shape \(any, 3, 160, 272\), got \(.*\)$"):
        opened(plain[0].path)(torch.zeros(shape))


def test_any_memory_layout_and_float_type_will_do(plain: tuple[Exported, str]) -> None:
    model = opened(plain[0].path)
    images = torch.randn(2, 3, *SIZE)
    expected = model(images)
    assert expected.dtype == torch.float32 and expected.shape == (2, 5)
    assert torch.equal(model(images.to(memory_format=torch.channels_last)), expected)
    assert torch.equal(model(images.double().requires_grad_()), expected)
    with pytest.raises(ConfigError, match=r"takes float pictures, got torch\.uint8"):
        model(images.to(torch.uint8))


def test_a_damaged_file_is_one_line(plain: tuple[Exported, str], tmp_path: Path) -> None:
    source = plain[0].path
    for content in (b"", b"damaged", _bytes(source)[: len(_bytes(source)) // 2]):
        target = tmp_path / source.name
        if source.is_dir():
            target.mkdir(exist_ok=True)
            (target / "model.xml").write_bytes(content)
        else:
            target.write_bytes(content)
        with pytest.raises(WeightsError, match=r"tiny\.\S+ (is|cannot)") as caught:
            open_file(target)
        assert "\n" not in str(caught.value)


def _bytes(path: Path) -> bytes:
    return (path / "model.xml" if path.is_dir() else path).read_bytes()


def test_pixels_in_half_precision_in_threes(special: Exported, network: EfficientViT) -> None:
    """The normal path, from the same pixels, is what the file must give; in batches of any size through `any_batch`."""
    model = opened(special.path)
    assert model.takes_pixels and model.input_shape == (3, *SIZE, 3)
    assert (model.metadata.precision, model.metadata.batch_size) == ("fp16", 3)
    pixels = torch.randint(0, 256, (7, *SIZE, 3), dtype=torch.uint8)
    assert model.metadata.preprocessing is not None
    images = normalize(pixels.permute(0, 3, 1, 2), model.metadata.preprocessing)
    expected = network(images.double())
    answer = any_batch(model)(pixels)
    assert answer.shape == (7, 5)
    assert (answer - expected).abs().max() < 5e-3 * expected.abs().max()


@pytest.mark.parametrize("batch_size", [1, 2, 4])
def test_a_fixed_batch_is_enforced(special: Exported, batch_size: int) -> None:
    with pytest.raises(ConfigError, match=rf"takes pictures of shape \(3, 160, 272, 3\), got \({batch_size}, 160, "):
        opened(special.path)(torch.zeros(batch_size, *SIZE, 3, dtype=torch.uint8))
    with pytest.raises(ConfigError, match=r"takes uint8 pictures, got torch\.float32"):
        opened(special.path)(torch.zeros(3, *SIZE, 3))


@pytest.mark.parametrize("name", FORMATS)
def test_a_row_of_the_table_is_complete(name: str) -> None:
    row = FORMATS[name]
    assert row.suffix.startswith(".") and "fp32" in row.precisions and row.verified
    assert ("int8" in row.precisions) == (row.quantize is not None)
    assert format_of(f"some.name{row.suffix}") == name
    assert find_format(name) is row


def test_the_layouts_are_those_of_decision_5() -> None:
    """Both are exact, so no other test would see the slower one."""
    tokens = {name for name, row in FORMATS.items() if row.layout == "tokens"}
    assert tokens == {"torch-export", "aot-inductor"}


def test_a_missing_module_and_a_missing_tool_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    row = FORMATS["openvino"]
    monkeypatch.setitem(sys.modules, "openvino", None)
    assert not is_installed("openvino") and not is_installed("no_such.thing")
    assert row.obstacle() == "openvino is not installed; pip install 'effvit[openvino]'"
    assert FileFormat(**{**vars(row), "modules": ("json",), "needs": lambda: "no hammer"}).obstacle() == "no hammer"
    row = FileFormat(**{**vars(row), "modules": ("json",), "quantize_modules": ("no_such",)})
    assert row.obstacle() is None and FORMATS["openvino"].quantize_modules == ("nncf",)
    assert row.obstacle("int8") == "no_such is not installed; pip install 'effvit[openvino]'"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tensorrt", "no format 'tensorrt': TensorRT reads the ONNX file"),
        ("engine", "no format 'engine': TensorRT reads the ONNX file"),
        ("tflite", "no format 'tflite': litert-torch does not install beside this torch"),
        ("onxx", r"unknown format 'onxx' \(did you mean 'onnx'\?\)"),
    ],
)
def test_formats_that_are_not_there(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        find_format(name)
