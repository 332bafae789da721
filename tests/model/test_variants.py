"""The rows of Table 6 and the points of Figure 7 are configurations that build, run and train."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from helpers import randomise, relative_error

from effvit.errors import ConfigError
from effvit.model.config import StageConfig
from effvit.model.network import EfficientViT
from effvit.model.variants import VARIANTS, family_config

SMALL = {"widths": (16, 32), "depths": (1, 1), "num_heads": (2, 2), "query_kernels": (5, 3)}
ROWS = {
    "1": {},
    "2 swin layout": {"layout": "swin"},
    "3 two FFNs": {"num_ffns": 2},
    "4 three FFNs": {"num_ffns": 3},
    "5 multi-head attention": {"mixer": "mhsa"},
    "6 no cascade": {"mixer": "grouped"},
    "7 equal widths": {"key_dim": None},
    "8 FFN ratio 4": {"ffn_ratio": 4},
    "9 no token interaction": {"token_interaction": False},
    "10 layer norm": {"norm": "layer"},
    "11 hard swish": {"activation": "hard_swish"},
    **{f"Q/K width {dim}": {"key_dim": dim} for dim in (4, 8, 32, 64)},
    **{f"V ratio {ratio}": {"value_ratio": ratio} for ratio in (0.4, 0.6, 0.8, 1.2)},
}


@pytest.mark.parametrize("row", ROWS)
def test_row_builds_runs_and_learns(row: str) -> None:
    model = EfficientViT(replace(family_config(row, **SMALL, **ROWS[row]), num_classes=4))
    x, target = torch.randn(8, 3, 96, 64), torch.arange(8) % 4
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(12):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), target)
        loss.backward()
        assert all(parameter.grad is not None for parameter in model.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]


@torch.no_grad()
def test_rows_are_different_functions() -> None:
    x = torch.randn(1, 3, 96, 64)
    outputs = {row: randomise(EfficientViT(family_config(row, **SMALL, **ROWS[row]))).eval()(x) for row in ROWS}
    for row, output in outputs.items():
        if row not in ("1", "7 equal widths", "8 FFN ratio 4"):
            assert relative_error(output, outputs["1"]) > 1e-3, row


def test_blocks_may_all_differ() -> None:
    """What pruning leaves: every width of its own."""
    base = family_config("pruned", **SMALL)
    stages = []
    for stage in base.stages:
        first = replace(stage.blocks[0], key_dim=7, value_dim=5, ffn_dims_before=(9,), ffn_dims_after=(21,))
        second = replace(first, num_heads=1, query_kernels=(3,), mixer="mhsa", key_dim=4)
        subsample = stage.subsample and replace(stage.subsample, merge_dim=31, squeeze_dim=3, ffn_dim_before=11)
        stages.append(StageConfig(width=stage.width, subsample=subsample, blocks=(first, second)))
    model = EfficientViT(replace(base, stages=tuple(stages), stem_widths=(3, 5, 7, 16)))
    model(torch.randn(2, 3, 64, 64)).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_query_kernels_are_taken_from_the_front() -> None:
    kernels = {name: [s.blocks[0].query_kernels for s in config.stages] for name, config in VARIANTS.items()}
    assert kernels["efficientvit_m1"] == [(7, 5), (7, 5, 3), (7, 5, 3)]
    assert kernels["efficientvit_m0"] == [(5, 5, 5, 5)] * 3


def test_bad_layout() -> None:
    with pytest.raises(ConfigError, match=r"unknown layout 'sandwhich' .did you mean 'sandwich'"):
        family_config("x", **SMALL, layout="sandwhich")


def test_unequal_lists() -> None:
    with pytest.raises(ConfigError, match="must be equally long and not empty"):
        family_config("x", widths=(8, 16), depths=(1,), num_heads=(1, 1), query_kernels=(3,))
