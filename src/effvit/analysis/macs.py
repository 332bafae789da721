"""Multiply-accumulates of every operator that multiplies tensors with each other, from its arguments.

A multiply-accumulate (MAC) is one multiplication whose result is added to a sum; `torch.utils.flop_counter` counts each
twice, as two operations. Padding counts as if it were multiplied, a mask in attention as if it were not there: the
definition that the paper, torch and fvcore share. What has no formula here and is not known to multiply nothing is
`unknown`: it is reported, never taken for free.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from effvit.operators import ELEMENTWISE, MOVEMENT, NORMS, SOFTMAX, class_of

Arguments = Mapping[str, Any]
"""Arguments of an operator by the names of its schema, defaults left out."""


class Products(NamedTuple):
    """What an operator multiplies."""

    num_macs: int
    """Multiply-accumulates."""
    num_activations: int
    """Elements of the products' results, those of the logits inside fused attention included."""


ATTENTION = "aten::scaled_dot_product_attention"
"""Fused attention under one name, whichever kernel a device has for it."""


def _matrices(left: str, right: str) -> Callable[[Arguments, Tensor], Products]:
    """Of (..., M, K) and (..., K, N), or a vector in the place of the last: each element of the left meets N others."""

    def formula(arguments: Arguments, out: Tensor) -> Products:
        second = arguments[right]
        columns = second.shape[-1] if second.dim() > 1 else 1
        return Products(arguments[left].numel() * columns, out.numel())

    return formula


def _linear(left: str, right: str) -> Callable[[Arguments, Tensor], Products]:
    """Of (..., K) and a weight (N, K)."""

    def formula(arguments: Arguments, out: Tensor) -> Products:
        return Products(arguments[left].numel() * arguments[right].shape[0], out.numel())

    return formula


def _convolution(arguments: Arguments, out: Tensor) -> Products:
    """Every weight is used once at each position: of the output, or of the input where the convolution is transposed.

    Groups need no care: a weight is (C_out, C_in / groups, ...), or (C_in, C_out / groups, ...) transposed.
    """
    source = next(arguments[name] for name in ("input", "X", "self") if name in arguments)
    weight = arguments["weight"] if "weight" in arguments else arguments["W"]
    positions = (source if arguments.get("transposed", False) else out).shape[2:]
    return Products(source.shape[0] * math.prod(positions) * weight.numel(), out.numel())


def _attention(arguments: Arguments, out: Tensor) -> Products:
    """Logits and weighted sum: (..., L, E) x (..., S, E), then (..., L, S) x (..., S, Ev); heads shared or not."""
    query, key, value = (arguments[name] for name in ("query", "key", "value"))
    num_logits = math.prod(out.shape[:-1]) * key.shape[-2]
    return Products(num_logits * (query.shape[-1] + value.shape[-1]), num_logits + out.numel())


FORMULAS: dict[str, Callable[[Arguments, Tensor], Products]] = {
    "aten::mm": _matrices("self", "mat2"),
    "aten::bmm": _matrices("self", "mat2"),
    "aten::addmm": _matrices("mat1", "mat2"),
    "aten::addmm_": _matrices("mat1", "mat2"),
    "aten::_addmm_activation": _matrices("mat1", "mat2"),
    "aten::baddbmm": _matrices("batch1", "batch2"),
    "aten::baddbmm_": _matrices("batch1", "batch2"),
    "aten::addbmm": _matrices("batch1", "batch2"),
    "aten::addbmm_": _matrices("batch1", "batch2"),
    "aten::mv": _matrices("self", "vec"),
    "aten::addmv": _matrices("mat", "vec"),
    "aten::addmv_": _matrices("mat", "vec"),
    "aten::dot": _matrices("self", "tensor"),
    "aten::vdot": _matrices("self", "other"),
    "aten::_int_mm": _matrices("self", "mat2"),
    "aten::_scaled_mm": _matrices("self", "mat2"),
    "aten::linear": _linear("input", "weight"),
    "aten::mkldnn_linear": _linear("self", "weight"),
    "aten::_weight_int8pack_mm": _linear("self", "mat2"),
    "mkldnn::_linear_pointwise": _linear("X", "W"),
    "aten::convolution": _convolution,
    "aten::_convolution": _convolution,
    "aten::convolution_overrideable": _convolution,
    "aten::mkldnn_convolution": _convolution,
    "mkldnn::_convolution_pointwise": _convolution,
    "mkldnn::_convolution_pointwise_": _convolution,
    "torchvision::deform_conv2d": _convolution,
    ATTENTION: _attention,
    "aten::_scaled_dot_product_flash_attention": _attention,
    "aten::_scaled_dot_product_flash_attention_for_cpu": _attention,
    "aten::_scaled_dot_product_efficient_attention": _attention,
    "aten::_scaled_dot_product_cudnn_attention": _attention,
    "aten::_scaled_dot_product_fused_attention_overrideable": _attention,
    "flex_attention": _attention,
}
"""Operator to its products, from its arguments and its (first) output."""


