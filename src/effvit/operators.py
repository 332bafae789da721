"""Classes of operators, as the paper's Fig. 2 sorts run time: which of them compute and which move memory.

Names of torch (`aten::add_`) and of ONNX and ONNX Runtime (`FusedConv`) have the same classes, so that one model can be
read in several runtimes. No torch here.

Source: arXiv:2305.07027, Sec. 2.1.
"""

from __future__ import annotations

import re

PRODUCTS = "products: convolution, matrix"
MOVEMENT = "moving data"
ELEMENTWISE = "element-wise"
NORMS = "normalisation"
SOFTMAX = "softmax"
QUANTIZING = "to and from int8"
OTHER = "other"
CLASSES = (PRODUCTS, MOVEMENT, ELEMENTWISE, NORMS, SOFTMAX, QUANTIZING, OTHER)
"""Classes of operators, in the order of charts."""
CLASS_COLOURS = dict(
    zip(CLASSES, ("#2f6690", "#d99a2b", "#5b8e55", "#c23b22", "#7a5195", "#9c6644", "#b8b8b8"), strict=True)
)
"""One colour for each class, in every chart."""

# In lower case; the first that fits counts.
_PATTERNS: tuple[tuple[str, str], ...] = (
    (SOFTMAX, r"_?(log_?)?softmax|_softmax_backward_data"),
    (QUANTIZING, r"(dynamic)?(de)?quantizelinear|cast"),
    (
        NORMS,
        r".*batch_norm.*|.*layer_?norm.*|.*group_norm.*|.*instance_norm.*|.*rms_norm.*|(batch|layer|group|instance)"
        r"normalization|simplified.*normalization|skip.*normalization|linalg_vector_norm|local_response_norm",
    ),
    (
        PRODUCTS,
        r".*conv.*|.*matmul.*|.*gemm.*|(ba)?addmm|b?mm|_?linear.*|.*attention.*|.*_pointwise|addbmm|addmv|mv|dot|einsum",
    ),
    (
        MOVEMENT,
        r"copy_?|cat|concat|clone|contiguous|transpose|permute|reshape|view|_?unsafe_view|as_strided|split.*|chunk|slice"
        r"|select|index.*|gather.*|pad|constant_pad_nd|fill_|empty.*|narrow|expand|roll|stack|flatten|resize_|_?to(_copy)?"
        r"|reorder(input|output)|squeeze|unsqueeze|identity|shape|constantofshape|tile|zeros.*|unbind|t|depthtospace"
        r"|repeat|_?reshape_alias|alias|detach|new_(ones|zeros|empty|full)|ones.*|full.*|arange|reflection_pad.*"
        r"|replication_pad.*|pixel_(un)?shuffle|channel_shuffle|unfold|im2col|col2im|movedim|swapaxes|masked_fill_?|flip"
        r"|repeat_interleave|zero_|view_as.*|unflatten|lift_fresh|_unsafe_index|scatter.*|meshgrid|upsample_nearest.*",
    ),
    (
        ELEMENTWISE,
        r"add_?|sub_?|mul_?|div_?|relu_?|relu6|hardtanh_?|clamp.*|clip|sigmoid_?|gelu|silu_?|hardswish_?|hardsigmoid_?|exp|sqrt"
        r"|erf|tanh|pow|neg|where|leaky_relu_?|(quick)?gelu|qlinear(add|mul)|qlinearsigmoid|min|max|lerp|fused.*|bias.*"
        r"|rsqrt|abs|eq|ne|lt|gt|le|ge|logical_.*|bitwise_.*|rsub|square|log|sin|cos|mish_?|elu_?|celu_?|prelu|softplus"
        r"|maximum|minimum|reciprocal|addcmul|addcdiv|bernoulli_?|dropout|native_dropout|floor_divide|remainder|rounding"
        r"|floor|ceil|round|threshold_?",
    ),
)


def class_of(operator: str) -> str:
    """The class of an operator of torch (`aten::add_`) or of ONNX (`FusedConv`); `OTHER` for one that has none."""
    name = operator.rpartition("::")[2].lower()
    return next((kind for kind, pattern in _PATTERNS if re.fullmatch(pattern, name)), OTHER)
