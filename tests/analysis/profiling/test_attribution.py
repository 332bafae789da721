"""Whose time it is: nothing is lost, every product finds its MACs, every head its operators."""

from __future__ import annotations

from functools import cache

import pytest
import timm
import torch
from torch import nn

import effvit
from effvit.analysis.cost import Costs, count_costs
from effvit.analysis.profiling.attribution import OperatorTime, cascades, module_ranges, operators_of
from effvit.analysis.profiling.spans import PASS, Span, merge, record
from effvit.deploy.rewrite import rewrite
from effvit.operators import CLASSES, MOVEMENT, PRODUCTS

SWIN = {"img_size": 64, "embed_dim": 24, "depths": (1, 2), "num_heads": (2, 2), "window_size": 4, "patch_size": 4}
NETWORKS = ["efficientvit_tiny", "swin_tiny_patch4_window7_224", "deit_tiny_patch16_224", "mobilenetv3_small_050"]


@cache
def network_of(name: str) -> nn.Module:
    if name.startswith("efficientvit"):
        return effvit.create_model(name, image_size=64).eval()
    if name.startswith("swin"):
        return timm.create_model(name, **SWIN).eval()
    given = {"img_size": 64, "embed_dim": 48, "depth": 2} if name.startswith("deit") else {}
    return timm.create_model(name, **given).eval()


def seen(network: nn.Module, *, size: int = 64) -> tuple[Span, Costs, list[OperatorTime]]:
    images = torch.randn(2, 3, size, size)
    costs = count_costs(network, (3, size, size), batch_size=2)
    with torch.inference_mode(), module_ranges(network):
        network(images)
        root = merge(record(lambda: network(images), passes=1, device=torch.device("cpu")))
    return root, costs, operators_of(root, costs, event_cost_us=0.0, on_cuda=False, heads=cascades(network))


@pytest.mark.parametrize("name", NETWORKS)
def test_every_operator_of_a_network_has_its_time_class_and_cost(name: str) -> None:
    root, costs, units = seen(network_of(name))
    spans = [span for span in root.walk() if span.is_operator]
    assert sum(unit.microseconds for unit in units) == pytest.approx(sum(span.own_us(0.0) for span in spans))
    assert {unit.kind for unit in units} <= set(CLASSES)
    matched = [unit.call for unit in units if unit.call is not None]
    assert sum(call.num_macs for call in matched) == costs.num_macs
    assert sum(call.bytes_moved for call in matched) == pytest.approx(costs.bytes_moved, rel=0.05)
    assert all(call.module == unit.module for unit in units if (call := unit.call) is not None)
    assert all(unit.kind == PRODUCTS for unit in units if unit.call is not None and unit.call.num_macs)


def test_hooks_are_gone_after_the_block() -> None:
    network = network_of("efficientvit_tiny")
    with module_ranges(network):
        assert all(module._forward_hooks and module._forward_pre_hooks for module in network.modules())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())


