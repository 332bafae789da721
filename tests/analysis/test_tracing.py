"""What a trace sees, of networks of every kind, and that it leaves them as they were."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from effvit.analysis.cost import count_costs
from effvit.errors import ConfigError


class Net(nn.Module):
    """A convolution inside a container, a product of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.ModuleDict({"conv": nn.Conv2d(3, 4, 3), "norm": nn.Sequential(nn.BatchNorm2d(4))})

    def forward(self, x: Tensor) -> Tensor:
        x = self.body["norm"](self.body["conv"](x))
        return x @ x.mT


def names(network: nn.Module, size: int = 8) -> list[tuple[str, str]]:
    return [(c.module, c.operator) for c in count_costs(network, (3, size, size)).calls if not c.is_view and c.shapes]


def test_calls_carry_the_innermost_module_in_order() -> None:
    assert names(Net()) == [
        ("body.conv", "aten::convolution"),
        ("body.norm.0", "aten::native_batch_norm"),
        ("", "aten::bmm"),
    ]


def test_a_module_in_two_places_has_its_first_name() -> None:
    conv = nn.Conv2d(3, 3, 1)
    costs = count_costs(nn.Sequential(conv, nn.ReLU(), conv), (3, 8, 8))
    assert [call.module for call in costs.calls] == ["0", "1", "0"]
    assert costs.num_params == 12


def test_the_network_is_left_as_it_was() -> None:
    """Mode, weights, statistics, hooks and what forward keeps: nothing changes."""

    class Counting(Net):
        seen = 0

        def forward(self, x: Tensor) -> Tensor:
            self.seen += 1
            self.kept = x
            return super().forward(x)

    network = Counting().train()
    before = copy.deepcopy(network.state_dict())
    costs = count_costs(network, (3, 8, 8), batch_size=4)
    assert network.training
    assert network.seen == 0
    assert not hasattr(network, "kept")
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())
    assert all(p.requires_grad and p.device.type == "cpu" for p in network.parameters())
    assert costs.calls == count_costs(network.eval(), (3, 8, 8), batch_size=4).calls  # evaluation mode either way


def test_a_network_on_meta_is_enough() -> None:
    with torch.device("meta"):
        shapes = Net()
    assert count_costs(shapes, (3, 8, 8)).calls == count_costs(Net(), (3, 8, 8)).calls


class Reading(nn.Module):
    """Looks at a number."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x * 2 if x.mean() > 1 else x)


def test_real_tensors_where_shapes_are_not_enough() -> None:
    network = Reading().train()
    costs = count_costs(network, (3, 8, 8))
    assert costs.traced_on == "cpu"
    assert "item() cannot be called on meta tensors" in costs.reason
    assert costs.num_macs == 36 * 4 * 27
    assert network.training
    assert not network.conv._forward_hooks


def test_attention_is_seen_whole_on_real_tensors_too() -> None:
    class Attending(Reading):
        def forward(self, x: Tensor) -> Tensor:
            super().forward(x)
            q = x.flatten(2)
            return nn.functional.scaled_dot_product_attention(q, q, q)

    costs = count_costs(Attending(), (3, 8, 8))
    assert costs.traced_on == "cpu"
    (call,) = (call for call in costs.calls if call.operator == "aten::scaled_dot_product_attention")
    assert call.num_macs == 2 * 3 * 3 * 64
    assert call.bytes_written == 4 * 3 * 64


def test_constants_made_on_the_cpu() -> None:
    class Constant(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            ramp = torch.arange(8.0)
            return x * ramp if ramp.sum().item() == 28 else x

    costs = count_costs(Constant(), (3, 8, 8))
    assert costs.traced_on == "meta"
    assert "aten::mul" in {call.operator for call in costs.calls}


@pytest.mark.parametrize("wrap", [torch.compile, nn.DataParallel])
def test_wrapped_networks_cost_what_is_inside(wrap: type[nn.Module]) -> None:
    wrapped, plain = count_costs(wrap(Net()), (3, 8, 8)), count_costs(Net(), (3, 8, 8))
    assert [call.operator for call in wrapped.calls] == [call.operator for call in plain.calls]
    assert wrapped.bytes_moved == plain.bytes_moved
    assert not wrapped.uncounted


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning", "ignore:.*torch.jit.*:DeprecationWarning")
def test_scripted_parts_belong_to_the_module_around_them() -> None:
    costs = count_costs(nn.Sequential(torch.jit.script(nn.Conv2d(3, 4, 3)), nn.Conv2d(4, 4, 1)), (3, 8, 8))
    assert [(call.module, call.num_macs) for call in costs.calls] == [("", 36 * 4 * 27), ("1", 36 * 16)]


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm`")
def test_weights_that_are_computed() -> None:
    """Both weight norms of torch: one keeps a tensor that is neither parameter nor buffer."""
    for wrap in (torch.nn.utils.weight_norm, torch.nn.utils.parametrizations.weight_norm):
        costs = count_costs(nn.Sequential(wrap(nn.Conv2d(3, 4, 3))), (3, 8, 8))
        assert (costs.num_macs, costs.traced_on, costs.uncounted) == (36 * 4 * 27, "meta", {})


def test_fast_path_of_attention_is_off_and_restored() -> None:
    """On real tensors torch would take one kernel for the whole layer."""
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    for first in (nn.Identity(), Reading()):
        network = nn.Sequential(first, nn.Flatten(2), nn.LazyLinear(8), layer)
        network(torch.zeros(1, 3, 8, 8))
        costs = count_costs(network, (3, 8, 8))
        operators = {call.operator for call in costs.calls}
        assert costs.traced_on == ("meta" if isinstance(first, nn.Identity) else "cpu")
        assert "aten::scaled_dot_product_attention" in operators
        assert not any("transformer_encoder" in operator or "native_multi_head" in operator for operator in operators)
        assert torch.backends.mha.get_fastpath_enabled()


def test_what_hooks_call_belongs_to_their_module() -> None:
    network = Net()
    network.body["conv"].register_forward_pre_hook(lambda _, inputs: (inputs[0] * 2,))
    network.body["conv"].register_forward_hook(lambda _, __, output: output.neg())
    assert names(network)[:3] == [
        ("body.conv", "aten::mul"),
        ("body.conv", "aten::convolution"),
        ("body.conv", "aten::neg"),
    ]


def test_what_does_not_run_is_one_line() -> None:
    with pytest.raises(
        ConfigError, match=r"does not run on an input of 1x4x8x8: .*expected input.*3 channels"
    ) as failed:
        count_costs(Net(), (4, 8, 8))
    assert "\n" not in str(failed.value)
    with pytest.raises(ConfigError, match=r"1x3x8x8: Attempted to use an uninitialized parameter"):
        count_costs(nn.LazyConv2d(4, 3), (3, 8, 8))


@pytest.mark.parametrize(("size", "batch_size"), [((3, 0, 8), 1), ((3, 8), 1), ((3, 8, 8), 0)])
def test_sizes_that_are_none(size: tuple[int, int, int], batch_size: int) -> None:
    given = f"got {'x'.join(map(str, size))} and {batch_size}"
    with pytest.raises(ConfigError, match=given):
        count_costs(Net(), size, batch_size=batch_size)
