"""The exported file is the network, says what it is, and is not left behind when it is wrong."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import effvit
from effvit.deploy.export import FORMATS, Exported, FileFormat, export
from effvit.deploy.metadata import FileMetadata
from effvit.deploy.rewrite import rewrite
from effvit.deploy.runtimes import OnnxModel
from effvit.deploy.verify import verify
from effvit.errors import ConfigError, ExportError, RunError, WeightsError
from effvit.model.checkpoints import WeightsInfo
from effvit.model.factory import create_model
from effvit.model.network import EfficientViT
from effvit.preprocessing import Preprocessing

SIZE = (160, 272)


def test_the_file_computes_what_the_network_does(exported: tuple[Exported, str], network: EfficientViT) -> None:
    """At batch sizes other than the example's, with windows that are padded and masked."""
    result, _ = exported
    pictures = [torch.randn(batch, 3, *SIZE) for batch in (1, 2, 3, 7)]
    checked = verify(lambda images: network(images.double()), OnnxModel(result.path), pictures)
    assert checked.passed and checked.top1_agreement == 1
    assert checked.max_rel_error < 1e-5


def test_pictures_of_one_batch_are_pictures_alone(exported: tuple[Exported, str]) -> None:
    model = OnnxModel(exported[0].path)
    images = torch.randn(3, 3, *SIZE)
    alone = torch.cat([model(image[None]) for image in images])
    torch.testing.assert_close(model(images), alone, rtol=1e-4, atol=1e-5)


def test_nothing_is_printed(exported: tuple[Exported, str]) -> None:
    assert exported[1] == ""


def test_it_is_one_file(exported: tuple[Exported, str]) -> None:
    result, _ = exported
    assert [path.name for path in result.path.parent.iterdir()] == ["tiny.onnx"]
    assert result.num_bytes == result.path.stat().st_size


def test_the_file_says_what_it_is(exported: tuple[Exported, str], network: EfficientViT, info: WeightsInfo) -> None:
    result, _ = exported
    model = OnnxModel(result.path)
    assert model.metadata == result.metadata
    assert model.metadata.class_names == info.class_names
    assert model.metadata.preprocessing == Preprocessing(image_size=SIZE, interpolation="bilinear", crop_ratio=1.0)
    assert model.metadata.variant == "efficientvit_tiny"
    assert model.metadata.provenance == info.provenance
    assert model.metadata.version == effvit.__version__
    assert model.metadata.verification == result.verification.to_dict()
    assert result.verification.passed
    assert model.metadata.config == network.config


def fake(monkeypatch: pytest.MonkeyPatch, answer: Callable[[nn.Module, Tensor], Tensor]) -> dict[str, nn.Module]:
    """A format whose files answer as told; gives the deploy form that was written."""
    written: dict[str, nn.Module] = {}

    def write(model: nn.Module, path: Path, images: Tensor) -> None:
        written["model"] = model
        path.write_bytes(b"new")

    row = FileFormat(
        suffix=".fake",
        write=write,
        describe=lambda path, metadata: None,
        open=lambda path: lambda images: answer(written["model"], images),
    )
    monkeypatch.setitem(FORMATS, "fake", row)
    return written


@pytest.fixture
def tiny() -> EfficientViT:
    return create_model("efficientvit_tiny", num_classes=3, image_size=64)


def test_a_wrong_file_is_not_left_behind(tiny: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake(monkeypatch, lambda model, images: model(images) * 1.001)
    path = tmp_path / "a.fake"
    with pytest.raises(ExportError, match=r"^a\.fake does not compute what the network does: largest error .*$"):
        export(tiny, path, image_size=64, file_format="fake")
    assert list(tmp_path.iterdir()) == []
    path.write_bytes(b"old")
    with pytest.raises(ExportError, match="does not compute"):
        export(tiny, path, image_size=64, file_format="fake")
    assert [p.read_bytes() for p in tmp_path.iterdir()] == [b"old"]


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

    def wrong(model: nn.Module) -> nn.Module:
        deployed = rewrite(model)
        deployed.head.bias.add_(0.01)  # type: ignore[union-attr, operator]
        return deployed

    fake(monkeypatch, lambda model, images: model(images))
    monkeypatch.setattr("effvit.deploy.export.rewrite", wrong)
    with pytest.raises(ExportError, match="does not compute what the network does: largest error 0.01"):
        export(tiny, tmp_path / "a.fake", image_size=64, file_format="fake")
    assert list(tmp_path.iterdir()) == []


def test_a_file_damaged_by_its_own_description_is_refused(
    tiny: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last thing written is the metadata; what was verified before is not what is reported after."""
    fake(monkeypatch, lambda model, images: model(images))
    row = FORMATS["fake"]

    def describe(path: Path, metadata: FileMetadata) -> None:
        path.write_bytes(b"damaged")

    def open_undamaged(path: Path) -> Callable[[Tensor], Tensor]:
        if path.read_bytes() == b"damaged":
            raise WeightsError("the runtime cannot read it")
        return row.open(path)

    monkeypatch.setitem(FORMATS, "fake", replace(row, describe=describe, open=open_undamaged))
    with pytest.raises(WeightsError, match="the runtime cannot read it"):
        export(tiny, tmp_path / "a.fake", image_size=64, file_format="fake")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_network_is_left_as_it_was(
    tiny: EfficientViT, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    written = fake(monkeypatch, lambda model, images: model(images))
    tiny.to(dtype).train()
    before = {name: value.clone() for name, value in tiny.state_dict().items()}
    batches = [torch.randn(4, 3, 64, 64)]
    result = export(tiny, tmp_path / "a.fake", image_size=64, file_format="fake", batches=batches)
    assert result.verification.num_pictures == 4
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
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_named(
    tiny: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake(monkeypatch, lambda model, images: model(images))
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
        (_Branching(), "_Branching cannot be exported to ONNX: .+"),
        (_FixedBatch(), "_FixedBatch cannot be exported with a free batch: .+"),
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
