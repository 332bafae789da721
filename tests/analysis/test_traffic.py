"""Bytes of single operators, by hand: float32 unless said otherwise."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from effvit.analysis.cost import OperatorCall, count_costs

X = 8 * 6 * 5  # elements of the picture


class Apply(nn.Module):
    def __init__(self, function: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> object:
        return self.function(x)


def calls_of(function: Callable[[Tensor], object]) -> list[OperatorCall]:
    """Everything but views and what makes the operands."""
    costs = count_costs(Apply(function), (8, 6, 5))
    makers = ("aten::new_zeros", "aten::new_empty", "aten::zeros", "aten::empty")
    return [call for call in costs.calls if not call.is_view and call.operator not in makers]


BY_HAND: dict[str, tuple[Callable[[Tensor], object], int, int]] = {
    "sum of two": (lambda x: x + x.new_zeros(8, 6, 5), 2 * X, X),
    "one operand twice is read once": (lambda x: x * x, X, X),
    "also when it is turned": (lambda x: x[0, 0] @ x[0, 0].t(), 30, 36),
    "two halves of one tensor": (lambda x: x[:, :4] + x[:, 4:], X, X // 2),
    "the same half twice": (lambda x: x[:, 4:] + x[:, 4:], X // 2, X // 2),
    "what is repeated lies in memory once": (lambda x: x + x[:, :1, :1, :1].expand(-1, 8, 6, 5), X + 1, X),
    "windows that overlap lie in memory once": (lambda x: x.reshape(-1).unfold(0, 10, 1).exp(), X, 231 * 10),
    "in place": (lambda x: x.relu_(), X, X),
    "in place, two": (lambda x: x.add_(x.new_zeros(5)), X + 5, X),
    "copy into a part": (lambda x: x[:, :2].copy_(x[:, 2:4]), X // 4, X // 4),
    "fill": (lambda x: x.fill_(1.0), 0, X),
    "into a given result": (lambda x: torch.add(x, 1, out=x.new_empty(1, 8, 6, 5)), X, X),
    "clone": (lambda x: x.transpose(1, 2).contiguous(), X, X),
    "cat": (lambda x: torch.cat([x, x.new_zeros(1, 1, 6, 5)], 1), X + 30, X + 30),
    "pad": (lambda x: F.pad(x, (0, 1, 0, 1)), X, 8 * 7 * 6),
    "softmax": (lambda x: x.softmax(-1), X, X),
    "mean": (lambda x: x.mean((2, 3)), X, 8),
    "batch norm": (lambda x: F.batch_norm(x, *(x.new_zeros(8) for _ in range(4))), X + 4 * 8, X),
    "layer norm, with its statistics": (lambda x: F.layer_norm(x, (5,)), X, X + 2 * 48),
    "convolution": (lambda x: F.conv2d(x, x.new_zeros(4, 4, 3, 3), x.new_zeros(4), groups=2), X + 144 + 4, 4 * 12),
    "attention": (
        lambda x: F.scaled_dot_product_attention(x, x[:, :, :3], x.new_zeros(1, 8, 3, 2)),
        X + 8 * 3 * 5 + 8 * 3 * 2,
        8 * 6 * 2,
    ),
}  # fmt: skip


@pytest.mark.parametrize(("function", "read", "written"), BY_HAND.values(), ids=BY_HAND)
def test_one_operator_by_hand(function: Callable[[Tensor], object], read: int, written: int) -> None:
    (call,) = calls_of(function)
    assert (call.bytes_read, call.bytes_written) == (4 * read, 4 * written)


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x.reshape(8, 30),
        lambda x: x.permute(0, 2, 3, 1),
        lambda x: x[:, 1:3].expand(4, -1, -1, -1),
        lambda x: x.split(2, 1),
        lambda x: x.detach().squeeze_(0),
        lambda x: x.contiguous(),
        lambda x: F.dropout(x, 0.5, training=False),
        lambda x: x.float(),
        lambda x: torch.empty_like(x),
    ],
)
def test_views_move_nothing(view: Callable[[Tensor], object]) -> None:
    costs = count_costs(Apply(view), (8, 6, 5))
    assert costs.bytes_moved == 0
    assert not costs.uncounted


def test_tables_are_read_where_they_are_picked_from() -> None:
    """Two rows of a large table are two rows; a small table picked from often is read once."""
    index = torch.tensor([1, 3])
    large, small, embedding = (
        calls_of(function)[0]
        for function in (
            lambda x: x.new_zeros(1000, 7).index_select(0, index),
            lambda x: x.new_zeros(2, 7)[index.repeat(3) - 1],
            lambda x: F.embedding(index, x.new_zeros(1000, 7)),
        )
    )
    small = calls_of(lambda x: x.new_zeros(2, 7).index_select(0, torch.zeros(9, dtype=torch.int64)))[-1]
    assert (large.bytes_read, large.bytes_written) == (4 * 14 + 2 * 8, 4 * 14)
    assert (small.bytes_read, small.bytes_written) == (4 * 14 + 9 * 8, 4 * 63)
    assert (embedding.bytes_read, embedding.bytes_written) == (4 * 14 + 2 * 8, 4 * 14)


def test_scattering_writes_what_it_brings() -> None:
    def put(x: Tensor) -> None:
        x.new_zeros(1000, 7)[torch.tensor([1, 3])] = x.new_zeros(2, 7)

    call = calls_of(put)[-1]
    assert call.operator == "aten::index_put_"
    assert (call.bytes_read, call.bytes_written) == (4 * 14 + 2 * 8, 4 * 14)


def test_casting_reads_one_type_and_writes_another() -> None:
    (call,) = calls_of(lambda x: x.half())
    assert (call.bytes_read, call.bytes_written) == (4 * X, 2 * X)


def test_half_precision_halves_the_bytes_of_a_network() -> None:
    network = nn.Sequential(nn.Conv2d(8, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(48, 3))
    single, half = count_costs(network, (8, 6, 5)), count_costs(network.half(), (8, 6, 5))
    assert 2 * half.bytes_read == single.bytes_read
    assert 2 * half.bytes_written == single.bytes_written
    assert (half.num_macs, half.dtype) == (single.num_macs, "float16")
