"""What is exported is the network and says so, and is not left behind when it is wrong."""

from __future__ import annotations

import copy
import json
import shutil
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from effvit.deploy.export import FORMATS, export
from effvit.deploy.formats.base import ExportedModel, FileFormat, WriteOptions
from effvit.deploy.metadata import FileMetadata
from effvit.deploy.pixels import FromPixels
from effvit.deploy.proof import TOLERANCES
from effvit.deploy.rewrite import rewrite
from effvit.deploy.verify import Labelled
from effvit.errors import ConfigError, ExportError, RunError, WeightsError
from effvit.files import write_json
from effvit.model.checkpoints import WeightsInfo
from effvit.model.factory import create_model
from effvit.model.network import EfficientViT
from effvit.preprocessing import Preprocessing

Answer = Callable[[nn.Module, Tensor], Tensor]


class _FakeModel(ExportedModel):
    """A file that holds its description, and answers as told."""

    def __init__(self, path: Path, written: dict[str, Any], answer: Answer) -> None:
        super().__init__(path)
        if not path.is_dir():
            raise WeightsError("the runtime cannot read it")
        self.metadata = FileMetadata.from_properties(json.loads((path / "metadata.json").read_text()))
        self.input_shape, self.takes_pixels = self.metadata.input_shape, self.metadata.takes_pixels
        self._written, self._answer = written, answer

    def run(self, array: np.ndarray) -> np.ndarray:
        return self._answer(self._written["model"], torch.from_numpy(array)).numpy()


def fake(monkeypatch: pytest.MonkeyPatch, answer: Answer = lambda model, images: model(images)) -> dict[str, Any]:
    """A format whose files answer as told; gives the deploy form that was written, the example and the options."""
    written: dict[str, Any] = {}

    def write(model: nn.Module, path: Path, example: Tensor, options: WriteOptions) -> None:
        written.update(model=model, example=example, options=options)
        path.mkdir()
        (path / "weights").write_bytes(b"new")

    row = FileFormat(
        suffix=".fake",
        extra=None,
        modules=(),
        precisions=("fp32", "fp16", "int8"),
        dynamic_batch=True,
        layout="tokens",
        verified="by magic",
        write=write,
        describe=lambda path, metadata: write_json(path / "metadata.json", metadata.to_properties()),
        open=lambda path, num_threads=None: _FakeModel(path, written, answer),
    )
    monkeypatch.setitem(FORMATS, "fake", row)
    return written


class _Shifted(nn.Module):
    """A deploy form that is off by a little."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images) + 0.01
        return logits


@pytest.fixture
def tiny() -> EfficientViT:
    return create_model("efficientvit_tiny", num_classes=3, image_size=64)


def test_a_wrong_file_is_not_left_behind(tiny: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake(monkeypatch, lambda model, images: model(images) * 1.001)
    path = tmp_path / "a.fake"
    with pytest.raises(ExportError, match=r"^a\.fake does not compute what the network does: largest error .*$"):
        export(tiny, path, image_size=64, file_format="fake")
    assert list(tmp_path.iterdir()) == []
    path.mkdir()
    (path / "a").write_bytes(b"old")
    with pytest.raises(ExportError, match="does not compute"):
        export(tiny, path, image_size=64, file_format="fake")
    assert {p.name: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == {"a": b"old"}
    assert [p.name for p in tmp_path.iterdir()] == ["a.fake"]


def test_a_file_that_is_wrong_on_the_given_pictures_alone_is_refused(
    tiny: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake(monkeypatch, lambda model, images: model(images) + (images.amax() > 50))
    export(tiny, tmp_path / "a.fake", image_size=64, file_format="fake")
    with pytest.raises(ExportError, match="of 2 pictures"):
        export(tiny, tmp_path / "b.fake", image_size=64, file_format="fake", batches=[torch.full((2, 3, 64, 64), 60.0)])
    assert [path.name for path in tmp_path.iterdir()] == ["a.fake"]


def test_a_batch_frozen_into_the_file_is_seen(tiny: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even if all pictures come in batches of the example's size."""
    fake(monkeypatch, lambda model, images: model(torch.zeros(2, 3, 64, 64)))
    with pytest.raises(ExportError, match=r"differ in shape: expected \(1, 3\), got \(2, 3\)"):
        export(tiny, tmp_path / "a.fake", image_size=64, file_format="fake", batches=[torch.zeros(2, 3, 64, 64)])