def is_convolution(operator: str) -> bool:
    """Whether an operator is a convolution of any kind."""
    return FORMULAS.get(operator) is _convolution


def groups_of(operator: str, arguments: Arguments) -> int:
    """Into how many groups a convolution cuts its channels; 1 for any other operator."""
    return int(arguments.get("groups", 1)) if is_convolution(operator) else 1


_FREE = re.compile(
    # Reductions, pooling, interpolation, sorting, comparing, random numbers, tables: they add or choose, or weigh
    # a fixed number of neighbours, and nobody's definition of MACs has them.
    r".*pool.*|upsample_.*|_upsample.*|grid_sampler.*|mean|sum|nansum|cumsum|cumprod|logcumsumexp|logsumexp|prod|var.*"
    r"|std.*|norm|amax|amin|aminmax|argmax|argmin|any|all|max|min|count_nonzero|median|mode|topk|kthvalue|sort|argsort"
    r"|unique.*|_unique.*|searchsorted|bucketize|nonzero.*|embedding|one_hot|rand.*|normal.*|uniform.*|bernoulli.*"
    r"|random.*|multinomial|exponential|linspace|logspace|arange|eye|tril.*|triu.*|scalar_tensor|diag.*|tensor|set"
    r"|masked_select|masked_scatter.*|take|put.*|bincount|histc|is_.*|equal|isnan|isinf|_local_scalar_dense|item"
    r"|_assert.*|_linalg_check_errors|_weight_norm_interface|sym_.*|complex|real|imag|polar|_?conj.*|resolve_.*|pad.*"
    r"|trace|rot90|cummax|cummin|renorm|isin|resize.*|xlogy|copysign"
    # What no class of `effvit.operators` has: rarer activations, copies of views, scattering, quantising.
    r"|glu|_(safe|masked)_softmax|hardshrink|softshrink|log_sigmoid_forward|_prelu_kernel|rrelu.*|.*_copy|native_norm"
    r"|(slice|select|as_strided|diagonal)_scatter|_unsafe_masked_index.*|_?unsafe_index_put|_index_put_impl|_chunk_cat"
    r"|_?stack|fill|zero|lift|_fused_dropout|_?fake_quant.*|quantize_per.*|dequantize|range|.*_window|fft_r?fftfreq"
)
_FREE_TAGS = {torch.Tag.pointwise, torch.Tag.inplace_view}
"""What torch itself says of operators that multiply no tensors."""
_FREE_ELSEWHERE = {"torchvision::nms", "torchvision::roi_align", "torchvision::roi_pool"}
"""Operators of other libraries that are known to multiply no tensors."""


def is_free(function: torch._ops.OpOverload) -> bool:
    """Whether an operator is known to multiply no tensors with each other."""
    name = function._schema.name
    if name in _FREE_ELSEWHERE:
        return True
    if function.namespace not in ("aten", "prims"):
        return False  # anybody's operator may do anything
    if not _FREE_TAGS.isdisjoint(function.tags):
        return True
    bare = name.rpartition("::")[2].removesuffix("_")  # in place or not
    return class_of(bare) in (MOVEMENT, ELEMENTWISE, NORMS, SOFTMAX) or bool(_FREE.fullmatch(bare))


def products_of(
    function: torch._ops.OpOverload | torch._ops.HigherOrderOperator, arguments: Arguments, outputs: list[Tensor]
) -> Products | None:
    """What a call multiplies; nothing for operators known to be free, None for those that are not known.

    Args:
        function: The operator.
        arguments: What it was called with.
        outputs: The tensors it gave.
    """
    name: str = function._schema.name if isinstance(function, torch._ops.OpOverload) else function._name
    if outputs and name in FORMULAS:
        return FORMULAS[name](arguments, outputs[0])
    return Products(0, 0) if isinstance(function, torch._ops.OpOverload) and is_free(function) else None
