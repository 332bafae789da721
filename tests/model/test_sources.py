"""From whatever a person names to a network, and how to feed it."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from helpers import randomise
from torch import nn

import effvit
from effvit.errors import ConfigError, WeightsError
from effvit.model.checkpoints import WeightsInfo
from effvit.model.network import EfficientViT
from effvit.model.side_by_side import find_models
from effvit.model.sources import find_model

FACTORY = """
from torch import nn
def tiny():
    return nn.Sequential(nn.Conv2d(3, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
def broken():
    raise ValueError("no such thing")
def number():
    return 3
"""
UNREADABLE = "def tiny(:"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "my_own_networks.py").write_text(FACTORY)
    (tmp_path / "my_broken_networks.py").write_text(UNREADABLE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("name", ["timm:resnet10t", "timm/resnet10t", "resnet10t"])
def test_timms_networks_by_any_of_three_names(name: str) -> None:
    found = find_model(name, image_size=(64, 96), num_classes=5)
    assert (found.label, found.input_size, found.weights) == (name, (3, 64, 96), "random")
    assert found.network.eval()(torch.zeros(1, 3, 64, 96)).shape == (1, 5)
    assert found.preprocessing.image_size == (64, 96) and found.preprocessing.crop_ratio == 0.95  # timm's own


def test_a_shared_name_is_ours_and_timms_is_asked_for() -> None:
    assert isinstance(find_model("efficientvit_m0").network, EfficientViT)
    theirs = find_model("timm:efficientvit_m0")
    assert isinstance(theirs.network, timm.models.EfficientVitMsra) and theirs.is_random


def test_a_folder_brings_weights_names_and_size(tmp_path: Path) -> None:
    model = randomise(effvit.create_model("efficientvit_tiny", num_classes=2, image_size=64)).eval()
    effvit.save(tmp_path / "weights", model, WeightsInfo(class_names=("cat", "dog")))
    found = find_model(tmp_path / "weights")
    assert found.class_names == ("cat", "dog")
    images = torch.randn(2, 3, 64, 64)
    assert torch.equal(found.network.eval()(images), model(images))
    assert found.weights == found.label == "weights" and not found.is_random
    assert find_model(tmp_path / "weights", image_size=(96, 64)).input_size == (3, 96, 64)
    with pytest.raises(ConfigError, match=r"^weights random cannot be given for .*weights, which has its own$"):
        find_model(tmp_path / "weights", weights="random")


def test_weights_of_a_file(tmp_path: Path) -> None:
    trained = randomise(timm.create_model("resnet10t", num_classes=3)).eval()
    torch.save(trained.state_dict(), tmp_path / "trained.pth")
    found = find_model("timm:resnet10t", weights=tmp_path / "trained.pth", num_classes=3)
    images = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(found.network.eval()(images), trained(images))
    assert found.weights == "trained.pth"
    with pytest.raises(WeightsError, match=r"no weights at .*nothing.pth: no such file"):
        find_model("timm:resnet10t", weights=tmp_path / "nothing.pth")


def test_a_function_of_ones_own(here: Path) -> None:
    found = find_model("my_own_networks:tiny", image_size=(8, 9))
    assert (found.label, found.input_size, found.weights) == ("my_own_networks:tiny", (3, 8, 9), "given")
    assert found.network(torch.zeros(1, 3, 8, 9)).shape == (1, 2)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("my_own_networks:broken", r"^my_own_networks:broken\(\) failed: ValueError: no such thing$"),
        ("my_own_networks:number", r"^my_own_networks:number\(\) gave int, not a torch.nn.Module$"),
        ("my_own_networks:nothing", r"^cannot get my_own_networks:nothing \(.*has no attribute 'nothing'.*module.path"),
        ("my_broken_networks:tiny", r"^my_broken_networks cannot be imported: SyntaxError: "),
        ("no_such_module:tiny", r"^cannot get no_such_module:tiny \(No module named 'no_such_module'\)"),
        ("timm:resnet10x", r"^unknown model 'timm:resnet10x'; nearest: resnet10t"),
        ("torchvision:squeezenet", r"^torchvision has no classifier 'squeezenet'; nearest: "),
        ("efficientvit_m9", r"^unknown model 'efficientvit_m9'; nearest: efficientvit_m"),
    ],
)
def test_what_is_not_there_is_one_line(name: str, message: str, here: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        find_model(name)


def test_how_pictures_are_prepared_is_asked_only_where_there_are_some() -> None:
    with torch.device("meta"):
        with pytest.raises(ConfigError, match="^timm:dm_nfnet_f0 wants crop mode 'squash'"):
            find_model("timm:dm_nfnet_f0")
        (found,) = find_models(["timm:dm_nfnet_f0"])
    assert found.input_size == (3, 192, 192)


def test_a_size_that_does_not_fit_is_one_line() -> None:
    with pytest.raises(ConfigError, match=r"^this network does not take pictures of 3 x 64: "):
        find_model("timm:vit_tiny_patch16_224", image_size=(3, 64))


def test_torchvisions_and_a_network_itself() -> None:
    found = find_model("torchvision:squeezenet1_1", num_classes=4, image_size=(64, 64))
    assert found.network.eval()(torch.zeros(1, 3, 64, 64)).shape == (1, 4)
    network = nn.Conv2d(3, 1, 1)
    assert find_model(network).network is network and find_model(network).label == "Conv2d"
