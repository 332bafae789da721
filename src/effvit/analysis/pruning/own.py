"""Our networks behind the knobs of a plan: what sizes cost, lose and leave."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache
from typing import Any

from torch import Tensor, nn

from effvit.analysis.pruning.costs import Cost, config_cost
from effvit.analysis.pruning.knobs import Knob, Sizes, Surroundings
from effvit.analysis.pruning.own_groups import split_blocks
from effvit.analysis.pruning.own_orders import Channels, Kept, KeptBlock, KeptStage, StageOrders, best_first
from effvit.analysis.pruning.own_surgery import masked, pruned
from effvit.errors import ConfigError
from effvit.model.config import BlockConfig, EfficientViTConfig
from effvit.model.network import EfficientViT


class OwnRanking:
    """A network of ours whose channels stand in an order; see `knobs.Ranking`.

    Args:
        config: The network.
        knobs: What can be turned down.
        scores: Of each knob's channels.
    """

    def __init__(self, config: EfficientViTConfig, knobs: tuple[Knob, ...], scores: Mapping[str, Tensor]) -> None:
        self.config, self.knobs, self.scores = config, knobs, scores
        self.left_alone: tuple[str, ...] = ()
        self.stages = tuple(StageOrders(stage, f"stage{number}", scores) for number, stage in enumerate(config.stages))
        self._removed = cache(self._removed_of)

    def cost(self, sizes: Sizes) -> Cost:
        """See `knobs.Ranking`."""
        return config_cost(self.small_config(sizes))

    def settled(self, sizes: Sizes) -> dict[str, int]:
        """See `knobs.Ranking`: values whose channel left the stage may have to go along."""
        result = dict(sizes)
        for number, orders in enumerate(self.stages):
            for position, block in enumerate(orders.stage.blocks):
                name = f"stage{number}.block{position}.value"
                if block.num_heads and name in result:
                    result[name] = self._value_dim(number, position, sizes)
        return result

    def lost(self, sizes: Sizes) -> float:
        """See `knobs.Ranking`. What leaves with a head counts once, as the head's."""
        total = 0.0
        for knob in self.knobs:
            place = knob.name.partition(".")[0]
            context: tuple[Any, ...] = ()
            if place != "stem" and knob.kind in ("qk", "value", "width"):
                number = int(place.removeprefix("stage"))
                context = self._context(number, knob, sizes)
            total += self._removed(knob.name, sizes[knob.name], context)
        return total

    def small_config(self, sizes: Sizes) -> EfficientViTConfig:
        """The configuration of these sizes."""
        get = sizes.get
        stages = []
        for number, (stage, orders) in enumerate(zip(self.config.stages, self.stages, strict=True)):
            at = f"stage{number}"
            step = stage.subsample
            if step is not None:
                step = replace(
                    step,
                    ffn_dim_before=get(f"{at}.enter.ffn_before", step.ffn_dim_before),
                    merge_dim=get(f"{at}.enter.merge", step.merge_dim),
                    squeeze_dim=get(f"{at}.enter.squeeze", step.squeeze_dim),
                    ffn_dim_after=get(f"{at}.enter.ffn_after", step.ffn_dim_after),
                )
            blocks = tuple(self._small_block(number, position, sizes) for position in range(len(stage.blocks)))
            num_splits = len(orders.alive(sizes)) if orders.heads else orders.num_splits
            width = num_splits * get(f"{at}.width", orders.split)
            stages.append(replace(stage, width=width, subsample=step, blocks=blocks))
        inner = (get(f"stem.{index}", width) for index, width in enumerate(self.config.stem_widths[:-1]))
        name = self.config.name if self.config.name.endswith("_pruned") else f"{self.config.name}_pruned"
        return replace(self.config, name=name, stem_widths=(*inner, stages[0].width), stages=tuple(stages))

    def kept(self, sizes: Sizes) -> Kept:
        """The channels that stay, by number."""
        stem = tuple(
            self._hidden(f"stem.{index}", width, sizes) for index, width in enumerate(self.config.stem_widths[:-1])
        )
        stages = []
        for number, (stage, orders) in enumerate(zip(self.config.stages, self.stages, strict=True)):
            at = f"stage{number}"
            enter = {}
            if stage.subsample is not None:
                step = stage.subsample
                enter = {
                    "ffn_before": self._hidden(f"{at}.enter.ffn_before", step.ffn_dim_before, sizes),
                    "merge": self._hidden(f"{at}.enter.merge", step.merge_dim, sizes),
                    "squeeze": self._hidden(f"{at}.enter.squeeze", step.squeeze_dim, sizes),
                    "ffn_after": self._hidden(f"{at}.enter.ffn_after", step.ffn_dim_after, sizes),
                }
            width = orders.kept_width(sizes.get(f"{at}.width", orders.split), orders.alive(sizes))
            blocks = tuple(self._kept_block(number, position, sizes) for position in range(len(stage.blocks)))
            stages.append(KeptStage(width=width, enter=enter, blocks=blocks))
        return Kept(stem=stem, stages=tuple(stages))

    def pruned(self, network: nn.Module, sizes: Sizes) -> EfficientViT:
        """See `knobs.Ranking`."""
        return pruned(self._own(network), self.kept(sizes), self.small_config(sizes))

    def masked(self, network: nn.Module, sizes: Sizes) -> EfficientViT:
        """See `knobs.Ranking`."""
        return masked(self._own(network), self.kept(sizes))

    def surroundings(self, sizes: Sizes) -> dict[str, Surroundings]:
        """See `knobs.Ranking`."""
        config = self.small_config(sizes)
        found = {}
        for knob in self.knobs:
            place, _, rest = knob.name.partition(".")
            number = 0 if place == "stem" else int(place.removeprefix("stage"))
            before = rest.startswith("enter.") and not rest.endswith("ffn_after")
            heads = knob.heads
            if knob.kind in ("qk", "value"):
                heads = config.stages[number].blocks[int(rest.partition(".")[0].removeprefix("block"))].num_heads
            elif knob.kind == "width":
                heads = config.stages[number].width // sizes[knob.name]
            found[knob.name] = Surroundings(config.stages[number - before].width, heads)
        return found

    def describe(self, sizes: Sizes) -> dict[str, Any]:
        """See `knobs.Ranking`."""
        return self.small_config(sizes).to_dict()

    def _own(self, network: nn.Module) -> EfficientViT:
        if not isinstance(network, EfficientViT) or network.config != self.config:
            raise ConfigError(f"this plan is for {self.config.name} as it was scored, not for {_name_of(network)}")
        return network

    def _small_block(self, number: int, position: int, sizes: Sizes) -> BlockConfig:
        orders = self.stages[number]
        block = orders.stage.blocks[position]
        name = f"stage{number}.block{position}"
        before, after = (
            tuple(sizes.get(f"{name}.ffn_{side}{layer}", size) for layer, size in enumerate(dims))
            for side, dims in (("before", block.ffn_dims_before), ("after", block.ffn_dims_after))
        )
        block = replace(block, ffn_dims_before=before, ffn_dims_after=after)
        if not block.num_heads:
            return block
        heads = orders.block_heads(position, sizes)
        return replace(
            block,
            num_heads=len(heads),
            key_dim=sizes.get(f"{name}.qk", block.key_dim),
            value_dim=self._value_dim(number, position, sizes),
            query_kernels=tuple(block.query_kernels[head] for head in heads) if block.query_kernels else (),
        )

    def _value_dim(self, number: int, position: int, sizes: Sizes) -> int:
        orders = self.stages[number]
        count = sizes.get(f"stage{number}.width", orders.split)
        _, most = orders.values(position, count, orders.block_heads(position, sizes))
        wanted = sizes.get(f"stage{number}.block{position}.value", orders.stage.blocks[position].value_dim)
        return min(wanted, most)

    def _kept_block(self, number: int, position: int, sizes: Sizes) -> KeptBlock:
        orders = self.stages[number]
        block = orders.stage.blocks[position]
        name = f"stage{number}.block{position}"
        before, after = (
            tuple(self._hidden(f"{name}.ffn_{side}{layer}", size, sizes) for layer, size in enumerate(dims))
            for side, dims in (("before", block.ffn_dims_before), ("after", block.ffn_dims_after))
        )
        if not block.num_heads:
            return KeptBlock(heads=(), qk=(), value=(), splits=(), ffn_before=before, ffn_after=after)
        heads = orders.block_heads(position, sizes)
        count = sizes.get(f"stage{number}.width", orders.split)
        values, _ = orders.values(position, count, heads)
        value_dim, key_dim = self._value_dim(number, position, sizes), sizes.get(f"{name}.qk", block.key_dim)
        scores = self.scores.get(f"{name}.qk")
        qk = tuple(
            tuple(range(key_dim)) if scores is None else tuple(sorted(best_first(scores[head])[:key_dim]))
            for head in heads
        )
        return KeptBlock(
            heads=heads,
            qk=qk,
            value=tuple(order[:value_dim] for order in values),
            splits=orders.head_splits(block, count, heads) if block in split_blocks(orders.stage) else (),
            ffn_before=before,
            ffn_after=after,
        )

    def _hidden(self, name: str, size: int, sizes: Sizes) -> Channels:
        if name not in self.scores:
            return tuple(range(size))
        return tuple(sorted(best_first(self.scores[name][0])[: sizes.get(name, size)]))

    def _context(self, number: int, knob: Knob, sizes: Sizes) -> tuple[Any, ...]:
        """What else decides which channels of a knob are gone: heads that left, and the order of the values."""
        orders = self.stages[number]
        if knob.kind == "width":
            return (number, orders.alive(sizes) if orders.heads else tuple(range(orders.num_splits)))
        position = int(knob.name.split(".")[1].removeprefix("block"))
        count = sizes.get(f"stage{number}.width", orders.split)
        return (number, orders.block_heads(position, sizes), position, count)

    def _removed_of(self, name: str, size: int, context: tuple[Any, ...]) -> float:
        """Sum of the scores of what a knob leaves out; what left with a head is not in it."""
        scores = self.scores[name]
        kind = next(knob.kind for knob in self.knobs if knob.name == name)
        rows: Iterator[tuple[int, list[int] | Channels]]
        if kind == "heads" and name.count(".") == 1:
            order = self.stages[int(name[5 : name.index(".")])].head_order
            return float(scores[0, order[: len(order) - size]].sum())
        if kind == "width":
            number, splits = context
            rows = ((split, self.stages[number].width_ranks[split]) for split in splits)
        elif kind == "value":
            number, heads, position, count = context
            orders, _ = self.stages[number].values(position, count, heads)
            # Values that can stand nowhere behind the others are in no order: they are gone as well.
            rows = (
                (head, [*order[:size], *sorted(set(range(scores.shape[1])) - set(order[:size]))])
                for head, order in zip(heads, orders, strict=True)
            )
        else:
            heads = context[1] if context else range(len(scores))
            rows = ((head, best_first(scores[head])) for head in heads)
        return float(sum(scores[row, list(order[size:])].sum() for row, order in rows))


def _name_of(network: nn.Module) -> str:
    return network.config.name if isinstance(network, EfficientViT) else type(network).__name__
