"""The official code's outputs and gradients, and timm's network, reproduced."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from helpers import randomise, relative_error
from official import reference_values, write_official
from torch import Tensor, nn

import effvit
from effvit.model.checkpoints import foreign_state_dict

PAPER = [name for name in effvit.list_variants() if name != "efficientvit_tiny"]


@pytest.fixture(scope="session")
def values(data_dir: Path) -> ModuleType:
    return reference_values(data_dir)


@pytest.fixture
def reference(data_dir: Path, values: ModuleType, tmp_path: Path):
    """Build a network through the reader of official checkpoints: (key of the name list, arguments) -> network."""

    def build(key: str, variant: str, **arguments: object) -> nn.Module:
        path = write_official(tmp_path / "official.pth", data_dir, values, key)
        torch.set_default_dtype(torch.float64)
        try:
            return effvit.create_model(variant, weights=path, **arguments).eval()
        finally:
            torch.set_default_dtype(torch.float32)

    return build


def stage_maps(model: nn.Module, x: Tensor) -> list[Tensor]:
    return [model.stem(x), *model.features(x)]


@pytest.mark.parametrize("size", [0, 2, 5])
def test_logits_and_stage_statistics(size: int, reference, values: ModuleType, data_dir: Path) -> None:
    expected = np.load(data_dir / "reference" / f"official_m{size}_224.npz")
    model = reference(f"m{size}", f"efficientvit_m{size}")
    x = torch.from_numpy(values.image(2, 224, 224, seed=size))
    with torch.no_grad():
        assert relative_error(model(x), torch.from_numpy(expected["logits"])) < 1e-9
        for index, features in enumerate(stage_maps(model, x)):
            mean, std = features.mean((2, 3)), features.std((2, 3))
            assert relative_error(mean, torch.from_numpy(expected[f"stage{index}_mean"])) < 1e-9
            assert relative_error(std, torch.from_numpy(expected[f"stage{index}_std"])) < 1e-9


def test_distilled_head(reference, values: ModuleType, data_dir: Path) -> None:
    expected = np.load(data_dir / "reference" / "official_m4_distilled_37.npz")
    model = reference("m4_distilled_37", "efficientvit_m4", distilled=True, num_classes=37)
    with torch.no_grad():
        logits = model(torch.from_numpy(values.image(2, 224, 224, seed=4)))
    assert relative_error(logits, torch.from_numpy(expected["logits"])) < 1e-9


@pytest.mark.parametrize("size", [0, 5])
def test_loss_and_gradients_in_training(size: int, reference, values: ModuleType, data_dir: Path) -> None:
    expected = json.loads((data_dir / "reference" / f"official_m{size}_train_step.json").read_text())
    model = reference(f"m{size}", f"efficientvit_m{size}", num_classes=10).train()
    # Ten classes: the reader replaces the head of the thousand, so it is filled like the rest.
    own = foreign_state_dict(model, "official")
    with torch.no_grad():
        for name in ("head.bn.weight", "head.bn.bias", "head.l.weight", "head.l.bias"):
            own[name].copy_(torch.from_numpy(values.value(name, tuple(own[name].shape))))
    loss = F.cross_entropy(
        model(torch.from_numpy(values.image(4, 224, 224, seed=100 + size))), torch.tensor([1, 3, 5, 9])
    )
    loss.backward()
    assert loss.item() == pytest.approx(expected["loss"], rel=1e-9)
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    names = {name: foreign for name, foreign in official_names(model).items() if name in gradients}
    assert set(names.values()) == set(expected["grad_norm"])
    for name, foreign in names.items():
        gradient = gradients[name]
        assert gradient is not None, name
        assert gradient.norm().item() == pytest.approx(expected["grad_norm"][foreign], rel=1e-8, abs=1e-10), name


def official_names(model: nn.Module) -> dict[str, str]:
    from effvit.model.names import foreign_names

    return foreign_names(model.state_dict(), "official", model.config)


@pytest.mark.parametrize(
    ("key", "variant", "height", "width", "seed"),
    [("m4_backbone", "efficientvit_m4", 416, 608, 204), ("m5_backbone", "efficientvit_m5", 448, 448, 205)],
)
def test_detection_feature_maps(
    key: str, variant: str, height: int, width: int, seed: int, reference, values: ModuleType, data_dir: Path
) -> None:
    expected = np.load(data_dir / "reference" / f"official_{key}_{height}x{width}.npz")
    model = reference(key, variant, num_classes=0, image_size=448, mask_padding=False)
    with torch.no_grad():
        maps = model.features(torch.from_numpy(values.image(1, height, width, seed=seed)))
    for features, (channels, stride) in zip(maps, model.output_shapes(), strict=True):
        reference_map = torch.from_numpy(expected[f"stride{stride}"]).double()
        assert features.shape[1] == channels
        assert relative_error(features, reference_map) < 1e-5


def test_masked_padding_is_not_the_official_behaviour(reference, values: ModuleType) -> None:
    arguments = {"num_classes": 0, "image_size": 448}
    x = torch.from_numpy(values.image(1, 416, 608, seed=204))
    with torch.no_grad():
        official = reference("m4_backbone", "efficientvit_m4", mask_padding=False, **arguments).features(x)
        masked = reference("m4_backbone", "efficientvit_m4", **arguments).features(x)
    assert all(relative_error(a, b) > 1e-3 for a, b in zip(masked, official, strict=True))


@pytest.mark.parametrize("variant", PAPER)
def test_timm_with_the_same_weights(variant: str) -> None:
    theirs = randomise(timm.create_model(variant).double()).eval()
    ours = effvit.create_model(variant).double().eval()
    names = {foreign: name for name, foreign in timm_names(ours).items()}
    ours.load_state_dict({names[name]: value for name, value in theirs.state_dict().items()})
    x = torch.randn(2, 3, 224, 224, dtype=torch.float64)
    with torch.no_grad():
        assert relative_error(ours(x), theirs(x)) < 1e-10


def timm_names(model: nn.Module) -> dict[str, str]:
    from effvit.model.names import foreign_names

    return foreign_names(model.state_dict(), "timm", model.config)
