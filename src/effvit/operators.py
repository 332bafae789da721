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

# In lower case, without the `_` that stands behind what works in place; the first that fits counts.
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
        r".*conv.*|.*matmul.*|.*gemm.*|b?mm|_int_mm|addmm|baddbmm|addbmm|_addmm_activation|(add)?mv|v?dot|_?linear.*"
        r"|.*attention.*|.*_pointwise|einsum|mkldnn_rnn_layer|_cudnn_rnn|lstm|gru",
    ),
    (
        MOVEMENT,
        r"copy|cat|concat|clone|contiguous|transpose|permute|reshape|view|_?unsafe_view|as_strided|(unsafe_)?split.*|chunk"
        r"|slice|select|index.*|gather.*|pad|constant_pad_nd|fill|empty.*|narrow|expand|roll|stack|flatten|resize"
        r"|_?to(_copy)?|reorder(input|output)|squeeze|unsqueeze|identity|shape|constantofshape|tile|zeros.*|unbind|t"
        r"|depthtospace|repeat|_?reshape_alias|alias|detach|new_(ones|zeros|empty|full)|ones.*|full.*|arange"
        r"|reflection_pad.*|replication_pad.*|pixel_(un)?shuffle|channel_shuffle|unfold|im2col|col2im|movedim|swapaxes"
        r"|masked_fill|flip|repeat_interleave|zero|view_as.*|unflatten|lift_fresh|_unsafe_index|scatter.*|meshgrid"
        r"|upsample_nearest.*|embedding",
    ),
    (
        ELEMENTWISE,
        r"add|sub|mul|div|relu6?|hardtanh|clamp.*|clip|sigmoid|(quick)?gelu|silu|hardswish|hardsigmoid|exp|sqrt|erf|tanh"
        r"|pow|neg|where|leaky_relu|qlinear(add|mul|sigmoid)|min|max|lerp|fused.*|bias.*|rsqrt|abs|eq|ne|lt|gt|le|ge"
        r"|logical_.*|bitwise_.*|rsub|square|log|sin|cos|mish|c?elu|prelu|softplus|maximum|minimum|reciprocal|addcmul"
        r"|addcdiv|bernoulli|(native_)?dropout|floor_divide|remainder|floor|ceil|round|threshold",
    ),
)


def class_of(operator: str) -> str:
    """The class of an operator of torch (`aten::add_`) or of ONNX (`FusedConv`); `OTHER` for one that has none."""
    name = operator.rpartition("::")[2].lower().removesuffix("_")
    return next((kind for kind, pattern in _PATTERNS if re.fullmatch(pattern, name)), OTHER)
