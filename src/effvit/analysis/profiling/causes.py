"""Why an operator's time is spent: finer than its class, coarse enough to have one remedy each."""

from __future__ import annotations

from effvit.analysis.cost import OperatorCall
from effvit.analysis.macs import is_convolution
from effvit.analysis.profiling.lowered import canonical, is_generated
from effvit.operators import ELEMENTWISE, MOVEMENT, NORMS, PRODUCTS, SOFTMAX

CAUSES: dict[str, str] = {
    "between": "no operator runs",
    "dispatch": "views and wrappers that compute nothing",
    "pointwise": "1x1 convolutions",
    "depthwise": "depth-wise convolutions",
    "grouped": "grouped convolutions",
    "convolution": "dense convolutions",
    "linear": "linear layers",
    "attention_products": "matrix products of attention",
    "fused_attention": "attention in one kernel",
    "products": "products that nobody counted",
    "batch_norm": "BatchNorm",
    "layer_norm": "LayerNorm",
    "norms": "other norms",
    "softmax": "softmax",
    "additions": "additions",
    "activations": "activations",
    "scaling": "multiplications by gates, masks and scales",
    "copies": "copies into another order",
    "inner_copies": "copies that operators make for themselves",
    "gathers": "gathers from tables",
    "rolls": "rolled maps",
    "joins": "joining tensors",
    "padding": "padding",
    "generated": "fused element-wise kernels",
    "generated_norms": "fused kernels with a norm",
    "generated_softmax": "fused kernels with a softmax",
    "generated_copies": "generated kernels that only copy",
    "other": "pooling and operators of no class",
}
"""Key of each cause -> what it is called."""

COMPUTING = frozenset(
    ("pointwise", "depthwise", "grouped", "convolution", "linear", "attention_products", "fused_attention", "products")
)
"""Causes that multiply: how near they come to the machine's limit decides what would help."""

_ACTIVATIONS = {
    *("relu", "relu6", "gelu", "silu", "sigmoid", "hardswish", "hardsigmoid", "hardtanh", "leaky_relu", "tanh", "elu"),
    *("celu", "mish", "prelu", "softplus"),
}
_MOVEMENTS = {
    **dict.fromkeys(("index", "index_select", "gather", "embedding", "_unsafe_index"), "gathers"),
    **dict.fromkeys(("cat", "stack"), "joins"),
    **dict.fromkeys(("constant_pad_nd", "pad", "reflection_pad2d", "replication_pad2d"), "padding"),
    "roll": "rolls",
}
_IDLE = {
    *(
        "view",
        "reshape",
        "as_strided",
        "transpose",
        "permute",
        "expand",
        "slice",
        "select",
        "split",
        "split_with_sizes",
    ),
    *("chunk", "t", "unsqueeze", "squeeze", "flatten", "detach", "alias", "unbind", "_reshape_alias", "resolve_conj"),
    *("resolve_neg", "contiguous", "dropout", "expand_as", "narrow", "view_as", "_unsafe_view", "empty", "empty_like"),
    *("empty_strided", "unflatten", "movedim", "identity", "to", "lift_fresh", "feature_dropout", "numpy_T"),
}
"""Operators that, not being among the counted calls, did nothing but look: of a tensor in order already, of a view."""
_GENERATED = {NORMS: "generated_norms", SOFTMAX: "generated_softmax", MOVEMENT: "generated_copies"}


def cause_of(name: str, kind: str, call: OperatorCall | None, *, is_wrapper: bool = False) -> str:
    """Why the time of an operator is spent, a key of `CAUSES`.

    Args:
        name: As the profiler calls it.
        kind: Its class.
        call: What it computes, if that is known.
        is_wrapper: Whether other operators do its work.
    """
    bare = canonical(name).removesuffix("_")
    if " in " in name:
        return "inner_copies"
    if is_generated(name) and kind != PRODUCTS:
        return _GENERATED.get(kind, "generated")
    if is_wrapper or (call.is_view if call is not None else bare in _IDLE):
        return "dispatch"
    if kind == PRODUCTS and call is not None:
        return _product(call)
    return _plain(bare, kind)


def _product(call: OperatorCall) -> str:
    name = canonical(call.operator)
    if name in ("scaled_dot_product_attention", "flex_attention"):
        return "fused_attention"
    if is_convolution(call.operator):
        return _convolution(call)
    return "attention_products" if name in ("bmm", "baddbmm") else "linear"


def _convolution(call: OperatorCall) -> str:
    if call.num_groups > 1:
        return "depthwise" if call.is_depthwise else "grouped"
    _, weight, *_ = call.shapes
    return "pointwise" if set(weight[2:]) == {1} else "convolution"


def _plain(name: str, kind: str) -> str:
    if kind == PRODUCTS:
        return "products"
    if kind == NORMS:
        return name if name in ("batch_norm", "layer_norm") else "norms"
    if kind == SOFTMAX:
        return "softmax"
    if kind == MOVEMENT:
        return _MOVEMENTS.get(name, "copies")
    if kind == ELEMENTWISE:
        return "additions" if name in ("add", "sub", "rsub") else "activations" if name in _ACTIVATIONS else "scaling"
    return "other"
