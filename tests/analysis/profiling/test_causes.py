"""Causes: each operator has one, and it follows from what the operator does."""

from __future__ import annotations

import pytest
import torch
from counted import costs_of
from torch import nn

from effvit.analysis.cost import OperatorCall, count_costs
from effvit.analysis.profiling.causes import CAUSES, COMPUTING, cause_of
from effvit.analysis.profiling.lowered import kind_of
from effvit.operators import ELEMENTWISE, MOVEMENT, NORMS, OTHER, PRODUCTS, SOFTMAX


def product(network: nn.Module, *size: int) -> OperatorCall:
    (call,) = [call for call in count_costs(network, size).calls if call.num_macs]  # type: ignore[arg-type]
    return call


@pytest.mark.parametrize(
    ("layer", "cause"),
    [
        (nn.Conv2d(8, 16, 1), "pointwise"),
        (nn.Conv2d(8, 8, 3, groups=8), "depthwise"),
        (nn.Conv2d(8, 16, 3, groups=8), "depthwise"),
        (nn.Conv2d(8, 8, 3, groups=2), "grouped"),
        (nn.Conv2d(8, 16, 3), "convolution"),
        (nn.Conv2d(8, 16, (1, 3)), "convolution"),
        (nn.ConvTranspose2d(8, 1, 2), "convolution"),
        (nn.ConvTranspose2d(8, 4, 1), "pointwise"),
        (nn.ConvTranspose2d(8, 8, 2, groups=8), "depthwise"),
        (nn.Sequential(nn.Flatten(2), nn.Conv1d(8, 8, 3, groups=8)), "depthwise"),
        (nn.Linear(8, 8), "linear"),
    ],
)
def test_products_are_told_apart_by_their_shapes(layer: nn.Module, cause: str) -> None:
    call = product(layer, 8, 8, 8)
    assert cause_of(call.operator, PRODUCTS, call) == cause


def test_attention_is_its_own_cause() -> None:
    class Attention(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.scaled_dot_product_attention(x, x, x)

    class Product(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.bmm(x[0], x[0].transpose(1, 2))

    assert cause_of("aten::any", PRODUCTS, product(Attention(), 2, 4, 4)) == "fused_attention"
    assert cause_of("aten::bmm", PRODUCTS, product(Product(), 2, 4, 4)) == "attention_products"


@pytest.mark.parametrize(
    ("name", "cause"),
    [
        ("aten::native_batch_norm", "batch_norm"),
        ("aten::cudnn_batch_norm", "batch_norm"),
        ("aten::native_layer_norm", "layer_norm"),
        ("aten::native_group_norm", "norms"),
        ("aten::_softmax", "softmax"),
        ("aten::add_", "additions"),
        ("aten::relu_", "activations"),
        ("aten::gelu", "activations"),
        ("aten::mul", "scaling"),
        ("aten::clone", "copies"),
        ("aten::index_select", "gathers"),
        ("aten::embedding", "gathers"),
        ("aten::roll", "rolls"),
        ("aten::cat", "joins"),
        ("aten::constant_pad_nd", "padding"),
        ("aten::copy_ in aten::addmm", "inner_copies"),
        ("aten::view", "dispatch"),
        ("aten::dropout", "dispatch"),
        ("aten::mean", "other"),
        ("mine::no_such_thing", "other"),
        ("aten::_native_multi_head_attention", "products"),
        ("graph_0_cpp_fused_add_3", "generated"),
        ("graph_0_cpp_fused__softmax_3", "generated_softmax"),
        ("graph_0_cpp_fused_convolution_3", "generated_copies"),
        ("triton_per_fused_native_layer_norm_0", "generated_norms"),
        ("triton_tem_fused_mm_0", "products"),
    ],
)
def test_other_operators_go_by_their_names(name: str, cause: str) -> None:
    assert cause_of(name, kind_of(name), None) == cause


def test_a_wrapper_and_a_view_compute_nothing() -> None:
    assert cause_of("aten::linear", PRODUCTS, None, is_wrapper=True) == "dispatch"
    (view,) = [call for call in count_costs(nn.Flatten(), (2, 2, 2)).calls if call.is_view]
    assert cause_of("aten::view", MOVEMENT, view) == "dispatch"


def test_every_class_leads_to_a_known_cause() -> None:
    for kind in (PRODUCTS, MOVEMENT, ELEMENTWISE, NORMS, SOFTMAX, OTHER):
        assert cause_of("mine::no_such_thing", kind, None) in CAUSES
    assert set(CAUSES) > COMPUTING


@pytest.mark.parametrize(
    "name",
    [
        *("efficientvit_m0", "efficientvit_m4", "efficientvit_m5", "swin_tiny_patch4_window7_224"),
        *("deit_tiny_patch16_224", "mobilenetv3_large_100"),
    ],
)
def test_only_a_mean_has_no_class_in_the_models_of_the_paper(name: str) -> None:
    calls = [call for call in costs_of(name).calls if not call.is_view]
    assert calls and {call.operator for call in calls if kind_of(call.operator) == OTHER and not call.num_macs} <= {
        "aten::mean"
    }
    assert {cause_of(call.operator, kind_of(call.operator), call) for call in calls} <= set(CAUSES)
