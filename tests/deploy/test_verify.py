"""The comparison: its numbers by hand, and wrong networks that it must refuse."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from effvit.deploy.verify import TOLERANCE, Labelled, verify
from effvit.errors import ConfigError, ExportError
from effvit.model.attention import CascadedGroupAttention, WindowAttention
from effvit.model.network import EfficientViT


def answers(*batches: list[list[float]]) -> Callable[[Tensor], Tensor]:
    """A model that gives these logits, batch after batch."""
    remaining = iter(batches)
    return lambda images: torch.tensor(next(remaining))


def batches(*sizes: int) -> list[Tensor]:
    return [torch.zeros(size, 3, 8, 8) for size in sizes]


def test_the_numbers_are_those_of_all_batches() -> None:
    reference = answers([[1.0, -8.0], [2.0, 3.0]], [[0.0, 1.0]])
    candidate = answers([[1.0, -8.0], [2.5, 2.0]], [[0.0, 1.0]])
    result = verify(reference, candidate, batches(2, 1))
    assert result.num_pictures == 3
    assert result.max_abs_error == 1
    assert result.max_rel_error == 1 / 8
    assert result.top1_agreement == pytest.approx(2 / 3)
    assert not result.passed
    assert verify(reference=answers([[4.0]]), candidate=answers([[5.0]]), batches=batches(1), tolerance=0.25).passed


def test_a_model_agrees_with_itself(network: EfficientViT) -> None:
    result = verify(network, copy.deepcopy(network), [torch.randn(3, 3, 64, 64, dtype=torch.float64)])
    assert (result.max_abs_error, result.top1_agreement, result.passed) == (0, 1, True)
    assert json.loads(json.dumps(result.to_dict()))["passed"] is True


def test_a_tie_may_go_either_way() -> None:
    reference = answers([[1.0, 1.0 - 1e-6, 0.0]])
    candidate = answers([[1.0 - 1e-6, 1.0, 0.0]])
    result = verify(reference, candidate, batches(1))
    assert result.top1_agreement == 0
    assert result.passed


def test_in_a_passed_check_a_class_changes_only_between_ties() -> None:
    logits = torch.randn(500, 10, dtype=torch.float64)
    allowed = TOLERANCE * logits.abs().max()
    rows, (first, second) = torch.arange(500), logits.topk(2).indices.unbind(1)
    gap = 5 * allowed * torch.rand(500, dtype=torch.float64)  # some ties, some not
    logits[rows, second] = logits[rows, first] - gap
    noisy = logits + (torch.rand(500, 10, dtype=torch.float64) * 2 - 1) * allowed
    result = verify(lambda _: logits, lambda _: noisy, batches(500))
    assert result.passed
    changed = logits.argmax(1) != noisy.argmax(1)
    assert 10 < changed.sum() < 250
    assert result.top1_agreement == pytest.approx(1 - changed.double().mean().item())
    assert gap[changed].max() <= 2 * result.max_abs_error


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_what_is_no_number_does_not_pass(broken: float) -> None:
    # In the first of two batches, so that a later good batch cannot make up for it.
    candidate = answers([[1.0, broken]], [[1.0, 2.0]])
    assert not verify(answers([[1.0, 2.0]], [[1.0, 2.0]]), candidate, batches(1, 1)).passed
    both = [[broken, 1.0]]
    assert not verify(answers(both), answers(both), batches(1)).passed


def test_of_a_silent_network_only_silence_is_right() -> None:
    assert verify(answers([[0.0, 0.0]]), answers([[0.0, 0.0]]), batches(1)).passed
    assert not verify(answers([[0.0, 0.0]]), answers([[0.0, 1e-30]]), batches(1)).passed


def test_accuracy_is_counted_on_labelled_pictures_alone() -> None:
    labelled = Labelled(torch.zeros(2, 3, 8, 8), torch.tensor([0, 1]))
    reference = answers([[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0]])
    candidate = answers([[1.0, 0.0], [1.0, 0.0]], [[1.0, 0.0]])
    result = verify(reference, candidate, [labelled, torch.zeros(1, 3, 8, 8)])
    assert (result.top1_reference, result.top1_candidate) == (1.0, 0.5)
    assert result.num_pictures == 3 and result.top1_agreement == pytest.approx(2 / 3)
    result = verify(answers([[1.0]]), answers([[1.0]]), batches(1))
    assert result.top1_reference is None and result.top1_candidate is None


@pytest.mark.parametrize(("changed", "passed"), [(0, True), (1, True), (2, False)])
def test_where_agreement_decides_the_error_does_not(changed: int, passed: bool) -> None:
    logits = torch.tensor([[2.0, 1.0]]).repeat(10, 1)
    other = 50 * logits
    other[:changed] = other[:changed].flip(1)
    result = verify(lambda _: logits, lambda _: other, batches(10), tolerance=0.1, measure="agreement")
    assert result.passed is passed
    assert f"same first class on {100 - 10 * changed:.2f}% of 10 pictures (at least: 90.00%)" in str(result)
    other[0] = math.nan
    assert not verify(lambda _: logits, lambda _: other, batches(10), tolerance=1.0, measure="agreement").passed


def test_bad_comparisons_are_refused() -> None:
    with pytest.raises(ConfigError, match="at least one picture, got none"):
        verify(answers(), answers(), [])
    with pytest.raises(ExportError, match=r"expected \(1, 2\), got \(1, 3\)"):
        verify(answers([[1.0, 2.0]]), answers([[1.0, 2.0, 3.0]]), batches(1))


def _bias_perturbed(model: EfficientViT) -> None:
    with torch.no_grad():
        model.stem[0].norm.bias[0] += 0.5


def _cascade_dropped(model: EfficientViT) -> None:
    attention = [m for m in model.modules() if isinstance(m, CascadedGroupAttention)][-1]
    attention.cascade = False


def _padding_unmasked(model: EfficientViT) -> None:
    model.stages[0][0].attention.body.mask_padding = False


def _bias_tables_forgotten(model: EfficientViT) -> None:
    for module in model.modules():
        if isinstance(module, WindowAttention):
            nn.init.zeros_(module.attention_biases)


def _one_head_for_two(model: EfficientViT) -> None:
    model.head_distilled = None


FAULTS = [_bias_perturbed, _cascade_dropped, _padding_unmasked, _bias_tables_forgotten, _one_head_for_two]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_wrong_network_is_refused(fault: Callable[[EfficientViT], None], network: EfficientViT) -> None:
    """In float32 against float64: rounding passes, one fault does not."""
    images = [torch.randn(2, 3, 160, 272)]

    def reference(x: Tensor) -> Tensor:
        return network(x.double())

    candidate = copy.deepcopy(network).float()
    assert verify(reference, candidate, images).passed
    fault(candidate)
    assert not verify(reference, candidate, images).passed
