"""timm's attention with fewer channels computes what timm's own does."""

from __future__ import annotations

import pytest
import timm
import torch
from helpers import relative_error
from torch import nn

from effvit.errors import ConfigError
from effvit.model.narrow import NarrowAttention, narrow


def test_masks_of_tokens_still_count() -> None:
    original = timm.layers.Attention(24, 3, qkv_bias=True).double().eval()
    original.fused_attn = False
    same = NarrowAttention(original, key_dim=8, value_dim=8)
    same.load_state_dict(original.state_dict())
    tokens = torch.randn(2, 5, 24, dtype=torch.float64)
    allowed = torch.rand(2, 1, 5, 5) < 0.7
    allowed |= torch.eye(5, dtype=torch.bool)
    for fused in (True, False):
        same.fused_attn = fused
        for mask in (allowed, torch.randn(2, 1, 5, 5, dtype=torch.float64)):
            with torch.no_grad():
                assert relative_error(same(tokens, attn_mask=mask), original(tokens, attn_mask=mask)) < 1e-12


def test_shapes_for_another_network_are_refused() -> None:
    with pytest.raises(ConfigError, match="shapes are for another network: 0 is a Linear"):
        narrow(nn.Sequential(nn.Linear(2, 2)), {"0": {"hidden_dim": 3}})
    with pytest.raises(ConfigError, match="shapes are for another network: Linear has no attribute `head`"):
        narrow(nn.Linear(2, 2), {"head": {"hidden_dim": 3}})
