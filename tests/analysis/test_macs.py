"""MACs of small modules: by hand, by brute force, and beside what other counters say."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

import pytest
import timm
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import effvit
from effvit.analysis.cost import Costs, count_costs
from effvit.analysis.macs import FORMULAS, is_free
from effvit.model.variants import family_config


class Apply(nn.Module):
    """A function of a picture and some modules, as a network."""

    def __init__(self, function: Callable[..., Tensor], *modules: nn.Module) -> None:
        super().__init__()
        self.function = function
        self.parts = nn.ModuleList(modules)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, *self.parts)


def tokens(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, H * W, C)."""
    return x.flatten(2).transpose(1, 2)


def heads(x: Tensor) -> Tensor:
    """(B, 8, H, W) -> (B, 2 heads, H * W, 4)."""
    return x.unflatten(1, (2, 4)).flatten(3).transpose(2, 3)


def attend(x: Tensor, **options: object) -> Tensor:
    """Attention with 2 heads: keys of every third token, values of half the width."""
    q = heads(x)
    return F.scaled_dot_product_attention(q, q[:, :, ::3], q[:, :, ::3, :2], **options)  # type: ignore[arg-type]


def self_attention(x: Tensor, attention: nn.MultiheadAttention, **options: bool) -> Tensor:
    t = tokens(x)
    return attention(t, t, t, **options)[0]  # type: ignore[no-any-return]


N = 6 * 5  # positions of the picture that all of these take: 8 channels, 6 x 5
ATTENTION_OF_8 = N * 8 * 24 + 2 * N * N * 8 + N * 8 * 8

BY_HAND = {
    "conv": (nn.Conv2d(8, 12, 3, padding=1), N * 12 * 8 * 9, N * 12),
    "conv, stride and no padding": (nn.Conv2d(8, 12, 3, stride=2), 2 * 2 * 12 * 8 * 9, 2 * 2 * 12),
    "conv, dilation": (nn.Conv2d(8, 12, 3, dilation=2), 2 * 1 * 12 * 8 * 9, 2 * 1 * 12),
    "grouped conv": (nn.Conv2d(8, 12, 3, padding=1, groups=4), N * 12 * 2 * 9, N * 12),
    "depth-wise conv": (nn.Conv2d(8, 8, (3, 5), padding="same", groups=8), N * 8 * 15, N * 8),
    "transposed conv": (nn.ConvTranspose2d(8, 12, 2, stride=2), N * 8 * 12 * 4, 4 * N * 12),
    "grouped transposed conv": (
        nn.ConvTranspose2d(8, 12, 4, stride=2, padding=1, groups=2),
        N * 4 * 12 * 16,
        4 * N * 12,
    ),
    "conv 1d": (Apply(lambda x, conv: conv(x.flatten(2)), nn.Conv1d(8, 4, 3, groups=2)), 28 * 4 * 4 * 3, 28 * 4),
    "transposed conv 1d": (
        Apply(lambda x, conv: conv(x.flatten(2)), nn.ConvTranspose1d(8, 4, 3, stride=2)),
        N * 8 * 4 * 3,
        61 * 4,
    ),
    "conv 3d": (
        Apply(lambda x, conv: conv(x[:, None]), nn.Conv3d(1, 6, (2, 3, 3), stride=(2, 1, 1))),
        (4 * 4 * 3) * 6 * 18,
        (4 * 4 * 3) * 6,
    ),
    "transposed conv 3d": (
        Apply(lambda x, conv: conv(x[:, :, None]), nn.ConvTranspose3d(8, 6, 2, stride=2, groups=2)),
        N * 8 * 3 * 8,
        8 * N * 6,
    ),
    "linear": (Apply(lambda x, linear: linear(tokens(x)), nn.Linear(8, 7)), N * 8 * 7, N * 7),
    "linear, no bias": (Apply(lambda x, linear: linear(tokens(x)), nn.Linear(8, 7, bias=False)), N * 8 * 7, N * 7),
    "einsum, attention": (
        Apply(lambda x: torch.einsum("bhnd,bhmd->bhnm", heads(x), heads(x))),
        2 * N * 4 * N,
        2 * N * N,
    ),
    "einsum, three operands": (
        Apply(lambda x: torch.einsum("bchw,cd,de->behw", x, x.new_zeros(8, 3), x.new_zeros(3, 2))),
        N * 8 * 3 + N * 3 * 2,
        N * 3 + N * 2,
    ),
    "attention in one kernel": (Apply(attend), 2 * N * 10 * (4 + 2), 2 * N * 10 + 2 * N * 2),
    "attention with a mask": (
        Apply(lambda x: attend(x, attn_mask=x.new_zeros(N, 10))),
        2 * N * 10 * (4 + 2),
        2 * N * 10 + 2 * N * 2,
    ),
    "attention with shared keys": (
        Apply(lambda x: F.scaled_dot_product_attention(heads(x), *2 * [heads(x)[:, :1]], enable_gqa=True)),
        2 * N * N * 8,
        2 * N * N + N * 8,
    ),
    "multi-head attention": (
        Apply(
            lambda x, part: self_attention(x, part, need_weights=False), nn.MultiheadAttention(8, 2, batch_first=True)
        ),
        ATTENTION_OF_8,
        N * 24 + 2 * N * N + N * 8 + N * 8,
    ),
    "multi-head attention with maps": (
        Apply(
            lambda x, part: self_attention(x, part, need_weights=True), nn.MultiheadAttention(8, 2, batch_first=True)
        ),
        ATTENTION_OF_8,
        N * 24 + 2 * N * N + N * 8 + N * 8,
    ),
    "transformer layer": (
        Apply(lambda x, part: part(tokens(x)), nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)),
        ATTENTION_OF_8 + 2 * N * 8 * 16,
        N * 24 + 2 * N * N + N * 8 + N * 8 + N * 16 + N * 8,
    ),
    "no products": (
        nn.Sequential(nn.BatchNorm2d(8), nn.Hardswish(), nn.MaxPool2d(2), nn.Upsample(scale_factor=2, mode="bilinear")),
        0,
        0,
    ),
}


