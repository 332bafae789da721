"""From scores to sizes: remove step by step what loses least, until a limit is met.

Each step makes one knob one step smaller: the one that loses the least importance for what it saves (`per_cost`), or
the least importance for a channel (`plain`, as in the paper's Fig. 5, where what is saved is not looked at).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from torch import nn

from effvit.analysis.pruning.costs import Cost
from effvit.analysis.pruning.knobs import Knob, Ranking, Sizes, Surroundings, full_sizes
from effvit.analysis.pruning.limits import Limit, LimitKind
from effvit.errors import ConfigError, unknown_name

Order = Literal["per_cost", "plain"]
Latency = Callable[[nn.Module], tuple[float, float]]
"""Times a candidate and the full network in turns: milliseconds of one call of each."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """A point on the way down."""

    knob: str
    """The knob that was turned; empty at the start."""
    sizes: dict[str, int]
    """All sizes after it."""
    cost: Cost
    """What the network takes after it."""
    lost: float
    """Sum of the scores of all that is removed."""


@dataclass(frozen=True, kw_only=True)
class Spent:
    """What turning one knob came to on the way."""

    macs: int = 0
    """Multiply-adds saved by its steps."""
    params: int = 0
    """Parameters saved."""
    lost: float = 0.0
    """Importance lost."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to remove, and why."""

    limit: Limit
    """What was to be met."""
    order: Order
    """By what the steps were chosen."""
    knobs: tuple[Knob, ...]
    """Everything that could have been turned."""
    steps: tuple[Step, ...]
    """From the full network down to the plan."""
    surroundings: dict[str, Surroundings]
    """What is around each knob after the pruning."""
    total_importance: float
    """Sum of the scores of all channels."""
    latency_ms: tuple[float, float] | None = None
    """Time of the pruned and of the full network, measured in turns; None where the limit was another."""
    left_alone: tuple[str, ...] = ()
    """What could not be pruned exactly."""
    network: dict[str, Any] = field(default_factory=dict)
    """The smaller network as plain values."""

    @property
    def sizes(self) -> dict[str, int]:
        """Name of each knob -> how many are kept."""
        return self.steps[-1].sizes

    @property
    def cost(self) -> Cost:
        """What the pruned network takes."""
        return self.steps[-1].cost

    @property
    def full_cost(self) -> Cost:
        """What the full network takes."""
        return self.steps[0].cost

    def spent(self) -> dict[str, Spent]:
        """Name of each knob -> what its steps saved and lost; their sums are what the plan saves and loses."""
        result = {knob.name: Spent() for knob in self.knobs}
        for before, after in zip(self.steps, self.steps[1:], strict=False):
            so_far = result[after.knob]
            result[after.knob] = Spent(
                macs=so_far.macs + before.cost.macs - after.cost.macs,
                params=so_far.params + before.cost.params - after.cost.params,
                lost=so_far.lost + after.lost - before.lost,
            )
        return result

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        spent = self.spent()
        return {
            "limit": str(self.limit),
            "order": self.order,
            "macs": {"full": self.full_cost.macs, "pruned": self.cost.macs},
            "params": {"full": self.full_cost.params, "pruned": self.cost.params},
            "latency_ms": self.latency_ms and {"full": self.latency_ms[1], "pruned": self.latency_ms[0]},
            "importance": {"total": self.total_importance, "lost": self.steps[-1].lost},
            "left_alone": list(self.left_alone),
            "knobs": [
                {
                    "name": knob.name,
                    "kind": knob.kind,
                    "place": knob.place,
                    "heads": {"full": knob.heads, "pruned": self.surroundings[knob.name].heads},
                    "size": {"full": knob.size, "pruned": self.sizes[knob.name]},
                    "width": {"full": knob.width, "pruned": self.surroundings[knob.name].width},
                    "macs_saved": spent[knob.name].macs,
                    "params_saved": spent[knob.name].params,
                    "importance_lost": spent[knob.name].lost,
                }
                for knob in self.knobs
            ],
            "path": [
                {"knob": step.knob, "macs": step.cost.macs, "params": step.cost.params, "importance_lost": step.lost}
                for step in self.steps
            ],
            "network": self.network,
        }


