"""timm's transformers behind the knobs of a plan: query/key and value channels of each head, hidden units.

The residual stream of these networks goes through LayerNorm everywhere, which a missing channel changes for all
others, so their widths stay as they are.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from effvit.analysis.cost import count_costs
from effvit.analysis.pruning.costs import Cost
from effvit.analysis.pruning.importance import Groups, Part
from effvit.analysis.pruning.knobs import Kind, Knob, Sizes, Surroundings, make_knob
from effvit.analysis.pruning.own_orders import best_first
from effvit.model.narrow import dims_of, is_attention, is_feed_forward, narrow


class _Channels(NamedTuple):
    """A knob of a module, and what it reaches."""

    knob: Knob
    groups: Groups
    module: str
    """The module's name."""
    unit: Cost
    """What one channel (in each head) costs."""


class TimmRanking:
    """A network of timm's modules whose channels stand in an order; see `knobs.Ranking`.

    Args:
        channels: From `find_channels`.
        left_alone: From `find_channels`.
        full: What the whole network costs.
        scores: Of each knob's channels.
    """

    def __init__(
        self, channels: Sequence[_Channels], left_alone: tuple[str, ...], full: Cost, scores: Mapping[str, Tensor]
    ) -> None:
        self.channels, self.left_alone, self.full, self.scores = channels, left_alone, full, scores
        self.knobs = tuple(entry.knob for entry in channels)
        # Sums of the scores of all but the best so many: a plan asks for them at every step.
        self._lost: dict[str, list[float]] = {
            name: [
                float(values.sum()),
                *(values.sum() - values.sort(descending=True).values.cumsum(-1).sum(0)).tolist(),
            ]
            for name, values in scores.items()
        }

    def cost(self, sizes: Sizes) -> Cost:
        """See `knobs.Ranking`: every channel costs the same, whatever else is there."""
        macs, params = self.full
        for knob, _, _, unit in self.channels:
            gone = knob.size - sizes[knob.name]
            macs, params = macs - gone * unit.macs, params - gone * unit.params
        return Cost(macs, params)

    def lost(self, sizes: Sizes) -> float:
        """See `knobs.Ranking`."""
        return sum(self._lost[knob.name][sizes[knob.name]] for knob in self.knobs)

    def settled(self, sizes: Sizes) -> dict[str, int]:
        """See `knobs.Ranking`: here any sizes go together."""
        return dict(sizes)

    def surroundings(self, sizes: Sizes) -> dict[str, Surroundings]:
        """See `knobs.Ranking`: they stay."""
        return {knob.name: Surroundings(knob.width, knob.heads) for knob in self.knobs}

    def describe(self, sizes: Sizes) -> dict[str, Any]:
        """See `knobs.Ranking`: the shapes that `effvit.model.narrow.narrow` takes."""
        shapes: dict[str, dict[str, int]] = {}
        for knob, _, module, _ in self.channels:
            shapes.setdefault(module, {})[_DIMS[knob.kind]] = sizes[knob.name]
        return shapes

    def masked(self, network: nn.Module, sizes: Sizes) -> nn.Module:
        """See `knobs.Ranking`."""
        copied = copy.deepcopy(network)
        with torch.no_grad():
            for name, dim, kept, full in self._selections(network, sizes):
                gone = sorted(set(range(full)) - set(kept))
                parameter = copied.get_parameter(name)
                parameter.index_fill_(dim, torch.tensor(gone, dtype=torch.long, device=parameter.device), 0)
        return copied

    def pruned(self, network: nn.Module, sizes: Sizes) -> nn.Module:
        """See `knobs.Ranking`."""
        state = dict(network.state_dict())
        for name, dim, kept, _ in self._selections(network, sizes):
            state[name] = state[name].index_select(dim, torch.tensor(kept, device=state[name].device))
        shapes = self.describe(sizes)
        for name, dims in shapes.items():
            module = network.get_submodule(name)
            if is_attention(module):
                key_dim, value_dim = dims_of(module)
                shapes[name] = {"key_dim": key_dim, "value_dim": value_dim, **dims}
        with torch.random.fork_rng(devices=[]):
            small = narrow(copy.deepcopy(network), shapes)
        small.load_state_dict(state)
        return small

    def _selections(self, network: nn.Module, sizes: Sizes) -> Iterator[tuple[str, int, list[int], int]]:
        """Name of each weight that gets smaller, the dimension, the entries that stay and how many there were."""
        by_module: dict[str, dict[str, str]] = {}
        for knob, _, path, _ in self.channels:
            by_module.setdefault(path, {})[knob.kind] = knob.name
        for path, names in by_module.items():
            module: Any = network.get_submodule(path)
            if "ffn" in names:
                kept = self._best(names["ffn"], sizes)[0]
                outputs, columns, layers = kept, kept, ("fc1", "fc2")
                sides = module.fc1.out_features, module.fc1.out_features
            else:
                heads, (key_dim, value_dim) = module.num_heads, dims_of(module)
                qk = self._best(names["qk"], sizes) if "qk" in names else [list(range(key_dim))] * heads
                value = self._best(names["value"], sizes) if "value" in names else [list(range(value_dim))] * heads
                queries = [head * key_dim + c for head in range(heads) for c in qk[head]]
                columns = [head * value_dim + c for head in range(heads) for c in value[head]]
                keys, behind = heads * key_dim, 2 * heads * key_dim
                outputs = [*queries, *(keys + c for c in queries), *(behind + c for c in columns)]
                layers, sides = ("qkv", "proj"), (module.qkv.out_features, module.proj.in_features)
            yield f"{path}.{layers[0]}.weight", 0, outputs, sides[0]
            if getattr(module, layers[0]).bias is not None:
                yield f"{path}.{layers[0]}.bias", 0, outputs, sides[0]
            yield f"{path}.{layers[1]}.weight", 1, columns, sides[1]

    def _best(self, name: str, sizes: Sizes) -> list[list[int]]:
        """The channels that stay of each head."""
        return [sorted(best_first(row)[: sizes[name]]) for row in self.scores[name]]