MATRICES = {  # of the first picture alone, whatever the batch
    "addmm": (Apply(lambda x: torch.addmm(x[0, 0, 0], x[0, 0].t(), x[0, 1])), 5 * 6 * 5, 25),
    "mm, in place": (Apply(lambda x: x.new_zeros(5, 5).addmm_(x[0, 0].t(), x[0, 1])), 5 * 6 * 5, 25),
    "bmm": (Apply(lambda x: torch.bmm(x[0], x[0].transpose(1, 2))), 8 * 6 * 5 * 6, 8 * 6 * 6),
    "baddbmm": (
        Apply(lambda x: torch.baddbmm(x[0, 0, 0, 0], x[0], x[0].transpose(1, 2), alpha=0.5)),
        8 * 6 * 5 * 6,
        8 * 6 * 6,
    ),
    "addbmm": (
        Apply(lambda x: torch.addbmm(x.new_zeros(6, 6), x[0], x[0].transpose(1, 2))),
        8 * 6 * 5 * 6,
        6 * 6,
    ),
    "matrix times vector": (Apply(lambda x: x[0, 0] @ x[0, 0, 0]), 6 * 5, 6),
    "vector times vector": (Apply(lambda x: x[0, 0, 0] @ x[0, 0, 0]), 5, 1),
    "broadcast matmul": (Apply(lambda x: x @ x[0, 0].t()), 8 * 6 * 5 * 6, 8 * 6 * 6),
}


@pytest.mark.parametrize(("network", "num_macs", "num_activations"), BY_HAND.values(), ids=BY_HAND)
@pytest.mark.parametrize("batch_size", [1, 3])
def test_small_modules_by_hand(network: nn.Module, num_macs: int, num_activations: int, batch_size: int) -> None:
    costs = count_costs(network, (8, 6, 5), batch_size=batch_size)
    assert costs.traced_on == "meta"
    assert not costs.uncounted
    assert (costs.num_macs, costs.num_activations) == (batch_size * num_macs, batch_size * num_activations)


@pytest.mark.parametrize(("network", "num_macs", "num_activations"), MATRICES.values(), ids=MATRICES)
def test_products_of_matrices_by_hand(network: nn.Module, num_macs: int, num_activations: int) -> None:
    costs = count_costs(network, (8, 6, 5))
    assert costs.traced_on == "meta"
    assert not costs.uncounted
    assert (costs.num_macs, costs.num_activations) == (num_macs, num_activations)


