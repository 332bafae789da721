"""Parameters and multiply-accumulates of the paper's six, exact."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import effvit
from effvit.model.variants import PUBLISHED

PAPER_MACS_IN_MILLIONS = (79, 167, 201, 263, 299, 522)


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters(name: str) -> None:
    model = effvit.create_model(name)
    assert sum(parameter.numel() for parameter in model.parameters()) == PUBLISHED[name].num_params


@pytest.mark.parametrize("name", PUBLISHED)
def test_macs(name: str) -> None:
    with torch.device("meta"):
        model = effvit.create_model(name).eval()
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(torch.empty(1, 3, 224, 224))
    assert counter.get_total_flops() == 2 * PUBLISHED[name].num_macs


def test_macs_round_to_the_papers() -> None:
    assert tuple(round(facts.num_macs / 1e6) for facts in PUBLISHED.values()) == PAPER_MACS_IN_MILLIONS


def test_macs_of_one_attention_by_hand() -> None:
    """The counter sees both products of attention, not only the convolutions."""
    model = effvit.create_model("efficientvit_m0").eval()
    attention = model.stages[0][0].attention.body
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        attention(torch.randn(1, 64, 7, 7))
    tokens, split, heads = 49, 16, 4
    qkv, query, products = tokens * split * 48, tokens * 16 * 25, 2 * tokens * tokens * 16
    assert counter.get_total_flops() == 2 * (heads * (qkv + query + products) + tokens * 64 * 64)