def test_a_faithful_file_of_a_wrong_deploy_form_is_refused(
    tiny: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The measure is the network that was trained: a fault of the rewriting must not measure itself."""

    def wrong(model: nn.Module, **options: Any) -> nn.Module:
        deployed = rewrite(model, **options)
        return _Shifted(deployed)

    fake(monkeypatch)
    monkeypatch.setattr("effvit.deploy.export.rewrite", wrong)
    with pytest.raises(ExportError, match="does not compute what the network does: largest error 0.01"):
        export(tiny, tmp_path / "a.fake", image_size=64, file_format="fake")
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_deploy_form_is_refused_where_the_file_cannot_tell(
    tiny: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In half precision it could pass for rounding, and here the file is not even run."""
    fake(monkeypatch)
    monkeypatch.setattr(_FakeModel, "runs_here", False)
    monkeypatch.setattr("effvit.deploy.export.rewrite", lambda model, **options: _Shifted(rewrite(model, **options)))
    with pytest.raises(ExportError, match="^the deploy form does not compute what the network does: largest error 0"):
        export(tiny, tmp_path / "a.fake", image_size=64, file_format="fake", precision="fp16")
    assert list(tmp_path.iterdir()) == []


def test_a_file_damaged_by_its_own_description_is_refused(
    tiny: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last thing written is the metadata; what was verified before is not what is reported after."""
    fake(monkeypatch)
    row = FORMATS["fake"]

    def describe(path: Path, metadata: FileMetadata) -> None:
        row.describe(path, metadata)
        if metadata.verification is not None:
            damages[-1](path, metadata)

    def destroyed(path: Path, metadata: FileMetadata) -> None:
        shutil.rmtree(path)
        path.write_bytes(b"damaged")

    def forgotten(path: Path, metadata: FileMetadata) -> None:
        row.describe(path, replace(metadata, class_names=("a", "b", "c")))

    damages = []
    for damage, message in (
        (destroyed, "the runtime cannot read it"),
        (forgotten, r"a\.fake does not say of itself what was written into it"),
    ):
        damages.append(damage)
        monkeypatch.setitem(FORMATS, "fake", replace(row, describe=describe))
        with pytest.raises((WeightsError, ExportError), match=message):
            export(tiny, tmp_path / "a.fake", image_size=64, file_format="fake")
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_network_is_left_as_it_was(
    tiny: EfficientViT, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    written = fake(monkeypatch)
    tiny.to(dtype).train()
    before = {name: value.clone() for name, value in tiny.state_dict().items()}
    batches = [torch.randn(4, 3, 64, 64)]
    result = export(tiny, tmp_path / "a.fake", image_size=64, file_format="fake", batches=batches)
    assert result.verification is not None and result.verification.num_pictures == 4
    assert tiny.training
    assert all(torch.equal(value, before[name]) for name, value in tiny.state_dict().items())
    floats = {p.dtype for p in written["model"].parameters()}
    assert floats == {torch.float32}
    assert not any(isinstance(m, nn.BatchNorm2d | nn.BatchNorm1d) for m in written["model"].modules())


def test_bad_requests_are_refused_before_the_work(tiny: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"unknown format 'onxx' \(did you mean 'onnx'"):
        export(tiny, tmp_path / "a.onnx", file_format="onxx")
    with pytest.raises(ConfigError, match=r"format 'onnx' must end in \.onnx, got 'a\.bin'"):
        export(tiny, tmp_path / "a.bin")
    with pytest.raises(ExportError, match="2 class names for 3 logits"):
        export(tiny, tmp_path / "a.onnx", info=WeightsInfo(class_names=("a", "b")))
    with pytest.raises(ConfigError, match=r"height and width from\s+32 up"):
        export(tiny, tmp_path / "a.onnx", image_size=16)
    with pytest.raises(ExportError, match="Flatten must answer pictures with logits"):
        export(nn.Flatten(2), tmp_path / "a.onnx")
    with pytest.raises(ConfigError, match=r"format 'torch-export' can be fp32, fp16; got precision 'int8'"):
        export(tiny, tmp_path / "a.pt2", file_format="torch-export", precision="int8")
    with pytest.raises(ConfigError, match=r"format 'coreml' takes a fixed number of pictures per call: give the batch"):
        export(tiny, tmp_path / "a.mlpackage", file_format="coreml")
    with pytest.raises(ConfigError, match=r"batch size must be at least 1, got 0"):
        export(tiny, tmp_path / "a.onnx", batch_size=0)
    with pytest.raises(ConfigError, match=r"precision int8 needs calibration pictures; got precision 'int8' without"):
        export(tiny, tmp_path / "a.onnx", precision="int8")
    with pytest.raises(ConfigError, match=r"calibration is for int8; got precision 'fp16'"):
        export(tiny, tmp_path / "a.onnx", precision="fp16", calibration=[])
    with pytest.raises(ConfigError, match=r"no format 'tensorrt': TensorRT reads the ONNX file"):
        export(tiny, tmp_path / "a.engine", file_format="tensorrt")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_runtime_is_said_before_the_work(
    tiny: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(ConfigError, match=r"'openvino' cannot be written here: openvino is not installed; pip install"):
        export(tiny, tmp_path / "a.openvino", file_format="openvino")


def test_a_place_that_cannot_be_written_is_named(
    tiny: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake(monkeypatch)
    with pytest.raises(RunError, match=r"cannot write .*missing.a\.fake"):
        export(tiny, tmp_path / "missing" / "a.fake", image_size=64, file_format="fake")


class _Branching(nn.Module):
    """Depends on the values of the pictures: cannot be traced."""

    def forward(self, x: Tensor) -> Tensor:
        x = x.mean((2, 3))
        return x if x.sum().item() > 0 else -x


class _FixedBatch(nn.Module):
    """Asks for a number where it should carry a symbol on."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3)) + torch.zeros(len(x), 1)


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (_Branching(), "_Branching cannot be exported as a graph: .+"),
        (_FixedBatch(), "_FixedBatch cannot be exported with a free batch: its code fixes the batch; ask for a .+"),
    ],
)
def test_what_cannot_be_exported_is_one_line(
    model: nn.Module, reason: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    info = WeightsInfo(preprocessing=Preprocessing(image_size=(8, 8)))
    with pytest.raises(ExportError, match=f"^{reason}$") as caught:
        export(model.eval(), tmp_path / "a.onnx", info=info)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")


def test_a_fixed_batch_is_the_way_out_where_the_code_fixes_it(tmp_path: Path) -> None:
    info = WeightsInfo(preprocessing=Preprocessing(image_size=(8, 8)))
    result = export(_FixedBatch().eval(), tmp_path / "a.onnx", info=info, batch_size=4)
    assert result.metadata.input_shape == (4, 3, 8, 8)


class _Caching(nn.Module):
    """Keeps a tensor for the next call, as timm's EfficientViT does."""

    cache: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        x = x.mean((2, 3))
        self.cache = x * 2
        return x + self.cache


def test_a_model_that_caches_is_exported_from_a_copy(tmp_path: Path) -> None:
    model = _Caching()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        export(model, tmp_path / "a.onnx", info=WeightsInfo(preprocessing=Preprocessing(image_size=(8, 8))))
    assert model.cache is None


def test_what_is_asked_for_reaches_the_writer(tiny: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = fake(monkeypatch)
    arguments: dict[str, Any] = {"batch_size": 3, "preprocessing": True, "precision": "fp16"}
    steps: list[str] = []
    result = export(tiny, tmp_path / "a.fake", image_size=64, file_format="fake", on_step=steps.append, **arguments)
    assert written["options"] == WriteOptions(batch_size=3, precision="fp16")
    assert written["example"].dtype == torch.uint8 and written["example"].shape == (3, 64, 64, 3)
    assert isinstance(written["model"], FromPixels)
    described = result.metadata
    assert (described.file_format, described.precision, described.batch_size) == ("fake", "fp16", 3)
    assert described.takes_pixels and steps == ["write", "compare"]


def test_pixels_are_compared_with_the_normal_path(
    tiny: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that forgets to normalise, or mixes the channels up, is refused."""
    options: dict[str, Any] = {"image_size": 64, "file_format": "fake", "preprocessing": True}
    fake(monkeypatch)
    export(tiny, tmp_path / "a.fake", **options)
    for wrong in (
        lambda model, pixels: model.network(pixels.permute(0, 3, 1, 2).float() / 255),
        lambda model, pixels: model(pixels.flip(3)),
        lambda model, pixels: model(pixels // 2 * 2),
    ):
        fake(monkeypatch, wrong)
        with pytest.raises(ExportError, match="does not compute"):
            export(tiny, tmp_path / "b.fake", **options)
    assert [path.name for path in tmp_path.iterdir()] == ["a.fake"]


def test_half_precision_is_held_to_its_own_tolerance(
    tiny: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake(monkeypatch, lambda model, images: model(images) * (1 + TOLERANCES["fp16"] / 2))
    export(tiny, tmp_path / "a.fake", image_size=64, file_format="fake", precision="fp16")
    with pytest.raises(ExportError, match=r"\(allowed: 0\.0001\)"):
        export(tiny, tmp_path / "b.fake", image_size=64, file_format="fake")
    fake(monkeypatch, lambda model, images: model(images) * (1 + TOLERANCES["fp16"] * 2))
    with pytest.raises(ExportError, match=r"\(allowed: 0\.01\)"):
        export(tiny, tmp_path / "b.fake", image_size=64, file_format="fake", precision="fp16")


class _Quantized:
    def to_dict(self) -> dict[str, Any]:
        return {"num_pictures": 4}


def test_int8_is_made_of_a_proved_float_file_and_judged_by_agreement(
    tiny: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With pictures of unknown class for calibration, and labelled ones to judge it on."""
    seen: dict[str, Any] = {}

    def quantize(source: Path, target: Path, calibration: list[Tensor], *, on_step: Any) -> _Quantized:
        seen.update(source=FORMATS["fake"].open(source).metadata, shapes=[len(batch) for batch in calibration])
        on_step(1, 2)
        target.mkdir()
        return _Quantized()

    fake(monkeypatch, lambda model, images: model(images) * 1.00005)
    monkeypatch.setitem(FORMATS, "fake", replace(FORMATS["fake"], quantize=quantize))
    images = torch.randn(10, 3, 64, 64)
    targets = tiny.eval()(images).argmax(1)
    targets[0] = (targets[0] + 1) % 3
    arguments: dict[str, Any] = {"image_size": 64, "file_format": "fake", "precision": "int8", "batch_size": 2}
    arguments |= {
        "calibration": [images[:3], Labelled(images[3:5], targets[3:5])],
        "batches": [Labelled(images, targets)],
    }
    result = export(tiny, tmp_path / "a.fake", **arguments)
    assert seen["shapes"] == [2, 2], "as the file takes them; the odd one is left out"
    assert result.metadata.quantization == {"num_pictures": 4} and result.metadata.precision == "int8"
    check = result.verification
    assert check is not None and check.measure == "agreement" and check.num_pictures == 10
    assert (check.top1_reference, check.top1_candidate) == (0.9, 0.9)

    # The float file is right, the int8 file answers something else: 180 degrees off.
    calls = {"num": 0}

    def upside_down(model: nn.Module, images: Tensor) -> Tensor:
        calls["num"] += 1
        return model(images) * (1 if calls["num"] <= 1 else -1)

    fake(monkeypatch, upside_down)
    monkeypatch.setitem(FORMATS, "fake", replace(FORMATS["fake"], quantize=quantize))
    with pytest.raises(ExportError, match=r"same first class on .* of 10 pictures \(at least: 90\.00%\)"):
        export(tiny, tmp_path / "b.fake", **arguments)
    with pytest.raises(ConfigError, match="calibration needs at least one batch of 11 pictures"):
        export(tiny, tmp_path / "b.fake", **{**arguments, "batch_size": 11})
    assert [path.name for path in tmp_path.iterdir()] == ["a.fake"]


def test_a_file_that_cannot_be_run_here_is_not_called_verified(
    tiny: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_FakeModel, "runs_here", False)
    fake(monkeypatch, lambda model, images: model(images) * 2)
    result = export(tiny, tmp_path / "a.fake", image_size=64, file_format="fake")
    assert result.verification is None
    assert result.metadata.verification == {"inspected_only": "by magic"}


@pytest.mark.parametrize("name", ["onnx", "openvino", "torch-export"])
def test_a_real_file_with_one_wrong_weight_is_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The deploy form is right, what the writer makes of it is not."""
    row = FORMATS[name]
    if row.obstacle():
        pytest.skip(row.obstacle())
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    info = WeightsInfo(preprocessing=Preprocessing(image_size=(8, 10)))

    def write(model: nn.Module, path: Path, example: Tensor, options: WriteOptions) -> None:
        wrong = copy.deepcopy(model)
        with torch.no_grad():
            wrong[0].weight[0, 0, 0, 0] += 0.01  # type: ignore[index]
        row.write(wrong, path, example, options)

    path = tmp_path / f"a{row.suffix}"
    monkeypatch.setitem(FORMATS, name, replace(row, write=write))
    with pytest.raises(ExportError, match="does not compute what the network does"):
        export(network.eval(), path, info=info, file_format=name)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setitem(FORMATS, name, row)
    export(network, path, info=info, file_format=name)
    assert list(tmp_path.iterdir()) == [path]
