"""Both kernels of a product give the same, and only eager float32 on a CPU gets the second one."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from helpers import relative_error
from torch import Tensor

from effvit.deploy import kernels
from effvit.deploy.kernels import add_linear, linear
from effvit.model.config import Activation

REFERENCE: dict[Activation | None, Callable[[Tensor], Tensor]] = {
    None: lambda x: x,
    "relu": F.relu,
    "hard_swish": F.hardswish,
    "gelu": F.gelu,
    "silu": F.silu,
}


@pytest.fixture(params=[0, 10**12], ids=["oneDNN", "MKL"])
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Every product to one kernel, whatever its size."""
    monkeypatch.setattr(kernels, "ONEDNN_MIN_MACS", request.param)
    return int(request.param)


def values(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Tokens that are a slice of wider ones, as a head's are, weight, bias and a base to add to."""
    generator = torch.Generator().manual_seed(0)
    shapes = ((40, 48), (24, 32), (32,), (40, 32))
    x, weight, bias, base = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)
    return x.to(dtype)[:, 12:36], weight.to(dtype), bias.to(dtype), base.to(dtype)


@pytest.mark.parametrize("activation", REFERENCE)
@pytest.mark.parametrize("with_bias", [True, False])
def test_linear(kernel: int, activation: Activation | None, with_bias: bool) -> None:
    x, weight, bias, _ = values()
    before = x.clone()
    expected = x.double() @ weight.double() + (bias.double() if with_bias else 0)
    with torch.inference_mode():
        actual = linear(x, weight, bias if with_bias else None, activation)
    assert relative_error(actual, REFERENCE[activation](expected)) < 1e-6
    assert torch.equal(x, before)


@pytest.mark.parametrize("with_bias", [True, False])
def test_add_linear(kernel: int, with_bias: bool) -> None:
    x, weight, bias, base = values()
    expected = base.double() + x.double() @ weight.double() + (bias.double() if with_bias else 0)
    with torch.inference_mode():
        assert relative_error(add_linear(base.clone(), x, weight, bias if with_bias else None), expected) < 1e-6


@pytest.mark.filterwarnings("ignore:.torch.jit.trace. is deprecated:FutureWarning")
def test_only_large_float32_products_in_eager_mode_go_to_onednn(monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight, _, _ = values()
    monkeypatch.setattr(kernels, "ONEDNN_MIN_MACS", x.shape[0] * weight.numel())
    assert kernels._prefers_onednn(x, weight)
    assert not kernels._prefers_onednn(x[1:], weight)
    assert not kernels._prefers_onednn(x.double(), weight.double())
    assert not kernels._prefers_onednn(x.clone().requires_grad_(), weight)
    seen = []

    def function(x: Tensor) -> Tensor:
        seen.append(kernels._prefers_onednn(x, weight))
        return linear(x, weight, None)

    torch.export.export(_Module(function), (x,))
    torch.jit.trace(function, (x,), check_trace=False)
    assert seen and not any(seen)


class _Module(torch.nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)
