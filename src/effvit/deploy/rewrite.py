"""From the network people train to the form that is exported and timed: same function, fewer operators.

The result is a new module on the same device and in the same dtype; the network is never touched.
Everything is folded in float64 and rounded once: folding in the network's own precision rounds at
every step, which in bfloat16 costs more than the rounding of the weights themselves.
"""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
from torch import Tensor, nn

from effvit.model.layers import ConvNorm, NormLinear
from effvit.model.network import EfficientViT

BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d


def rewrite(model: nn.Module) -> nn.Module:
    """Fold every BatchNorm into the convolution or linear layer beside it, in a copy.

    Args:
        model: Any module with `ConvNorm` or `NormLinear` in it, or one of them. Layer norms stay: they
            depend on the picture, so there is nothing to fold.

    Returns:
        A new module in eval mode without gradients. Each folded `ConvNorm` is one `nn.Conv2d` with bias and
        each folded `NormLinear` one `nn.Linear`; two heads trained by distillation are one, their average.
    """
    deployed = copy.deepcopy(model).eval().requires_grad_(False)
    deployed.zero_grad(set_to_none=True)
    for module in deployed.modules():
        if isinstance(module, EfficientViT):
            _average_heads(module)
    folded: dict[nn.Module, nn.Module] = {}  # a module used in two places stays one module
    for name, module in list(deployed.named_modules(remove_duplicate=False)):
        parts = _foldable_parts(module)
        if parts is None:
            continue
        if module not in folded:
            folded[module] = _fold(*parts)
        if name == "":
            return folded[module]
        deployed.set_submodule(name, folded[module])
    return deployed


def _average_heads(network: EfficientViT) -> None:
    """Replace the two heads of a distilled network by the one linear layer that gives their mean."""
    if network.head_distilled is None:
        return
    first, second = _foldable_parts(network.head), _foldable_parts(network.head_distilled)
    if first is None or second is None:
        return
    (weight, bias), (other_weight, other_bias) = _folded_values(*first), _folded_values(*second)
    network.head, network.head_distilled = first[0], None
    _set(first[0], (weight + other_weight) / 2, (bias + other_bias) / 2)
    network.config = replace(network.config, distilled=False)


def _foldable_parts(module: nn.Module) -> tuple[nn.Conv2d | nn.Linear, BatchNorm] | None:
    """Linear operator and norm of a layer, if the norm is `scale * x + shift` in eval mode; else None."""
    if not isinstance(module, ConvNorm | NormLinear):
        return None
    operator = module.conv if isinstance(module, ConvNorm) else module.linear
    norm = module.norm
    if isinstance(norm, BatchNorm) and norm.affine and norm.track_running_stats:
        assert isinstance(operator, nn.Conv2d | nn.Linear)
        return operator, norm
    return None


def _fold(operator: nn.Conv2d | nn.Linear, norm: BatchNorm) -> nn.Module:
    """The operator itself, with the norm worked into its values."""
    _set(operator, *_folded_values(operator, norm))
    return operator


def _folded_values(operator: nn.Conv2d | nn.Linear, norm: BatchNorm) -> tuple[Tensor, Tensor]:
    """Weight and bias, in float64, that do the work of both: conv then norm, or norm then linear."""
    scale, shift = _as_affine(norm)
    weight = _exact(operator.weight)
    if isinstance(operator, nn.Conv2d):
        return weight * scale[:, None, None, None], shift  # a ConvNorm's convolution has no bias of its own
    return weight * scale, _exact(operator.bias) + weight @ shift


def _as_affine(norm: BatchNorm) -> tuple[Tensor, Tensor]:
    """Scale and shift of each channel, in float64: in eval mode BatchNorm is `scale * x + shift`."""
    assert norm.running_mean is not None and norm.running_var is not None
    scale = _exact(norm.weight) / (_exact(norm.running_var) + norm.eps).sqrt()
    return scale, _exact(norm.bias) - _exact(norm.running_mean) * scale


def _exact(tensor: Tensor) -> Tensor:
    """In float64 on the CPU: not every accelerator has float64."""
    return tensor.detach().to("cpu", torch.float64)


def _set(layer: nn.Conv2d | nn.Linear, weight: Tensor, bias: Tensor) -> None:
    """Give a layer new values, in its own dtype and on its own device."""
    layer.weight, layer.bias = (nn.Parameter(value.to(layer.weight), requires_grad=False) for value in (weight, bias))
