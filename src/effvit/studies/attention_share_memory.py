"""Which share of their time the networks of Figure 3 spend on moving memory, and what they cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import torch

from effvit.analysis.cost import count_costs
from effvit.analysis.profiling.profiler import profile
from effvit.analysis.ratios.families import Subnetwork
from effvit.environment import environment
from effvit.files import write_json
from effvit.model.sources import RANDOM, FoundModel
from effvit.preprocessing import Preprocessing
from effvit.studies.attention_share_curves import SpeedSettings, build, deployed
from effvit.studies.kept import as_json, read_same

_ROUNDS = 5
"""Samples of each network's wall time: equal speed was measured before, here only shares are wanted."""


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Where the time of one network goes."""

    share: float
    """Of the operators' time, in those that the paper calls memory-bound: moving data, element-wise, norms, softmax."""
    shares: dict[str, float]
    """Of each class of operators; they add up to 1."""
    images_per_second: float
    """In wall time."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a network costs before anything is measured."""

    num_params: int
    """Parameters."""
    num_macs: int
    """Multiply-accumulates of one picture."""


@cache
def cost_of(network: Subnetwork) -> Cost:
    """Parameters and multiply-accumulates, on shapes alone."""
    with torch.device("meta"):
        made = network.make().eval()
    costs = count_costs(made, (3, *network.image_size))
    return Cost(num_params=costs.num_params, num_macs=costs.num_macs)


def memory_of(
    networks: Mapping[str, Subnetwork],
    path: Path,
    settings: SpeedSettings,
    *,
    on_note: Callable[[str], None] = lambda _: None,
) -> dict[str, Memory]:
    """Profile networks in the form that was timed, or read what was profiled before.

    Args:
        networks: By name.
        path: The file where it is kept.
        settings: Batch, threads and device, as speed is measured.
        on_note: Told in a line what is profiled.
    """
    asked = as_json(
        {
            "networks": {name: network.to_dict() for name, network in networks.items()},
            "batch_size": settings.batch_size,
            "num_threads": settings.num_threads,
            "device": settings.device,
        }
    )
    kept = read_same(path, asked)
    if kept is None:
        models = [
            FoundModel(
                label=name,
                network=deployed(build(network), network.image_size),
                input_size=(3, *network.image_size),
                weights=RANDOM,
                preprocessing=Preprocessing(image_size=network.image_size),
            )
            for name, network in networks.items()
        ]
        found = profile(
            models,
            device=settings.device,
            batch_size=settings.batch_size,
            num_threads=settings.num_threads,
            rounds=_ROUNDS,
            min_round_seconds=settings.round_seconds,
            on_step=on_note,
        )
        memory = {
            model.label: Memory(
                share=model.memory_share, shares=model.shares, images_per_second=model.images_per_second
            )
            for model in found.models
        }
        plain = {name: asdict(entry) for name, entry in memory.items()}
        kept = {"settings": asked, "memory": plain, "environment": environment()}
        write_json(path, kept)
    return {name: Memory(**values) for name, values in kept["memory"].items()}
