"""BatchNorm worked into the layer beside it: the values of one linear operator that does the work of both.

Everything is computed in float64 on the CPU and rounded once by whoever uses it: folding in the network's
own precision rounds at every step, which in bfloat16 costs more than the rounding of the weights themselves.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from effvit.model.layers import ConvNorm, NormLinear

BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d | nn.SyncBatchNorm


def can_fold(layer: nn.Module) -> bool:
    """Whether a layer is an operator and a norm that is `scale * x + shift` in eval mode.

    Layer norms depend on the picture, and so do norms without running statistics: nothing to fold.
    """
    if not isinstance(layer, ConvNorm | NormLinear):
        return False
    norm = layer.norm
    return isinstance(norm, BatchNorm) and norm.affine and norm.track_running_stats


def folded(layer: nn.Module) -> tuple[Tensor, Tensor]:
    """Weight and bias, in float64, that do the work of both: conv then norm, or norm then linear.

    Args:
        layer: One that `can_fold`, or a convolution or linear layer with bias, whose own values are returned.
    """
    if isinstance(layer, nn.Conv2d | nn.Linear):
        assert layer.bias is not None
        return exact(layer.weight), exact(layer.bias)
    norm = layer.norm
    assert isinstance(norm, BatchNorm)
    scale, shift = as_affine(norm)
    if isinstance(layer, ConvNorm):
        return exact(layer.conv.weight) * scale[:, None, None, None], shift  # its convolution has no bias of its own
    assert isinstance(layer, NormLinear)
    weight = exact(layer.linear.weight)
    return weight * scale, exact(layer.linear.bias) + weight @ shift


def as_affine(norm: BatchNorm) -> tuple[Tensor, Tensor]:
    """Scale and shift of each channel, in float64: in eval mode BatchNorm is `scale * x + shift`."""
    assert norm.running_mean is not None and norm.running_var is not None
    scale = exact(norm.weight) / (exact(norm.running_var) + norm.eps).sqrt()
    return scale, exact(norm.bias) - exact(norm.running_mean) * scale


def exact(tensor: Tensor) -> Tensor:
    """A copy in float64 on the CPU: not every accelerator has float64, and nothing may share the network's memory."""
    return tensor.detach().to("cpu", torch.float64, copy=True)


def fold_norms(model: nn.Module) -> nn.Module:
    """A copy in eval mode, without gradients, with one operator in place of each of our layers that `can_fold`."""
    result = copy.deepcopy(model).eval().requires_grad_(False)
    result.zero_grad(set_to_none=True)
    operators: dict[nn.Module, nn.Module] = {}  # a module used in two places stays one module
    for name, layer in list(result.named_modules(remove_duplicate=False)):
        if not can_fold(layer):
            continue
        if layer not in operators:
            operators[layer] = _as_operator(layer)
        if name == "":
            return operators[layer]
        result.set_submodule(name, operators[layer])
    return result


def _as_operator(layer: nn.Module) -> nn.Module:
    """The layer's own operator with the folded values, in its own dtype and on its own device."""
    operator = layer.conv if isinstance(layer, ConvNorm) else layer.linear
    assert isinstance(operator, nn.Conv2d | nn.Linear)
    weight, bias = (nn.Parameter(value.to(operator.weight), requires_grad=False) for value in folded(layer))
    operator.weight, operator.bias = weight, bias
    return operator
