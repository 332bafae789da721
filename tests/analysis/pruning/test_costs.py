"""The formula of a plan counts what the counter counts."""

from __future__ import annotations

import pytest
import torch
from pruning_networks import random_config

from effvit.analysis.cost import count_costs
from effvit.analysis.pruning.costs import config_cost
from effvit.model.network import EfficientViT
from effvit.model.variants import PUBLISHED, variant_config


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_numbers(name: str) -> None:
    facts = PUBLISHED[name]
    assert config_cost(variant_config(name)) == (facts.num_macs, facts.num_params)


@pytest.mark.parametrize("seed", range(8))
def test_any_configuration_as_counted_by_running_it(seed: int) -> None:
    config = random_config(seed)
    with torch.device("meta"):
        network = EfficientViT(config)
    counted = count_costs(network, (3, *config.image_size))
    assert config_cost(config) == (counted.num_macs, counted.num_params)
