"""From whatever a person names to something that can be timed, each in its own best form."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from helpers import randomise, relative_error
from timm.models import EfficientVitMsra
from torch import nn

import effvit
from effvit.deploy.candidates import find_candidate
from effvit.deploy.export import Exported
from effvit.deploy.runtimes import OnnxModel
from effvit.errors import ConfigError, ExportError, WeightsError
from effvit.model.network import EfficientViT


def has_batch_norm(model: object) -> bool:
    return any(isinstance(m, nn.BatchNorm2d) for m in model.modules())  # type: ignore[attr-defined]


def test_a_variant_comes_in_its_deploy_form() -> None:
    candidate = find_candidate("efficientvit_tiny", image_size=(64, 96))
    assert (candidate.label, candidate.form, candidate.runtime) == ("efficientvit_tiny", "rewritten", "torch")
    assert candidate.input_size == (3, 64, 96)
    assert isinstance(candidate.call, EfficientViT)
    assert candidate.call.config.image_size == (64, 96)
    assert not has_batch_norm(candidate.call) and not candidate.call.training
    original = effvit.create_model("efficientvit_tiny", image_size=(64, 96))
    assert candidate.num_params == sum(p.numel() for p in original.parameters())  # as published, not as folded


def test_timms_model_of_the_same_name_is_asked_for_by_prefix() -> None:
    candidate = find_candidate("timm/efficientvit_m0")
    assert isinstance(candidate.call, EfficientVitMsra)
    assert candidate.form == "reparameterized by timm"
    assert not has_batch_norm(candidate.call) and not candidate.call.training
    assert candidate.label == "timm/efficientvit_m0"
    assert candidate.num_params == 2_349_436
    assert isinstance(find_candidate("efficientvit_m0").call, EfficientViT)


def test_a_timm_model_keeps_its_own_size_and_adapts_to_another() -> None:
    assert find_candidate("mobilevit_xxs").input_size == (3, 256, 256)
    positions = find_candidate("timm/vit_tiny_patch16_224", image_size=(64, 96))  # has a table of positions
    assert positions.call(torch.zeros(1, 3, 64, 96)).shape == (1, 1000)


def test_a_folder_of_weights_comes_with_its_weights(tmp_path: Path) -> None:
    model = randomise(effvit.create_model("efficientvit_tiny", num_classes=4, image_size=64)).eval()
    effvit.save(tmp_path / "photos" / "weights", model)
    candidate = find_candidate(tmp_path / "photos")
    assert candidate.label == "photos"  # no path of this machine
    assert candidate.input_size == (3, 64, 64)
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        assert relative_error(candidate.call(images), model(images)) < 1e-5


def test_a_model_is_taken_as_it_is_and_left_as_it_was() -> None:
    model = timm.create_model("efficientvit_m0").train()
    structure = str(model)
    candidate = find_candidate(model)
    assert model.training and str(model) == structure
    assert isinstance(candidate.call, nn.Module) and not candidate.call.training
    assert candidate.form == "reparameterized by timm"
    plain = find_candidate(nn.Sequential(nn.Conv2d(3, 4, 3)).train())
    assert plain.form == "as it is" and plain.label == "Sequential"


def test_an_exported_file_stays_in_its_runtime(exported: tuple[Exported, str]) -> None:
    path = exported[0].path
    for source in (path, str(path), OnnxModel(path)):
        candidate = find_candidate(source, num_threads=1)
        assert (candidate.label, candidate.form, candidate.runtime) == ("tiny", "exported file", "onnxruntime")
        assert candidate.input_size == (3, 160, 272)
        assert candidate.call(torch.zeros(1, 3, 160, 272)).shape == (1, 5)
    with pytest.raises(ConfigError, match=r"tiny\.onnx takes pictures of 160 x 272 only, got \(224, 224\)"):
        find_candidate(path, image_size=(224, 224))
    with pytest.raises(ConfigError, match=r"tiny\.onnx runs on the CPU only, got device cuda"):
        find_candidate(path, device="cuda")


def test_models_are_brought_into_a_runtime() -> None:
    candidate = find_candidate("efficientvit_tiny", runtime="onnxruntime", image_size=(32, 32), num_threads=1)
    assert (candidate.form, candidate.runtime) == ("rewritten, exported", "onnxruntime")
    assert isinstance(candidate.call, OnnxModel)
    assert candidate.call(torch.zeros(3, 3, 32, 32)).shape == (3, 1000)
    assert not candidate.call.path.exists()  # nothing is left lying about


def test_what_cannot_be_brought_into_a_runtime_is_named() -> None:
    with pytest.raises(ExportError, match="^Flatten in onnxruntime: Flatten must answer"):
        find_candidate(nn.Flatten(2), runtime="onnxruntime")
    with pytest.raises(ConfigError, match="onnxruntime runs on the CPU only here, got device cuda"):
        find_candidate("efficientvit_tiny", runtime="onnxruntime", device="cuda")
    with pytest.raises(ConfigError, match="unknown runtime 'tensorrt'; known: torch, onnxruntime"):
        find_candidate("efficientvit_tiny", runtime="tensorrt")


@pytest.mark.parametrize(
    ("name", "near"),
    [("efficientvit_m9", "efficientvit_m"), ("mobilenetv3_larg_100", "mobilenetv3_large_100")],
)
def test_an_unknown_name_points_at_the_nearest_of_both(name: str, near: str) -> None:
    with pytest.raises(ConfigError, match=f"^unknown model '{name}'; nearest: .*{near}.*; known: efficientvit_m0, .*"):
        find_candidate(name)


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"no such file: .*missing\.onnx"):
        find_candidate(tmp_path / "missing.onnx")
    with pytest.raises(WeightsError, match="no weights in folder"):
        find_candidate(tmp_path)
    with pytest.raises(ConfigError, match="unknown model '.*/nothing'; known: "):
        find_candidate(tmp_path / "nothing")
