"""Where the time goes: every operator has its class, and the shares are those of a run."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

import effvit
from effvit.deploy.export import Exported
from effvit.deploy.speed.shares import onnx_shares, torch_shares
from effvit.operators import CLASSES, OTHER, PRODUCTS, SOFTMAX

CPU = torch.device("cpu")


@pytest.mark.parametrize("name", ["efficientvit_tiny", "mobilenetv3_small_050"])
def test_shares_of_torch_are_shares(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    model = (effvit.create_model(name) if name.startswith("eff") else timm.create_model(name)).eval()
    images = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        shares = torch_shares(lambda: model(images), CPU, repeats=2)
    assert sum(shares.values()) == pytest.approx(1)
    assert set(shares) <= set(CLASSES) and shares[PRODUCTS] > shares.get(OTHER, 0)
    assert (SOFTMAX in shares) == name.startswith("eff")
    assert capfd.readouterr() == ("", "")


def test_a_network_of_one_kind_of_operator_has_one_class() -> None:
    with torch.inference_mode():
        shares = torch_shares(lambda: nn.functional.softmax(torch.ones(200, 2000), 1), CPU, repeats=3)
    assert max(shares, key=shares.__getitem__) == SOFTMAX


def test_shares_of_onnx_runtime_are_shares(exported: tuple[Exported, str], capfd: pytest.CaptureFixture[str]) -> None:
    images = torch.randn(2, 3, *exported[0].metadata.preprocessing.image_size)
    shares = onnx_shares(exported[0].path, images, num_threads=1, repeats=2)
    assert sum(shares.values()) == pytest.approx(1)
    assert shares[PRODUCTS] > 0.1 and SOFTMAX in shares
    assert capfd.readouterr() == ("", "")
