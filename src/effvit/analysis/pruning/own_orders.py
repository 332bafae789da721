"""Which channels stay when a network of ours gets smaller: the order that the cascade leaves us to choose.

Head j adds its values to the split of head j + 1 channel by channel, from the front. So a block can drop values of
head j without changing what the others do only if those it keeps belong to the front of that split. Two
freedoms make this no loss: the channels of a stage may be put in another order within each split (one order for all its
blocks, since all read the same channels), and so may the values of a head along with them. The order is by the scores
of the values summed over the blocks; each block then keeps a front of its own length.

- Values of the last head and of heads without cascade go nowhere else: each head keeps its best.
- Values that nothing is added to (there are more than the split has, or their channel left the stage) stand behind.
- Blocks with different numbers of heads in one stage pin the channels down: the order stays as it is.
- Of a cascade only the first and the last head can leave: one from the middle would join its neighbours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property

import torch
from torch import Tensor

from effvit.analysis.pruning.knobs import Sizes
from effvit.analysis.pruning.own_groups import common_heads, split_blocks, splits_of
from effvit.model.config import BlockConfig, StageConfig

Channels = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class KeptBlock:
    """Channels of a block that stay, by their old numbers, in their new order."""

    heads: Channels
    """Heads."""
    qk: tuple[Channels, ...]
    """Query and key channels of each head that stays."""
    value: tuple[Channels, ...]
    """Value channels of each head that stays."""
    splits: tuple[Channels, ...]
    """Channels that each head that stays reads, numbered within the old split; empty for mixer mhsa."""
    ffn_before: tuple[Channels, ...]
    """Hidden channels of each feed-forward layer before the attention."""
    ffn_after: tuple[Channels, ...]
    """And after it."""


@dataclass(frozen=True, kw_only=True)
class KeptStage:
    """Channels of a stage that stay."""

    width: Channels
    """Of the stage itself, in their new order."""
    enter: dict[str, Channels]
    """ffn_before, merge, squeeze, ffn_after of the subsample; empty for the first stage."""
    blocks: tuple[KeptBlock, ...]


@dataclass(frozen=True, kw_only=True)
class Kept:
    """Channels of a network that stay."""

    stem: tuple[Channels, ...]
    """After each of the stem's first three convolutions."""
    stages: tuple[KeptStage, ...]


