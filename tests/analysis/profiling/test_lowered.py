"""Names of devices and compilers, taken back to classes; names as torch 2.15 was seen to give them."""

from __future__ import annotations

import pytest

from effvit.analysis.profiling.lowered import canonical, family, is_generated, kind_of
from effvit.operators import ELEMENTWISE, MOVEMENT, NORMS, OTHER, PRODUCTS, SOFTMAX


@pytest.mark.parametrize(
    ("lowered", "meant"),
    [
        ("aten::mkldnn_convolution", "aten::convolution"),
        ("aten::cudnn_convolution", "aten::convolution"),
        ("aten::cudnn_batch_norm", "aten::native_batch_norm"),
        ("aten::_native_batch_norm_legit_no_training", "aten::batch_norm"),
        ("aten::native_layer_norm", "aten::layer_norm"),
        ("aten::_softmax", "aten::softmax"),
        ("aten::_scaled_dot_product_flash_attention_for_cpu", "aten::scaled_dot_product_attention"),
    ],
)
def test_what_stands_for_the_same_has_one_name(lowered: str, meant: str) -> None:
    assert canonical(lowered) == canonical(meant)


def test_what_is_written_in_others_has_another_name_than_they() -> None:
    assert canonical("aten::conv2d") != canonical("aten::convolution")
    assert canonical("aten::linear") != canonical("aten::addmm")


def test_products_are_swapped_within_their_family_only() -> None:
    assert family("mkldnn::_linear_pointwise") == family("aten::mm") == family("aten::addmm")
    assert family("mkldnn::_convolution_pointwise_.binary") == family("aten::convolution")
    assert family("aten::bmm") == family("aten::baddbmm") != family("aten::mm")


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("graph_0_cpp_fused_convolution_0", MOVEMENT),
        ("graph_0_cpp_fused__native_batch_norm_legit_no_training_convolution_relu_1", NORMS),
        ("graph_0_cpp_fused__softmax_9", SOFTMAX),
        ("cpp_fused__softmax__to_copy_add_native_layer_norm_3", SOFTMAX),
        ("graph_0_cpp_fused_add_split_view_10", ELEMENTWISE),
        ("graph_1_cpp_fused_clone_view_2", MOVEMENT),
        ("cpp_fused_mean_40", OTHER),
        ("triton_poi_fused_add_gelu_2", ELEMENTWISE),
        ("triton_per_fused_native_layer_norm_0", NORMS),
        ("triton_tem_fused_addmm_relu_3", PRODUCTS),
        ("triton_poi_fused__unsafe_view_clone_4", MOVEMENT),
    ],
)
def test_a_generated_kernel_goes_by_the_costliest_class_in_it(name: str, kind: str) -> None:
    assert is_generated(name) and kind_of(name) == kind


def test_other_names_keep_their_class() -> None:
    assert kind_of("aten::addmm") == PRODUCTS and not is_generated("aten::addmm")
    assert kind_of("mine::no_such_thing") == OTHER