@given(
    dimensions=st.integers(1, 3),
    transposed=st.booleans(),
    groups=st.integers(1, 3),
    channels=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    kernel=st.integers(1, 3),
    stride=st.integers(1, 3),
    dilation=st.integers(1, 2),
)
def test_convolutions_of_ones_add_up_to_their_macs(
    dimensions: int,
    transposed: bool,
    groups: int,
    channels: tuple[int, int],
    kernel: int,
    stride: int,
    dilation: int,
) -> None:
    """Where every factor is 1 and there is no padding, the sum of all results is the number of products."""
    kinds = (
        (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
        if transposed
        else (nn.Conv1d, nn.Conv2d, nn.Conv3d)
    )
    convolution = kinds[dimensions - 1](
        *(groups * count for count in channels), kernel, stride, groups=groups, dilation=dilation, bias=False
    )
    nn.init.ones_(convolution.weight)
    shape = (groups * channels[0], 5, *(6, 7)[: dimensions - 1])
    network = Apply(lambda x, conv: conv(x.reshape(-1, *shape)), convolution)
    size = (shape[0], 5, torch.Size(shape[2:]).numel())
    assert count_costs(network, size, batch_size=2).num_macs == int(network(torch.ones(2, *size)).sum())


def test_fused_and_plain_attention_cost_the_same_products() -> None:
    fused, plain = (small_vit(fused=fused) for fused in (True, False))
    a, b = count_costs(fused, (3, 32, 32)), count_costs(plain, (3, 32, 32))
    assert "aten::scaled_dot_product_attention" in {call.operator for call in a.calls}
    assert "aten::scaled_dot_product_attention" not in {call.operator for call in b.calls}
    assert (a.num_macs, a.num_activations) == (b.num_macs, b.num_activations)
    assert a.bytes_moved < b.bytes_moved  # the logits stay in the kernel


def small_vit(*, fused: bool) -> nn.Module:
    network = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=1)
    for module in network.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = fused
    return network.eval()  # type: ignore[no-any-return]


NETWORKS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "tiny": (lambda: effvit.create_model("efficientvit_tiny"), 64),
    "tiny, windows with padding": (lambda: effvit.create_model("efficientvit_tiny"), 160),
    "tiny with plain attention": (
        lambda: effvit.EfficientViT(
            family_config(
                "x", widths=(16, 24), depths=(1, 1), num_heads=(2, 2), query_kernels=(), mixer="mhsa", norm="layer"
            )
        ),
        64,
    ),
    "tiny, deploy form": (lambda: effvit.rewrite(effvit.create_model("efficientvit_tiny").eval()), 64),
    **{
        name: (lambda name=name, options=options: timm.create_model(name, **options), size)  # type: ignore[misc]
        for name, size, options in (
            ("vit_tiny_patch16_224", 32, {"img_size": 32, "depth": 2}),
            ("deit_tiny_distilled_patch16_224", 32, {"img_size": 32, "depth": 2}),
            ("swin_tiny_patch4_window7_224", 56, {"img_size": 56, "depths": (1, 1, 2)}),
            ("beit_base_patch16_224", 32, {"img_size": 32, "depth": 1, "embed_dim": 96, "num_heads": 3}),
            ("eva02_tiny_patch14_224", 28, {"img_size": 28, "depth": 2}),
            ("mobilenetv3_small_050", 64, {}),
            ("convnext_atto", 64, {}),
            ("levit_128s", 224, {}),
            ("mobilevit_xxs", 64, {}),
        )
    },
}


@pytest.fixture(scope="module", params=NETWORKS.values(), ids=NETWORKS)
def counted(request: pytest.FixtureRequest) -> tuple[nn.Module, Costs]:
    make, size = request.param
    network = make().eval()
    return network, count_costs(network, (3, size, size), batch_size=2)


def unknown_to_others(costs: Costs) -> set[str]:
    """Products in place and oneDNN's own, of the deploy form: neither torch's counter nor fvcore sees them."""
    return {call.operator for call in costs.calls} & {"aten::addmm_", "mkldnn::_linear_pointwise"}


def test_torch_counts_the_same(counted: tuple[nn.Module, Costs]) -> None:
    """Two of torch's operations are one MAC, module by module."""
    network, costs = counted
    if unknown := unknown_to_others(costs):
        costs = replace(costs, calls=tuple(call for call in costs.calls if call.operator not in unknown))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(2, *costs.input_size))
    assert not costs.uncounted
    assert costs.num_macs > 0
    assert counter.get_total_flops() == 2 * costs.num_macs
    root = type(network).__name__
    theirs = {name: sum(counts.values()) for name, counts in counter.get_flop_counts().items() if name != "Global"}
    ours = {f"{root}.{row.name}".rstrip("."): 2 * row.num_macs for row in costs.by_module() if row.num_macs}
    called = {name: count for name, count in ours.items() if name in theirs}  # containers are not called
    assert called == {name: count for name, count in theirs.items() if count}


