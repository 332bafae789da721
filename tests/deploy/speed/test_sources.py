"""From whatever a person names to something that can take part."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path

import pytest
import timm
import torch
from helpers import randomise
from timm.models import EfficientVitMsra
from torch import nn

import effvit
from effvit.deploy.export import Exported
from effvit.deploy.runtimes import OnnxModel
from effvit.deploy.speed import sources
from effvit.deploy.speed.sources import find_entrant
from effvit.errors import ConfigError, WeightsError
from effvit.model.network import EfficientViT


def test_a_variant_is_ours_and_timms_is_asked_for_by_prefix() -> None:
    ours, theirs = find_entrant("efficientvit_m0"), find_entrant("timm/efficientvit_m0")
    assert isinstance(ours.network, EfficientViT) and isinstance(theirs.network, EfficientVitMsra)
    assert (ours.label, theirs.label) == ("efficientvit_m0", "timm/efficientvit_m0")
    assert ours.num_params == theirs.num_params == 2_349_436
    assert ours.is_random and theirs.is_random and ours.form == "best"


def test_a_name_may_say_its_form() -> None:
    entrant = find_entrant("timm/efficientvit_m0@plain", form="best")
    assert (entrant.label, entrant.form) == ("timm/efficientvit_m0@plain", "plain")
    assert find_entrant("efficientvit_tiny", form="maps").form == "maps"
    with pytest.raises(ConfigError, match=r"unknown form 'plian' \(did you mean 'plain'\?\); known: best, plain"):
        find_entrant("efficientvit_m0@plian")


def test_the_size_is_the_models_own_or_what_is_asked_for() -> None:
    assert find_entrant("efficientvit_tiny", image_size=(64, 96)).input_size == (3, 64, 96)
    assert find_entrant("mobilevit_xxs").input_size == (3, 256, 256)
    positions = find_entrant("timm/vit_tiny_patch16_224", image_size=(64, 96))  # has a table of positions
    assert positions.network is not None
    assert positions.network.eval()(torch.zeros(1, 3, 64, 96)).shape == (1, 1000)


def test_a_folder_of_weights_comes_with_its_weights(tmp_path: Path) -> None:
    model = randomise(effvit.create_model("efficientvit_tiny", num_classes=4, image_size=64)).eval()
    effvit.save(tmp_path / "photos@home" / "weights", model)
    entrant = find_entrant(str(tmp_path / "photos@home"))
    assert entrant.label == "photos@home"  # no path of this machine, and no form either
    assert entrant.input_size == (3, 64, 64) and not entrant.is_random
    images = torch.randn(2, 3, 64, 64)
    assert entrant.network is not None
    assert torch.equal(entrant.network.eval()(images), model(images))


def test_a_model_is_taken_as_it_is() -> None:
    model = timm.create_model("efficientvit_m0").train()
    entrant = find_entrant(model)
    assert entrant.network is model and model.training and not entrant.is_random
    assert find_entrant(nn.Sequential()).label == "Sequential"


def test_a_file_is_not_held_open(exported: tuple[Exported, str], monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[weakref.ref[OnnxModel]] = []

    def open_file(path: Path) -> OnnxModel:
        model = OnnxModel(path)
        opened.append(weakref.ref(model))
        return model

    monkeypatch.setattr(sources, "open_file", open_file)
    entrant = find_entrant(exported[0].path)
    assert entrant.file == exported[0].path and entrant.precision == "fp32"
    gc.collect()
    assert [model() for model in opened] == [None]


def test_a_file_tells_what_it_takes(exported: tuple[Exported, str]) -> None:
    path = exported[0].path
    for source in (path, str(path), OnnxModel(path)):
        entrant = find_entrant(source)
        assert (entrant.label, entrant.input_size, entrant.network) == ("tiny", (3, 160, 272), None)
    with pytest.raises(ConfigError, match=r"^tiny\.onnx is an exported file, which has one form only; got 'plain'$"):
        find_entrant(f"{path}@plain")
    with pytest.raises(ConfigError, match=r"tiny\.onnx takes pictures of 160 x 272 only, got \(224, 224\)"):
        find_entrant(path, image_size=(224, 224))


@pytest.mark.parametrize(
    ("name", "near"),
    [("efficientvit_m9", "efficientvit_m"), ("mobilenetv3_larg_100", "mobilenetv3_large_100")],
)
def test_an_unknown_name_points_at_the_nearest_of_both(name: str, near: str) -> None:
    with pytest.raises(ConfigError, match=f"^unknown model '{name}'; nearest: .*{near}.*; known: efficientvit_m0, .*"):
        find_entrant(name)


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"no such file: .*missing\.onnx"):
        find_entrant(tmp_path / "missing.onnx")
    with pytest.raises(WeightsError, match="no weights in folder"):
        find_entrant(tmp_path)
    with pytest.raises(ConfigError, match="unknown model '.*/nothing'; known: "):
        find_entrant(tmp_path / "nothing")
