"""Figure 3 as values: curves of networks that should be equally fast, how speed is measured, and what came out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from effvit.analysis.ratios.families import Subnetwork, find_family
from effvit.analysis.ratios.spread import count_for
from effvit.analysis.scaling import Match
from effvit.analysis.speed_meter import SpeedMeter
from effvit.deploy.rewrite import rewrite
from effvit.errors import ConfigError
from effvit.model.network import EfficientViT
from effvit.timing import Spread


@dataclass(frozen=True, kw_only=True)
class SpeedSettings:
    """How speed is measured."""

    batch_size: int = 16
    """Pictures per call; 16 and one thread are the paper's for the CPU."""
    num_threads: int = 1
    """Threads within an operator, on the CPU."""
    device: str = "cpu"
    """Where it is measured."""
    tolerance: float = 0.03
    """Share by which a network may miss its speed, above 0 and below 1."""
    rounds: int = 7
    """Of a trial in the search of a width."""
    confirm_rounds: int = 15
    """Of the measurement that ends the search."""
    together_rounds: int = 5
    """Of that of all networks together, which decides."""
    together_builds: int = 20
    """How often that is repeated at a time, the networks made anew. The median of five rounds of a small network was
    seen to move by 5 % from one time to the next on a shared machine, the baseline's against itself too: twenty bring
    it near 1 %. Where that is not enough there are as many again."""
    round_seconds: float = 0.05
    """About how long a sample is."""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Networks of a family that should all be equally fast: one line of Figure 3."""

    baseline: Subnetwork
    """The family's network as its authors share it out; what speed is relative to."""
    speed: float
    """How many times as fast as the baseline."""
    shares: tuple[float, ...]
    """Shares of attention asked for, 0..1."""

    def __post_init__(self) -> None:
        counts = self.counts
        if twice := sorted({count for count in counts if counts.count(count) > 1}):
            family = find_family(self.baseline.family)
            raise ConfigError(
                f"{family.name}: two of the shares are the same network, {twice[0]} of {family.num_layers} layers"
            )

    @property
    def counts(self) -> tuple[int, ...]:
        """Attention layers of each network, in the order of the shares."""
        num_layers = find_family(self.baseline.family).num_layers
        return tuple(count_for(share, num_layers) for share in self.shares)

    def name_of(self, num_attention: int) -> str:
        """What one of its networks is called in a folder."""
        return f"{self.baseline.family}-{self.speed:g}x-attention-{num_attention:02d}"


@dataclass(frozen=True, kw_only=True)
class SpeedMember:
    """A network that has its speed."""

    name: str
    """Unique in a study."""
    curve: Curve
    """What it is a point of."""
    network: Subnetwork
    """The network."""
    search: Match
    """How its inner width was found, in percent, before the corrections."""
    speed: Spread
    """How many times as fast as the baseline, measured together with all others: median and quartiles over builds."""

    @property
    def achieved(self) -> float:
        """Measured speed over the one it should have."""
        return self.speed.median / self.curve.speed


@dataclass(frozen=True, kw_only=True)
class SpeedSet:
    """All networks of a family, and the measurement that shows them to be equally fast."""

    baseline: Subnetwork
    """What speed is relative to."""
    members: tuple[SpeedMember, ...]
    """Curve by curve, in the order of the shares."""
    control: Spread
    """The baseline over itself: what the machine's noise looks like."""
    rounds: int
    """Of each build's measurement; speeds are median and quartiles over the builds."""
    builds: int
    """Of the network that has the fewest."""
    environment: Mapping[str, Any]
    """The machine that measured."""


def deployed(network: nn.Module, image_size: tuple[int, int]) -> nn.Module:
    """The form that is timed and profiled: ours rewritten for this picture size, others as they are."""
    return rewrite(network, image_size=image_size) if isinstance(network, EfficientViT) else network.eval()


def meter_for(baseline: Subnetwork, settings: SpeedSettings) -> SpeedMeter:
    """What compares two networks of the baseline's family."""
    return SpeedMeter(
        input_size=(3, *baseline.image_size),
        batch_size=settings.batch_size,
        device=settings.device,
        num_threads=settings.num_threads,
        prepare=partial(deployed, image_size=baseline.image_size),
        round_seconds=settings.round_seconds,
    )


def build(network: Subnetwork) -> nn.Module:
    """With random weights, always the same; speed does not depend on them, and no other random number is used up."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return network.make().eval()