def test_a_module_that_fails_closes_its_range() -> None:
    class Failing(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise ValueError("no")

    class Catching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.failing, self.weight = Failing(), nn.Parameter(torch.ones(3, 3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            try:
                return self.failing(x)
            except ValueError:
                return x @ self.weight

    network = nn.Sequential(Catching()).eval()
    _, _, units = seen(network, size=3)
    assert {unit.module for unit in units if unit.call is not None and unit.call.num_macs} == {"0"}


def test_each_head_has_its_two_products_and_its_own_layers() -> None:
    network = network_of("efficientvit_tiny")
    _, _, units = seen(network)
    mixers = cascades(network)
    assert mixers and all(count == len(network.get_submodule(name).qkv) for name, count in mixers.items())
    for mixer, count in mixers.items():
        for index in range(count):
            own = [unit for unit in units if unit.head == (mixer, index)]
            products = [unit for unit in own if unit.module == mixer and unit.call and unit.call.num_macs]
            assert [unit.call.operator for unit in products if unit.call] == ["aten::baddbmm", "aten::bmm"]
            layers = {unit.module.removeprefix(mixer + ".") for unit in own} - {mixer}
            assert {f"qkv.{index}.conv", f"qkv.{index}.norm"} <= layers
            assert not any(layer.startswith("qkv.") and not layer.startswith(f"qkv.{index}.") for layer in layers)
        assert not any(unit.head for unit in units if unit.module.startswith(mixer + ".project"))
    assert not any(unit.head for unit in units if not any(unit.module.startswith(mixer) for mixer in mixers))


def test_the_deploy_form_has_heads_too() -> None:
    network = rewrite(network_of("efficientvit_tiny"))
    _, costs, units = seen(network)
    heads = {unit.head for unit in units if unit.head}
    assert len(heads) == sum(cascades(network).values()) > 0
    assert sum(unit.call.num_macs for unit in units if unit.call) == costs.num_macs


def span(name: str, *children: Span, own: float = 1.0, kernels: tuple[tuple[str, float], ...] = ()) -> Span:
    return Span(name=name, gaps_us=(own, *[0.0] * len(children)), children=children, kernels=kernels)


def test_a_copy_that_a_product_makes_for_itself_is_told_apart() -> None:
    costs = count_costs(nn.Linear(4, 4), (1, 1, 4))
    copy = span("aten::copy_", own=5)
    root = span(PASS, span("aten::linear", span("aten::addmm", copy, own=10), own=2))
    units = operators_of(root, costs, event_cost_us=0.0, on_cuda=False)
    assert [(unit.name, unit.kind, unit.microseconds) for unit in units] == [
        ("aten::linear", PRODUCTS, 2),
        ("aten::addmm", PRODUCTS, 10),
        ("aten::copy_ in aten::addmm", MOVEMENT, 5),
    ]
    assert [unit.is_wrapper for unit in units] == [True, False, False]


def test_on_cuda_the_kernels_count_and_the_processor_does_not() -> None:
    costs = count_costs(nn.Linear(4, 4), (1, 1, 4))
    launch = span("cudaLaunchKernel", own=50)
    gemm = span("aten::addmm", launch, own=100, kernels=(("sm90_gemm", 3.0), ("bias", 1.0)))
    root = span(PASS, span("aten::linear", gemm), span("range", kernels=(("triton_poi_fused_add_0", 2.0),)))
    units = operators_of(root, costs, event_cost_us=0.0, on_cuda=True)
    times = {unit.name: unit.microseconds for unit in units}
    assert times == {"aten::linear": 0, "aten::addmm": 4, "triton_poi_fused_add_0": 2}


def test_calls_of_the_driver_belong_to_their_operator() -> None:
    costs = count_costs(nn.Linear(4, 4), (1, 1, 4))
    root = span(PASS, span("mine::odd", span("cudaLaunchKernel", own=5), own=9))
    (unit,) = operators_of(root, costs, event_cost_us=0.0, on_cuda=False)
    assert (unit.name, unit.microseconds, unit.is_wrapper) == ("mine::odd", 14, False)


def test_a_kernel_that_calls_others_is_no_wrapper() -> None:
    """oneDNN's recurrent layer sets memory aside and orders its weights, and computes in its own time."""
    costs = count_costs(nn.Linear(4, 4), (1, 1, 4))
    kernel = span("aten::mkldnn_rnn_layer", span("aten::select", span("aten::as_strided")), own=90)
    units = operators_of(span(PASS, span("aten::lstm", kernel)), costs, event_cost_us=0.0, on_cuda=False)
    assert [(unit.name, unit.kind, unit.is_wrapper) for unit in units] == [
        ("aten::lstm", PRODUCTS, True),
        ("aten::mkldnn_rnn_layer", PRODUCTS, False),
        ("aten::select", MOVEMENT, False),
        ("aten::as_strided", MOVEMENT, False),
    ]


def test_an_operator_nobody_counted_keeps_its_name_and_time() -> None:
    costs = count_costs(nn.Linear(4, 4), (1, 1, 4))
    units = operators_of(span(PASS, span("mine::odd", own=9)), costs, event_cost_us=0.0, on_cuda=False)
    assert [(unit.name, unit.kind, unit.microseconds, unit.call) for unit in units] == [("mine::odd", "other", 9, None)]


def test_a_compiled_pass_finds_its_products_by_their_order() -> None:
    costs = count_costs(nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 8, 1)), (3, 4, 4))
    region = span(
        "Torch-Compiled Region: 0/0",
        span("graph_0_cpp_fused_convolution_0"),
        span("mkldnn::_convolution_pointwise"),
        span("aten::convolution"),
    )
    units = operators_of(span(PASS, region), costs, event_cost_us=0.0, on_cuda=False, is_compiled=True)
    assert [unit.call.num_macs if unit.call else 0 for unit in units] == [0, 3 * 4 * 16, 4 * 8 * 16]