def make_plan(
    ranking: Ranking,
    limit: Limit,
    *,
    order: Order = "per_cost",
    network: nn.Module | None = None,
    latency: Latency | None = None,
    on_step: Callable[[int], None] | None = None,
) -> Plan:
    """Find what to remove so that a limit is met.

    Args:
        ranking: The network's channels in their order.
        limit: What to meet.
        order: `per_cost` or `plain`, see this file's head.
        network: The full network; for a limit of latency.
        latency: The stopwatch; for a limit of latency. About ten candidates are timed, halving the range each time.
        on_step: Told how many steps were made; of a latency, how many candidates were timed.

    Raises:
        ConfigError: If the limit cannot be met, with the smallest that can be; or there is nothing to prune.
    """
    if order not in get_args(Order):
        raise ConfigError(unknown_name("order", order, get_args(Order)))
    if not ranking.knobs:
        reasons = "; ".join(ranking.left_alone)
        raise ConfigError("nothing can be pruned in this network" + (f": {reasons}" if reasons else ""))
    timed: tuple[float, float] | None = None
    if limit.kind == "latency":
        if network is None or latency is None:
            raise ConfigError("a limit of latency needs the network and a stopwatch")
        steps = _steps(ranking, "macs", order, 0, None)
        chosen, timed = _meet_latency(ranking, limit, steps, network, latency, on_step)
        steps = steps[: chosen + 1]
    else:
        full = getattr(ranking.cost(full_sizes(ranking)), limit.kind)
        allowed = limit.absolute(full)
        steps = _steps(ranking, limit.kind, order, allowed, on_step)
        smallest = getattr(steps[-1].cost, limit.kind)
        if smallest > allowed:
            raise ConfigError(_cannot_meet(limit, allowed, smallest, full))
    return Plan(
        limit=limit,
        order=order,
        knobs=ranking.knobs,
        steps=tuple(steps),
        surroundings=ranking.surroundings(steps[-1].sizes),
        # What leaves with a head is in the scores of its channels already.
        total_importance=ranking.lost({k.name: k.size if k.kind == "heads" else 0 for k in ranking.knobs}),
        latency_ms=timed,
        left_alone=ranking.left_alone,
        network=ranking.describe(steps[-1].sizes),
    )


def _steps(
    ranking: Ranking, kind: LimitKind, order: Order, allowed: float, on_step: Callable[[int], None] | None
) -> list[Step]:
    """The way from the full network down until it costs no more than `allowed`, or nothing is left to remove."""
    sizes: Sizes = full_sizes(ranking)
    steps = [Step(knob="", sizes=dict(sizes), cost=ranking.cost(sizes), lost=ranking.lost(sizes))]
    while getattr(steps[-1].cost, kind) > allowed:
        best: tuple[float, Step] | None = None
        for knob in ranking.knobs:
            smaller = knob.below(steps[-1].sizes[knob.name])
            if smaller is None:
                continue
            candidate = ranking.settled({**steps[-1].sizes, knob.name: smaller})
            cost, lost = ranking.cost(candidate), ranking.lost(candidate)
            saved = getattr(steps[-1].cost, kind) - getattr(cost, kind)
            if saved <= 0:
                continue
            channels = (steps[-1].sizes[knob.name] - smaller) * knob.heads
            rank = (lost - steps[-1].lost) / (saved if order == "per_cost" else channels)
            if best is None or rank < best[0]:
                best = rank, Step(knob=knob.name, sizes=candidate, cost=cost, lost=lost)
        if best is None:
            break
        steps.append(best[1])
        if on_step is not None:
            on_step(len(steps) - 1)
    return steps


def _meet_latency(
    ranking: Ranking,
    limit: Limit,
    steps: list[Step],
    network: nn.Module,
    latency: Latency,
    on_step: Callable[[int], None] | None,
) -> tuple[int, tuple[float, float]]:
    """The first step on the way whose network is fast enough, by halving; and what it and the full one took."""
    count = 0

    def measured(index: int) -> tuple[float, float]:
        nonlocal count
        result = latency(ranking.pruned(network, steps[index].sizes))
        count += 1
        if on_step is not None:
            on_step(count)
        return result

    def allowed(times: tuple[float, float]) -> bool:
        # A share is against the full network timed in the same rounds: a machine's mood falls out of it.
        return times[0] <= (limit.amount * times[1] if limit.is_share else limit.amount)

    low, high = 0, len(steps) - 1
    found = measured(high)
    if not allowed(found):
        most = limit.amount * found[1] if limit.is_share else limit.amount
        raise ConfigError(_cannot_meet(limit, most, *found))
    limit.absolute(found[1])
    while high - low > 1:
        middle = (low + high) // 2
        times = measured(middle)
        if allowed(times):
            high, found = middle, times
        else:
            low = middle
    return high, found


def _cannot_meet(limit: Limit, allowed: float, smallest: float, full: float) -> str:
    return (
        f"the limit {limit} cannot be met: that is {limit.text(allowed)}, and the smallest this network can be pruned"
        f" to is {limit.text(smallest)}, {smallest / full:.1%} of {limit.text(full)}"
    )
