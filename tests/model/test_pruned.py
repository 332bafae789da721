"""A pruned network of timm's modules is saved as a folder, which opens as any other name does."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers import randomise
from torch import nn

from effvit.errors import ConfigError, WeightsError
from effvit.model.narrow import narrow
from effvit.model.pruned import read_pruned, save_pruned
from effvit.model.sources import find_model
from effvit.preprocessing import Preprocessing

DEIT = """
import timm
def make():
    return timm.create_model("deit_tiny_patch16_224", img_size=32, depth=2, embed_dim=24, num_heads=3, num_classes=4)
"""
SHAPES = {"blocks.0.attn": {"key_dim": 4, "value_dim": 5}, "blocks.1.mlp": {"hidden_dim": 7}}
PREPROCESSING = Preprocessing(image_size=(32, 32))


@pytest.fixture
def pruned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    """A pruned network, in the folder out/weights as `effvit analyze prune --output out` leaves it."""
    (tmp_path / "own_networks.py").write_text(DEIT)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "own_networks", raising=False)
    network = randomise(narrow(find_model("own_networks:make").network, SHAPES), 3).eval()
    save_pruned(
        "out/weights", network, source="own_networks:make", image_size=(32, 32), preprocessing=PREPROCESSING,
        class_names=list("abcd"),
    )  # fmt: skip
    return network


@pytest.mark.parametrize("folder", ["out", "out/weights"])
def test_saved_and_found_again(folder: str, pruned: nn.Module) -> None:
    found = find_model(folder)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(found.network(images), pruned(images))
    assert (found.class_names, found.preprocessing, found.weights) == (tuple("abcd"), PREPROCESSING, "weights")
    assert found.label == "own_networks:make pruned" and found.input_size == (3, 32, 32) and not found.is_random
    with pytest.raises(ConfigError, match="weights random cannot be given for out.*, which has its own"):
        find_model(folder, weights="random")


def test_another_size(pruned: nn.Module) -> None:
    found = find_model("out", image_size=(48, 64))
    assert found.input_size == (3, 48, 64) and found.preprocessing.image_size == (48, 64)
    assert found.network(torch.zeros(1, 3, 48, 64)).shape == (1, 4)


def test_a_source_that_has_changed_is_said(pruned: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("own_networks.py").write_text("import torch\ndef make():\n    return torch.nn.Linear(2, 2)\n")
    monkeypatch.delitem(__import__("sys").modules, "own_networks")
    with pytest.raises(WeightsError, match="weights does not hold a pruned own_networks:make: these shapes are for an"):
        find_model("out")


def test_folders_of_something_else_are_refused(tmp_path: Path) -> None:
    assert read_pruned(tmp_path) is None
    (tmp_path / "pruned.json").write_text("[]")
    with pytest.raises(WeightsError, match="pruned.json does not describe a pruned network"):
        find_model(tmp_path)
    (tmp_path / "pruned.json").write_text('{"format": "effvit-pruned/1"}')
    with pytest.raises(WeightsError, match="does not hold a pruned network: 'image_size'"):
        find_model(tmp_path)
