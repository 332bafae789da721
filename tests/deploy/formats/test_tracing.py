"""What is said otherwise for a converter is the same function."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from effvit.deploy.formats.base import WriteOptions
from effvit.deploy.formats.program import to_program
from effvit.deploy.formats.tracing import Restated, product_and_sum, trace
from effvit.silence import silence


@pytest.mark.parametrize("factors", [{}, {"alpha": 0.3}, {"beta": 2.0}, {"alpha": 0.3, "beta": 0.5}])
@pytest.mark.parametrize("shape", [(4, 4), (3, 4, 4), (3, 1, 4)])
@pytest.mark.parametrize("product", [torch.bmm, torch.matmul])
def test_a_product_and_a_sum_are_the_same(
    factors: dict[str, float], shape: tuple[int, ...], product: Callable[[Tensor, Tensor], Tensor]
) -> None:
    added, first, second = torch.randn(shape), torch.randn(3, 4, 5), torch.randn(3, 5, 4)
    said = product_and_sum(added, first, second, **factors, product=product)
    torch.testing.assert_close(said, torch.baddbmm(added, first, second, **factors))


class Cut(nn.Module):
    """Arithmetic on sizes that rounds up, and an operator to say otherwise."""

    def forward(self, x: Tensor) -> Tensor:
        rows = -(-x.shape[2] // 4)
        x = nn.functional.pad(x, (0, 0, 0, rows * 4 - x.shape[2]))
        return x.reshape(x.shape[0], -1, 4).sin().mean(1)


def test_a_trace_has_no_arithmetic_on_sizes_and_says_what_it_was_told() -> None:
    example = torch.randn(2, 3, 10, 6)
    program = to_program(Cut().eval(), example, WriteOptions(batch_size=2))
    traced = trace(program, example, {})
    assert torch.equal(traced(example), Cut()(example))
    kinds = {node.kind() for node in traced.inlined_graph.nodes()}
    assert "aten::sin" in kinds and not kinds & {"aten::size", "aten::floor_divide", "aten::mul", "aten::neg"}
    said = Restated(program, {torch.ops.aten.sin.default: torch.cos})
    expected = nn.functional.pad(example, (0, 0, 0, 2)).reshape(2, -1, 4).cos().mean(1)
    assert torch.equal(said(example), expected)
    assert torch.equal(trace(program, example, {torch.ops.aten.sin.default: torch.cos})(example), expected)


def test_silence_is_whole_and_ends(capfd: pytest.CaptureFixture[str]) -> None:
    sys.stdout.write("before\n")
    with silence():
        sys.stderr.write("python")
        os.write(1, b"library")
        os.write(2, b"library")
    with pytest.raises(ValueError, match="inside"), silence():
        raise ValueError("inside")
    os.write(2, b"after")
    sys.stdout.write("after\n")
    assert capfd.readouterr() == ("before\nafter\n", "after")
