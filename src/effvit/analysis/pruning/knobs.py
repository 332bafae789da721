"""What can be turned down in a network, whoever built it: the words that plan, surgery and report share."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol, get_args

from torch import nn

from effvit.analysis.pruning.costs import Cost
from effvit.errors import ConfigError, unknown_name

Kind = Literal["qk", "value", "ffn", "width", "heads", "merge", "squeeze", "stem"]
KIND_NAMES: dict[str, str] = {
    "qk": "Q/K channels",
    "value": "V channels",
    "ffn": "FFN hidden",
    "width": "width",
    "heads": "heads",
    "merge": "merging inside",
    "squeeze": "squeeze inside",
    "stem": "stem inside",
}
"""Kind of a knob -> what people call it."""

Sizes = Mapping[str, int]
"""Name of a knob -> how many are kept; per head for channels of heads."""


@dataclass(frozen=True, kw_only=True)
class Knob:
    """A number of channels, heads or hidden units that can be made smaller."""

    name: str
    """What it is called; also the name of its scores."""
    kind: Kind
    """What it is."""
    place: str
    """Where it is, for people; knobs of one place stand in one row of a plan."""
    size: int
    """How many there are, per head or split."""
    step: int
    """Sizes below the full one are multiples of this."""
    minimum: int
    """The smallest size allowed."""
    width: int
    """Channels of the layer that it is in, which ratios are against."""
    heads: int = 1
    """In how many heads or splits there are as many."""

    def below(self, size: int) -> int | None:
        """The next smaller size; None if this one is the smallest."""
        smaller = (size - 1) // self.step * self.step
        return smaller if smaller >= self.minimum else None


class Surroundings(NamedTuple):
    """What a size is counted in and compared with; both may shrink with other knobs."""

    width: int
    """Channels of the layer around it."""
    heads: int
    """In how many heads or splits there are as many."""


class Ranking(Protocol):
    """A network whose channels stand in an order: what any set of sizes costs, loses and leaves."""

    knobs: tuple[Knob, ...]
    """Everything that can be turned down."""
    left_alone: tuple[str, ...]
    """What was found and cannot be pruned exactly, with the reason, a sentence each."""

    def cost(self, sizes: Sizes) -> Cost:
        """What the network of these sizes takes for one picture."""

    def lost(self, sizes: Sizes) -> float:
        """Sum of the scores of all that is removed."""

    def settled(self, sizes: Sizes) -> dict[str, int]:
        """The same sizes, lowered where another size leaves no room for them."""

    def pruned(self, network: nn.Module, sizes: Sizes) -> nn.Module:
        """A smaller network that computes what `masked` does."""

    def masked(self, network: nn.Module, sizes: Sizes) -> nn.Module:
        """A network of the full size with the weights of all that is removed at zero."""

    def surroundings(self, sizes: Sizes) -> dict[str, Surroundings]:
        """Name of each knob -> what is around it after the pruning."""

    def describe(self, sizes: Sizes) -> dict[str, Any]:
        """The smaller network as plain values for JSON."""


def full_sizes(ranking: Ranking) -> dict[str, int]:
    """Nothing removed."""
    return {knob.name: knob.size for knob in ranking.knobs}


def check_kinds(kinds: tuple[str, ...]) -> tuple[Kind, ...]:
    """The kinds asked for.

    Raises:
        ConfigError: If there is none or one is unknown.
    """
    for kind in kinds:
        if kind not in get_args(Kind):
            raise ConfigError(unknown_name("part to prune", kind, get_args(Kind)))
    if not kinds:
        raise ConfigError(f"no part to prune is named; there are {', '.join(get_args(Kind))}")
    return kinds  # type: ignore[return-value]  # each was looked at


def make_knob(
    name: str,
    kind: Kind,
    place: str,
    size: int,
    *,
    multiple: int,
    min_share: float,
    width: int,
    heads: int = 1,
) -> Knob:
    """A knob whose sizes are friendly to the vector units of a processor.

    Args:
        name: See `Knob`.
        kind: See `Knob`.
        place: See `Knob`.
        size: See `Knob`.
        multiple: What hidden sizes are multiples of; V channels of half and Q/K channels of a quarter of it, and
            a stage's width over all its splits.
        min_share: Share of the full size that is kept at least.
        width: See `Knob`.
        heads: See `Knob`.
    """
    per = {"qk": multiple // 4, "value": multiple // 2, "squeeze": multiple // 2, "heads": 1}
    step = multiple // math.gcd(multiple, heads) if kind == "width" else max(1, per.get(kind, multiple))
    step = min(step, size)
    # At least one step remains: nothing can be pruned away.
    minimum = max(step, -(-round(min_share * size * 1e6) // 1_000_000))
    return Knob(name=name, kind=kind, place=place, size=size, step=step, minimum=minimum, width=width, heads=heads)