@pytest.mark.filterwarnings("ignore")  # of torch.jit, with which fvcore looks at networks
def test_fvcore_counts_the_same(counted: tuple[nn.Module, Costs]) -> None:
    """fvcore knows neither fused attention nor products with an addition: those are taken off."""
    from fvcore.nn import ActivationCountAnalysis, FlopCountAnalysis  # warns when it is imported

    network, costs = counted
    pictures = torch.zeros(2, *costs.input_size)
    unknown_to_it = {"aten::scaled_dot_product_attention", "aten::baddbmm"} | unknown_to_others(costs)
    known = [call for call in costs.calls if call.operator not in unknown_to_it]
    macs = FlopCountAnalysis(network, pictures).unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    products = ("conv", "linear", "matmul", "addmm", "bmm", "mm", "einsum")
    assert sum(macs.by_operator()[kind] for kind in products) == sum(call.num_macs for call in known)
    results = ActivationCountAnalysis(network, pictures)
    results.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    assert results.total() == sum(call.num_activations for call in known)


def test_what_may_multiply_and_is_not_known_is_named() -> None:
    hidden = Apply(lambda x: torch.fft.rfft(torch.linalg.inv(x @ x.mT)).real)
    costs = count_costs(hidden, (8, 6, 5))
    assert set(costs.uncounted) == {"aten::linalg_inv_ex", "aten::_fft_r2c"}
    assert sum(costs.uncounted.values()) == 2
    assert costs.num_macs == 8 * 6 * 5 * 6
    assert costs.total().num_uncounted == 2


def test_operators_of_others_are_named_and_their_parts_counted() -> None:
    """An operator written in torch's own is opened; one with a kernel of its own is not known."""
    library = torch.library.Library("effvit_test", "DEF")
    library.define("opened(Tensor x) -> Tensor")
    library.impl("opened", lambda x: x @ x.mT, "CompositeImplicitAutograd")
    library.define("closed(Tensor x) -> Tensor")
    library.impl("closed", lambda x: x @ x.mT, "CPU")
    library.impl("closed", lambda x: x.new_empty(*x.shape[:-1], x.shape[-2]), "Meta")
    opened = count_costs(Apply(lambda x: torch.ops.effvit_test.opened(x)), (8, 6, 5))
    closed = count_costs(Apply(lambda x: torch.ops.effvit_test.closed(x)), (8, 6, 5))
    assert (opened.num_macs, opened.uncounted) == (8 * 6 * 5 * 6, {})
    assert (closed.num_macs, closed.uncounted) == (0, {"effvit_test::closed": 1})


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_attention_written_as_a_function() -> None:
    """`flex_attention` has no shapes on meta, and no schema: it runs on zeros and is one call."""
    from torch.nn.attention.flex_attention import flex_attention

    costs = count_costs(Apply(lambda x: flex_attention(heads(x), heads(x), heads(x))), (8, 16, 16))
    (call,) = (call for call in costs.calls if call.num_macs)
    assert (call.operator, call.num_macs, costs.traced_on) == ("flex_attention", 2 * 256 * 256 * 8, "cpu")
    assert call.num_activations == 2 * 256 * 256 + 256 * 8
    assert not costs.uncounted


def test_no_operator_of_torch_that_multiplies_is_free() -> None:
    """Through all of torch's own: what is free has no name of a product, but for those listed here."""
    products = re.compile(
        r"(?<!cu)mm|mv|conv|linear|attention|dot|matmul|linalg|fft_[^f]|lstm|gru|rnn|c?dist|cross|kron|solve|chol|einsum"
        r"|svd|qr|inv|trilinear|outer|addr|pack"
    )
    not_products = re.compile(
        r"_?upsample_.*|.*gamma.*|erfinv_?|r?sqrt_?|is_distributed|_linalg_check_errors|linalg_vector_norm|hamming_window"
        r"|resolve_(conj|neg)|fft_rfftfreq"
    )
    free = set()
    for schema in torch._C._jit_get_all_schemas():
        packet = getattr(torch.ops.aten, schema.name.removeprefix("aten::"), None)
        if schema.name.startswith("aten::") and "backward" not in schema.name and packet is not None:
            overload = getattr(packet, schema.overload_name or "default", None)
            if isinstance(overload, torch._ops.OpOverload) and is_free(overload):
                free.add(schema.name.removeprefix("aten::"))
    assert len(free) > 500
    suspicious = {name for name in free if products.search(name) and not not_products.fullmatch(name)}
    assert not suspicious
    assert not free & {name.removeprefix("aten::") for name in FORMULAS}


def test_deformable_convolution() -> None:
    from torchvision.ops import DeformConv2d

    network = Apply(
        lambda x, conv: conv(x, x.new_zeros(x.shape[0], 18, 6, 5)), DeformConv2d(8, 12, 3, padding=1, groups=2)
    )
    costs = count_costs(network, (8, 6, 5))
    assert costs.num_macs == N * 12 * 4 * 9
    assert not costs.uncounted