class StageOrders:
    """The orders of one stage's channels, heads, queries, keys and values.

    Args:
        stage: The stage.
        name: How the names of its knobs begin.
        scores: Of all groups that were scored; what was not is taken in its old order.
    """

    def __init__(self, stage: StageConfig, name: str, scores: Mapping[str, Tensor]) -> None:
        self.stage, self.name, self.scores = stage, name, scores
        self.num_splits = splits_of(stage)
        self.split = stage.width // self.num_splits
        self.heads = common_heads(stage)
        self.values = cache(self._values)

    @cached_property
    def fronts(self) -> list[list[int]]:
        """For each split, its channels with those first that values are added to longest."""
        if self.heads is None or self.heads != self.num_splits:
            return [list(range(self.split)) for _ in range(self.num_splits)]
        totals = torch.zeros(self.num_splits, self.split, dtype=torch.float64)
        cascaded = [block for block in split_blocks(self.stage) if block.mixer == "cascaded"]
        for position, block in enumerate(self.stage.blocks):
            scores = self.scores.get(f"{self.name}.block{position}.value")
            if block in cascaded and scores is not None:
                common = min(self.split, block.value_dim)
                totals[1:, :common] += scores[:-1, :common]
        # A block with fewer values than the split has reaches only its front: nothing may cross those lines.
        edges = sorted({block.value_dim for block in cascaded})
        fronts = []
        for row in totals.tolist():
            fronts.append(sorted(range(self.split), key=lambda c: (sum(c >= edge for edge in edges), -row[c], c)))
        return fronts

    @cached_property
    def width_ranks(self) -> list[list[int]]:
        """For each split its channels, the most important first."""
        scores = self.scores.get(f"{self.name}.width")
        if scores is None:
            return [list(range(self.split)) for _ in range(self.num_splits)]
        ranks = []
        for row, front in zip(scores.tolist(), self.fronts, strict=True):
            # The very front stays, so that each block has a value that is added to something.
            ranks.append(sorted(range(self.split), key=lambda c: (c != front[0], -row[c], c)))
        return ranks

    @cached_property
    def head_order(self) -> list[int]:
        """Heads that all blocks with splits have, the first to leave first."""
        heads = self.heads or 1
        scores = self.scores.get(f"{self.name}.heads")
        left = list(range(heads))
        if scores is None:
            return left[::-1]
        row = scores.flatten().tolist()
        cascade = any(block.mixer == "cascaded" for block in split_blocks(self.stage))
        order = []
        while left:
            candidates = {left[0], left[-1]} if cascade else set(left)
            order.append(min(candidates, key=lambda head: (row[head], head)))
            left.remove(order[-1])
        return order

    def alive(self, sizes: Sizes) -> Channels:
        """The heads of blocks with splits that stay."""
        count = sizes.get(f"{self.name}.heads", len(self.head_order))
        return tuple(sorted(self.head_order[len(self.head_order) - count :]))

    def kept_splits(self, count: int) -> list[list[int]]:
        """For each split the `count` channels that stay, in their new order."""
        return [
            [channel for channel in front if channel in set(rank[:count])]
            for front, rank in zip(self.fronts, self.width_ranks, strict=True)
        ]

    def kept_width(self, count: int, alive: Channels) -> Channels:
        """The stage's channels that stay, in their new order."""
        whole = self.heads is None or self.heads != self.num_splits
        splits = range(self.num_splits) if whole else alive
        kept = self.kept_splits(count)
        return tuple(split * self.split + channel for split in splits for channel in kept[split])

    def head_splits(self, block: BlockConfig, count: int, alive: Channels) -> tuple[Channels, ...]:
        """What each head of a block reads of its split, by the old number within the split, in the new order."""
        size = self.stage.width // block.num_heads
        kept = self.kept_width(count, alive)
        return tuple(tuple(c - head * size for c in kept if c // size == head) for head in alive)

    def block_heads(self, position: int, sizes: Sizes) -> Channels:
        """The heads of a block that stay."""
        block = self.stage.blocks[position]
        if block.mixer != "mhsa":
            return self.alive(sizes) if self.heads else tuple(range(block.num_heads))
        name = f"{self.name}.block{position}.heads"
        if name not in self.scores:
            return tuple(range(block.num_heads))
        return tuple(sorted(best_first(self.scores[name][0])[: sizes.get(name, block.num_heads)]))

    def _values(self, position: int, count: int, heads: Channels) -> tuple[tuple[Channels, ...], int]:
        """Values of each of a block's heads, those that stay longest first, and how many can stay at most.

        Args:
            position: Of the block.
            count: Channels that stay of each split.
            heads: Heads that stay.
        """
        block = self.stage.blocks[position]
        scores = self.scores.get(f"{self.name}.block{position}.value")
        if scores is None:
            scores = torch.zeros(block.num_heads, block.value_dim)
        splits: dict[int, Channels] = {}
        if block.mixer == "cascaded":
            splits = dict(zip(heads, self.head_splits(block, count, heads), strict=True))
        orders, most = [], block.value_dim
        for head in heads:
            order = best_first(scores[head])
            if head + 1 in splits:
                added = [channel for channel in splits[head + 1] if channel < block.value_dim]
                # Behind the values that are added to the whole split more may stand; behind fewer they would be added.
                rest = order if len(added) == len(splits[head + 1]) else []
                order = [*added, *(channel for channel in rest if channel not in added)]
                most = min(most, len(order))
            orders.append(tuple(order))
        return tuple(orders), most


def best_first(scores: Tensor) -> list[int]:
    """Channels by falling score, equal ones in their old order."""
    values: Sequence[float] = scores.tolist()
    return sorted(range(len(values)), key=lambda channel: (-values[channel], channel))
