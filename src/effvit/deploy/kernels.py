"""Matrix products over tokens, in the kernel that is fastest where they run.

Weights are (in, out), so that a product reads them as they lie. In eager mode on a CPU, torch hands float32
products to MKL, which on AMD processors leaves half of the vector unit idle; oneDNN, which torch carries for its
convolutions, does not, and applies the activation or the addition in the same pass. It pays about 10 us a call
for that, so small products stay with MKL. What is compiled or exported gets torch's own operators: the
compiler or the runtime chooses for itself.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from effvit.model.config import Activation

ONEDNN_MIN_MACS = 1_000_000
"""Products from this size up go to oneDNN; measured, see docs/performance.md."""

_HAS_ONEDNN: bool = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")  # type: ignore[no-untyped-call]

_IN_PLACE: dict[Activation, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu_,
    "hard_swish": lambda x: F.hardswish(x, inplace=True),
    "gelu": F.gelu,
    "silu": lambda x: F.silu(x, inplace=True),
}


def activate(x: Tensor, activation: Activation) -> Tensor:
    """Apply an activation to a tensor that nobody else needs: its memory is used again where that is possible."""
    return _IN_PLACE[activation](x)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, activation: Activation | None = None) -> Tensor:
    """`activation(x @ weight + bias)`.

    Args:
        x: Tokens, (T, in).
        weight: (in, out).
        bias: (out,), or None for none.
        activation: Name; None for none.

    Returns:
        (T, out).
    """
    if _prefers_onednn(x, weight):
        fused = "relu" if activation == "relu" else "none"
        y = torch.ops.mkldnn._linear_pointwise(x, weight.t(), bias, fused, [], "")
        return y if activation in (None, "relu") else activate(y, activation)
    y = x @ weight if bias is None else torch.addmm(bias, x, weight)
    return y if activation is None else activate(y, activation)


def add_linear(base: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`base + x @ weight + bias`; base, (T, out), is nobody else's and its memory may be used; see `linear`."""
    if _prefers_onednn(x, weight):
        y: Tensor = torch.ops.mkldnn._linear_pointwise.binary(x, base, weight.t(), bias, "add")
        return y
    cast = torch.is_autocast_enabled(x.device.type)  # autocast casts what an operator takes, but not in place
    base = torch.addmm(base, x, weight) if cast else base.addmm_(x, weight)
    return base if bias is None else base.add_(bias)


def _prefers_onednn(x: Tensor, weight: Tensor) -> bool:
    return (
        _HAS_ONEDNN
        and not torch.compiler.is_compiling()
        and not torch._C._is_tracing()  # before any number of a shape is looked at, which tracing warns of
        and x.shape[0] * weight.numel() >= ONEDNN_MIN_MACS
        and x.dtype == torch.float32
        and x.device.type == "cpu"
        and not x.requires_grad
        and not torch.is_autocast_enabled("cpu")
    )
