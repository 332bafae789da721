"""The deploy form gives the network's maps, and its windows are the same function while sizes are symbols."""

from __future__ import annotations

import pytest
import torch
from helpers import randomise, relative_error

from effvit.deploy.attention import Attention
from effvit.deploy.network import DeployedEfficientViT, Layout
from effvit.deploy.rewrite import rewrite
from effvit.deploy.windows import WindowGrid
from effvit.model.factory import create_model
from effvit.model.network import EfficientViT

TOLERANCE = 1e-12
SIZES = ((97, 130), (144, 240), (64, 64), (32, 300))


class Symbol(int):
    """A number that says it is not known yet, as torch's do while a graph is made."""


@pytest.fixture(scope="module")
def network() -> EfficientViT:
    model = create_model("efficientvit_tiny", num_classes=0)
    randomise(model.double())
    return model.eval()


@pytest.mark.parametrize("layout", ["tokens", "maps"])
@pytest.mark.parametrize("size", SIZES)
@torch.inference_mode()
def test_maps_are_the_networks(network: EfficientViT, layout: Layout, size: tuple[int, int]) -> None:
    deployed = rewrite(network, layout=layout)
    assert isinstance(deployed, DeployedEfficientViT)
    pictures = torch.randn(2, 3, *size, dtype=torch.float64)
    for expected, actual in zip(network.features(pictures), deployed.features(pictures), strict=True):
        assert actual.shape == expected.shape
        assert relative_error(actual, expected) < TOLERANCE
    assert deployed.output_shapes() == network.output_shapes()


@pytest.mark.parametrize("mask_padding", [True, False])
@pytest.mark.parametrize("size", SIZES)
@torch.inference_mode()
def test_windows_of_an_unknown_size_compute_the_same(
    mask_padding: bool, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = create_model("efficientvit_tiny", num_classes=0, mask_padding=mask_padding)
    randomise(model.double()).eval()
    deployed = rewrite(model, layout="maps")
    assert isinstance(deployed, DeployedEfficientViT)
    pictures = torch.randn(1, 3, *size, dtype=torch.float64)
    cut = []

    def grid_of(attention: Attention, x: torch.Tensor) -> WindowGrid:
        height, width = Symbol(x.shape[1]), Symbol(x.shape[2])
        cut.append(grid := WindowGrid(height, width, attention.window, attention.mask_padding))
        return grid

    monkeypatch.setattr(Attention, "grid_of", grid_of)
    for expected, actual in zip(model.features(pictures), deployed.features(pictures), strict=True):
        assert relative_error(actual, expected) < TOLERANCE
    assert cut and not any(grid.is_whole for grid in cut)