_DIMS: dict[str, str] = {"qk": "key_dim", "value": "value_dim", "ffn": "hidden_dim"}


def full_cost(network: nn.Module, input_size: tuple[int, int, int]) -> Cost:
    """What a network takes for one picture, by running it.

    Raises:
        ConfigError: If it does not run on such a picture.
    """
    costs = count_costs(network, input_size)
    return Cost(costs.num_macs, costs.num_params)


def find_channels(
    network: nn.Module,
    input_size: tuple[int, int, int],
    *,
    kinds: Sequence[Kind],
    multiple: int,
    min_share: float,
) -> tuple[list[_Channels], tuple[str, ...]]:
    """Everything in a network of timm's modules that can be turned down, and what cannot and why.

    Args:
        network: Any network; parts that are not timm's attention or feed-forward layers are not looked at.
        input_size: Channels, height and width of a picture: how many tokens go through each module is seen by running.
        kinds: Which kinds of knobs.
        multiple: See `make_knob`.
        min_share: See `make_knob`.
    """
    seen = _token_shapes(network, input_size)
    found: list[_Channels] = []
    reasons: Counter[str] = Counter()
    for path, shapes in seen.items():
        module: Any = network.get_submodule(path)
        place = path.rpartition(".")[0] or path
        if is_feed_forward(module):
            candidates: list[tuple[Kind, int, int, bool]] = [
                ("ffn", 1, module.fc1.out_features, _is_identity(module.norm))
            ]
        else:
            key_dim, value_dim = dims_of(module)
            whole = (getattr(module, part, nn.Identity()) for part in ("q_norm", "k_norm"))
            free = _is_identity(getattr(module, "norm", nn.Identity())) and getattr(module, "gate", None) is None
            candidates = [
                ("qk", module.num_heads, key_dim, all(map(_is_identity, whole))),
                ("value", module.num_heads, value_dim, free),
            ]
        for kind, heads, size, is_free in candidates:
            if kind not in kinds:
                continue
            if not is_free:
                reasons[f"{kind} of {type(module).__name__}: a norm or gate behind them mixes the channels"] += 1
                continue
            reads = (module.fc1 if kind == "ffn" else module.qkv).in_features
            name = f"{path}.{kind}"
            knob = make_knob(name, kind, place, size, multiple=multiple, min_share=min_share, width=reads, heads=heads)
            groups = Groups(name=name, shape=(heads, size), parts=tuple(_parts(path, module, kind)))
            found.append(_Channels(knob, groups, path, _unit_cost(module, kind, shapes)))
    left_alone = [f"{count} x {reason}" for reason, count in reasons.items()]
    return found, tuple(left_alone)


def _is_identity(module: nn.Module) -> bool:
    return isinstance(module, nn.Identity)


def _token_shapes(network: nn.Module, input_size: tuple[int, int, int]) -> dict[str, list[torch.Size]]:
    """Name of each module that can be pruned -> the shapes of what goes in, for one picture."""
    seen: dict[str, list[torch.Size]] = {}
    handles = [
        module.register_forward_pre_hook(lambda _, inputs, name=name: seen.setdefault(name, []).append(inputs[0].shape))
        for name, module in network.named_modules()
        if is_attention(module) or is_feed_forward(module)
    ]
    like = next(network.parameters())
    modes = {module: module.training for module in network.modules()}
    try:
        with torch.no_grad():
            network.eval()(like.new_zeros(1, *input_size))
    finally:
        for module, training in modes.items():
            module.training = training
        for handle in handles:
            handle.remove()
    return seen


def _parts(path: str, module: Any, kind: str) -> Iterator[Part]:
    """The weights that speak for the channels: the queries' and values' own, and those that read hidden units."""
    if kind == "ffn":
        hidden = range(module.fc2.in_features)
        yield Part(parameter=f"{path}.fc2.weight", dim=1, channels=hidden, groups=hidden)
        return
    key_dim, value_dim = dims_of(module)
    start = 0 if kind == "qk" else 2 * module.num_heads * key_dim
    count = module.num_heads * (key_dim if kind == "qk" else value_dim)
    for parameter in ("weight", "bias") if module.qkv.bias is not None else ("weight",):
        yield Part(
            parameter=f"{path}.qkv.{parameter}", dim=0, channels=range(start, start + count), groups=range(count)
        )


def _unit_cost(module: Any, kind: str, shapes: Sequence[torch.Size]) -> Cost:
    """What one channel, in each head, takes for one picture."""
    tokens = sum(shape[:-1].numel() for shape in shapes)
    if kind == "ffn":
        weights = module.fc1.in_features + module.fc2.out_features
        return Cost(tokens * weights, weights + (module.fc1.bias is not None))
    heads, inputs, bias = module.num_heads, module.qkv.in_features, module.qkv.bias is not None
    pairs = sum(shape[:-1].numel() * shape[-2] for shape in shapes)  # of tokens that attend to each other
    if kind == "qk":
        return Cost(heads * (2 * tokens * inputs + pairs), 2 * heads * (inputs + bias))
    weights = inputs + module.proj.out_features
    return Cost(heads * (tokens * weights + pairs), heads * (weights + bias))
