"""Every operator has its class; one that is not known says so."""

from __future__ import annotations

import pytest

from effvit.operators import ELEMENTWISE, MOVEMENT, NORMS, OTHER, PRODUCTS, QUANTIZING, SOFTMAX, class_of


@pytest.mark.parametrize(
    ("operators", "kind"),
    [
        ("aten::addmm_ aten::mkldnn_convolution aten::bmm aten::baddbmm FusedConv Gemm QLinearConv", PRODUCTS),
        ("aten::copy_ aten::fill_ aten::cat Transpose Reshape Concat ReorderInput Slice Gather", MOVEMENT),
        ("aten::add_ aten::relu aten::tanh_ aten::exp_ Relu Add Mul HardSwish QuickGelu Clip", ELEMENTWISE),
        ("aten::native_batch_norm aten::native_layer_norm BatchNormalization LayerNormalization", NORMS),
        ("aten::_softmax Softmax", SOFTMAX),
        ("QuantizeLinear DequantizeLinear", QUANTIZING),
        ("aten::mean GlobalAveragePool aten::adaptive_avg_pool2d NoSuchThing", OTHER),
    ],
)
def test_operators_have_a_class(operators: str, kind: str) -> None:
    for operator in operators.split():
        assert class_of(operator) == kind, operator
