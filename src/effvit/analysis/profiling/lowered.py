"""Names that a device or a compiler gives to operators, back to what they compute."""

from __future__ import annotations

import re

from effvit.operators import ELEMENTWISE, MOVEMENT, NORMS, OTHER, PRODUCTS, SOFTMAX, class_of

_CANONICAL: tuple[tuple[str, str], ...] = (
    (r"(mkldnn|cudnn|miopen|mps|thnn)_(depthwise_)?conv.*|_?convolution(_overrideable)?", "convolution"),
    (r"_?(cudnn|miopen|native)_batch_norm(_legit.*)?|_batch_norm_.*|batch_norm", "batch_norm"),
    (r"(native_|fused_)?layer_norm", "layer_norm"),
    (r"(native_)?group_norm", "group_norm"),
    (r"_?(fused_)?rms_norm", "rms_norm"),
    (r"_?(safe_)?softmax", "softmax"),
    (r"_?scaled_dot_product_.*", "scaled_dot_product_attention"),
)
"""Operators that stand for each other: pattern of the name -> the one they are all taken for."""

_FAMILIES: tuple[tuple[str, str], ...] = (
    (r"addmm|mm|_?(mkl_)?linear(_pointwise.*)?|_addmm_activation", "linear"),
    (r"bmm|baddbmm", "bmm"),
    (r"_convolution_pointwise.*", "convolution"),
)

_GENERATED = re.compile(r"(?P<prefix>triton_[a-z]+_fused_|(graph_\d+_)?cpp_fused_)(?P<body>.*)")
# Looked for in the joined names of the operators that a generated kernel computes; the first that is there counts,
# because it costs the most: a softmax with an addition is a softmax.
_FUSED: tuple[tuple[str, str], ...] = (
    (SOFTMAX, r"softmax"),
    (NORMS, r"(batch|layer|group|instance|rms)_norm"),
    (
        ELEMENTWISE,
        r"(?<![a-z])(add|addmm_add|sub|mul|div|relu|gelu|silu|sigmoid|hardswish|hardtanh|clamp|tanh|erf|exp|pow|sqrt|rsqrt|where"
        r"|leaky_relu|hardsigmoid|neg|abs|maximum|minimum)(?![a-z])",
    ),
    (OTHER, r"(?<![a-z])(mean|sum|amax|max_pool\w*|avg_pool\w*|adaptive\w*|var_mean)(?![a-z])"),
)


def canonical(name: str) -> str:
    """The name under which an operator is compared: without its namespace, lowered names as what they compute."""
    bare = name.rpartition("::")[2]
    return next((common for pattern, common in _CANONICAL if re.fullmatch(pattern, bare)), bare)


def family(name: str) -> str:
    """The same for products, as wide as compilers swap them: with and without a bias or an activation."""
    bare = canonical(name)
    return next((common for pattern, common in _FAMILIES if re.fullmatch(pattern, bare)), bare)


def is_generated(name: str) -> bool:
    """Whether a compiler made the kernel."""
    return _GENERATED.match(name) is not None


def kind_of(name: str) -> str:
    """The class of an operator, or of a kernel that a compiler made of several.

    A generated kernel goes by the costliest class fused into it. One that names products only and is no template
    prepares their operands: products themselves are called, not generated.
    """
    match = _GENERATED.match(name)
    if match is None:
        return class_of(name)
    if "_tem_" in match["prefix"]:
        return PRODUCTS
    return next((kind for kind, pattern in _FUSED if re.search(pattern, match["body"])), MOVEMENT)
