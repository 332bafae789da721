"""A file that takes pixels answers exactly as the normal path does from the same pixels."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from effvit.data.transforms import normalize
from effvit.deploy.pixels import FromPixels, in_half, to_pixels
from effvit.deploy.rewrite import rewrite
from effvit.model.network import EfficientViT
from effvit.preprocessing import Preprocessing

PREPROCESSING = Preprocessing(image_size=(64, 80), mean=(0.485, 0.123, 0.999), std=(0.229, 1 / 3, 0.017))


def pixels(count: int = 2) -> Tensor:
    return torch.randint(0, 256, (count, 64, 80, 3), dtype=torch.uint8)


class _Double(nn.Module):
    """Carries float32 on in float64, so that nothing is rounded after the normalisation."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images.double())
        return logits


def test_it_is_the_normal_path_exactly(network: EfficientViT) -> None:
    deployed = _Double(rewrite(network)).eval()
    taken = pixels()
    images = normalize(taken.permute(0, 3, 1, 2), PREPROCESSING)
    with torch.inference_mode():
        assert torch.equal(FromPixels(deployed, PREPROCESSING)(taken), deployed(images))


@pytest.mark.parametrize("wrong", ["mean", "std", "order"])
def test_a_wrong_normalisation_would_be_seen(wrong: str, network: EfficientViT) -> None:
    deployed = _Double(rewrite(network)).eval()
    taken = pixels()
    images = normalize(taken.permute(0, 3, 1, 2), PREPROCESSING)
    model = FromPixels(deployed, PREPROCESSING)
    if wrong == "mean":
        model.mean[0, 0] += 1e-3
    elif wrong == "std":
        model.std[0, 2] *= 1.00001
    else:
        taken = taken.flip(3)
    with torch.inference_mode():
        assert not torch.equal(model(taken), deployed(images))


@pytest.mark.parametrize("preprocessing", [PREPROCESSING, Preprocessing(), Preprocessing(mean=(0.5,), std=(1e-3,))])
def test_every_pixel_value_comes_back_from_its_normalised_one(preprocessing: Preprocessing) -> None:
    channels = len(preprocessing.mean)
    values = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(3, channels, 16, 16)
    back = to_pixels(normalize(values, preprocessing), preprocessing)
    assert back.dtype == torch.uint8 and back.shape == (3, 16, 16, channels) and back.is_contiguous()
    assert torch.equal(back, values.permute(0, 2, 3, 1))


def test_what_was_never_a_pixel_becomes_the_nearest() -> None:
    one = Preprocessing(mean=(0.0,), std=(1.0,))
    images = torch.tensor([-7.0, 0.4 / 255, 0.6 / 255, 254.6 / 255, 99.0]).view(1, 1, 1, 5)
    assert to_pixels(images, one).flatten().tolist() == [0, 0, 1, 255, 255]


def test_half_precision_is_in_the_network_alone(network: EfficientViT) -> None:
    single = copy.deepcopy(rewrite(network)).float()
    plain, behind = in_half(single), in_half(FromPixels(single, PREPROCESSING))
    assert all(p.dtype == torch.float32 for p in single.parameters()), "the given network is left as it was"
    assert isinstance(behind, FromPixels) and behind.mean.dtype == torch.float32
    assert {value.dtype for value in behind.network.state_dict().values() if value.is_floating_point()} == {
        torch.float16
    }
    assert not any(module.training for module in behind.modules())
    taken = pixels()
    images = normalize(taken.permute(0, 3, 1, 2), PREPROCESSING)
    with torch.inference_mode():
        exact, half = single(images), plain(images)
        assert half.dtype == torch.float32
        assert torch.equal(behind(taken), half)
        assert 1e-6 < (half - exact).abs().max() / exact.abs().max() < 1e-2
