"""Costs of well-known networks, counted once for all test files."""

from __future__ import annotations

from functools import cache

import timm
import torch

import effvit
from effvit.analysis.cost import Costs, count_costs


@cache
def costs_of(name: str) -> Costs:
    """Costs of one picture of 224 x 224 in a network of ours or of timm, both without numbers."""
    with torch.device("meta"):
        network = effvit.create_model(name) if name.startswith("efficientvit") else timm.create_model(name)
    return count_costs(network, (3, 224, 224))
