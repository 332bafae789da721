"""From a network of ours and the channels that stay to the smaller network, or to the same one with the rest at zero.

One table says for every tensor which entries stay (`_selections`); masking and cutting read the same table. What
makes them agree is the order of the channels (`own_orders`) and the scale of the attention: it follows from the
number of query channels, so the queries' last affine map takes up the change.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from effvit.analysis.pruning.own_groups import block_path
from effvit.analysis.pruning.own_orders import Channels, Kept, KeptBlock
from effvit.model.config import BlockConfig, EfficientViTConfig
from effvit.model.network import EfficientViT


class _Selection(NamedTuple):
    """What of a tensor stays: entries of its first and of its second dimension; None for all."""

    old_name: str
    new_name: str
    rows: Sequence[int] | None = None
    columns: Sequence[int] | None = None


def pruned(network: EfficientViT, kept: Kept, config: EfficientViTConfig) -> EfficientViT:
    """The smaller network: a new one, on the same device, in the same dtype and mode.

    Args:
        network: The full network; left as it is.
        kept: The channels that stay.
        config: The smaller network's configuration.
    """
    like = next(network.parameters())
    with torch.random.fork_rng(devices=[]):
        small = EfficientViT(config).to(like).train(network.training)
    old, state = network.state_dict(), {}
    for selection in _selections(network.config, kept):
        value = old[selection.old_name]
        for dim, entries in enumerate((selection.rows, selection.columns)):
            if entries is not None:
                value = value.index_select(dim, torch.tensor(entries, device=value.device))
        state[selection.new_name] = value.clone()
    for name, factor in _query_factors(network.config, config):
        state[name] *= factor.to(state[name].device) if isinstance(factor, Tensor) else factor
    small.load_state_dict(state)
    return small


def masked(network: EfficientViT, kept: Kept) -> EfficientViT:
    """A copy of the full network in which every weight of a channel that goes is zero."""
    copied = copy.deepcopy(network)
    keeps = {selection.old_name: selection for selection in _selections(network.config, kept)}
    with torch.no_grad():
        for name, parameter in copied.named_parameters():
            selection = keeps.get(name)
            if selection is None:  # of a head that goes
                parameter.zero_()
                continue
            for dim, entries in enumerate((selection.rows, selection.columns)):
                if entries is not None:
                    gone = sorted(set(range(parameter.shape[dim])) - set(entries))
                    parameter.index_fill_(dim, torch.tensor(gone, dtype=torch.long, device=parameter.device), 0)
    return copied


def _query_factors(old: EfficientViTConfig, new: EfficientViTConfig) -> Iterator[tuple[str, Tensor | float]]:
    """The tensors that take up another scale of the attention, key_dim^-0.5, and what each is multiplied by."""
    for number, stages in enumerate(zip(old.stages, new.stages, strict=True)):
        for position, (before, after) in enumerate(zip(stages[0].blocks, stages[1].blocks, strict=True)):
            if not after.num_heads or after.key_dim == before.key_dim:
                continue
            factor = (after.key_dim / before.key_dim) ** 0.5
            mixer = f"{block_path(number, position)}.attention.body.mixer"
            for kind in ("weight", "bias"):
                if after.query_kernels:
                    yield from ((f"{mixer}.query.{head}.norm.{kind}", factor) for head in range(after.num_heads))
                elif after.mixer == "mhsa":
                    num_queries = after.num_heads * after.key_dim
                    yield f"{mixer}.qkv.norm.{kind}", _on_queries(factor, num_queries, _num_outputs(after))
                else:
                    queries = _on_queries(factor, after.key_dim, 2 * after.key_dim + after.value_dim)
                    yield from ((f"{mixer}.qkv.{head}.norm.{kind}", queries) for head in range(after.num_heads))


def _num_outputs(block: BlockConfig) -> int:
    return block.num_heads * (2 * block.key_dim + block.value_dim)


def _on_queries(factor: float, num_queries: int, num_outputs: int) -> Tensor:
    factors = torch.ones(num_outputs, dtype=torch.float64)
    factors[:num_queries] = factor
    return factors


def _selections(config: EfficientViTConfig, kept: Kept) -> Iterator[_Selection]:
    """What of every tensor stays. What is in none of them goes whole, with its head."""
    stem = (*kept.stem, kept.stages[0].width)
    columns: Channels | None = None
    for index, rows in enumerate(stem):
        yield from _conv_norm(f"stem.{2 * index}", rows, columns)
        columns = rows
    for number, (stage, keep) in enumerate(zip(config.stages, kept.stages, strict=True)):
        if stage.subsample is not None:
            path, before = f"stages.{number}.0", kept.stages[number - 1].width
            yield from _feed_forward(f"{path}.before", before, keep.enter["ffn_before"], config.token_interaction)
            merge, squeeze = keep.enter["merge"], keep.enter["squeeze"]
            yield from _conv_norm(f"{path}.merge.expand", merge, before)
            yield from _conv_norm(f"{path}.merge.depthwise", merge, None)
            yield from _conv_bias(f"{path}.merge.squeeze_excite.reduce", squeeze, merge)
            yield from _conv_bias(f"{path}.merge.squeeze_excite.expand", merge, squeeze)
            yield from _conv_norm(f"{path}.merge.project", keep.width, merge)
            yield from _feed_forward(f"{path}.after", keep.width, keep.enter["ffn_after"], config.token_interaction)
        for position, (block, channels) in enumerate(zip(stage.blocks, keep.blocks, strict=True)):
            path = block_path(number, position)
            for side, layers in (("before", channels.ffn_before), ("after", channels.ffn_after)):
                for layer, hidden in enumerate(layers):
                    yield from _feed_forward(f"{path}.{side}.{layer}", keep.width, hidden, config.token_interaction)
            if block.num_heads:
                yield from _attention(f"{path}.attention.body", block, channels, keep.width)
    if config.num_classes:
        width = kept.stages[-1].width
        for head in ("head", "head_distilled")[: 1 + config.distilled]:
            yield from _norm(f"{head}.norm", width)
            yield _Selection(f"{head}.linear.weight", f"{head}.linear.weight", None, width)
            yield _Selection(f"{head}.linear.bias", f"{head}.linear.bias")


def _attention(path: str, block: BlockConfig, kept: KeptBlock, width: Channels) -> Iterator[_Selection]:
    yield _Selection(f"{path}.attention_biases", f"{path}.attention_biases", kept.heads)
    mixer = f"{path}.mixer"
    heads, key_dim, value_dim = block.num_heads, block.key_dim, block.value_dim
    if block.mixer == "mhsa":
        starts = (0, heads * key_dim, 2 * heads * key_dim)
        parts = ((starts[0], key_dim, kept.qk), (starts[1], key_dim, kept.qk), (starts[2], value_dim, kept.value))
        rows = [
            start + head * dim + channel
            for start, dim, chosen in parts
            for head, channels in zip(kept.heads, chosen, strict=True)
            for channel in channels
        ]
        yield from _conv_norm(f"{mixer}.qkv", rows, width)
    for new, head in enumerate(kept.heads):
        if block.mixer != "mhsa":
            rows = [
                *kept.qk[new],
                *(key_dim + channel for channel in kept.qk[new]),
                *(2 * key_dim + channel for channel in kept.value[new]),
            ]
            yield from _conv_norm(f"{mixer}.qkv.{head}", rows, kept.splits[new], f"{mixer}.qkv.{new}")
        if block.query_kernels:
            yield from _conv_norm(f"{mixer}.query.{head}", kept.qk[new], None, f"{mixer}.query.{new}")
    columns = [
        head * value_dim + channel
        for head, channels in zip(kept.heads, kept.value, strict=True)
        for channel in channels
    ]
    yield from _conv_norm(f"{mixer}.project", width, columns)


def _feed_forward(path: str, width: Channels, hidden: Channels, token_interaction: bool) -> Iterator[_Selection]:
    if token_interaction:
        yield from _conv_norm(f"{path}.interaction.body", width, None)
    yield from _conv_norm(f"{path}.ffn.body.expand", hidden, width)
    yield from _conv_norm(f"{path}.ffn.body.project", width, hidden)


def _conv_norm(
    path: str, rows: Sequence[int], columns: Sequence[int] | None, new_path: str | None = None
) -> Iterator[_Selection]:
    """A convolution, depth-wise without columns, and the batch norm of its outputs."""
    yield _Selection(f"{path}.conv.weight", f"{new_path or path}.conv.weight", rows, columns)
    yield from _norm(f"{path}.norm", rows, f"{new_path or path}.norm")


def _norm(path: str, rows: Sequence[int], new_path: str | None = None) -> Iterator[_Selection]:
    for kind in ("weight", "bias", "running_mean", "running_var"):
        yield _Selection(f"{path}.{kind}", f"{new_path or path}.{kind}", rows)
    yield _Selection(f"{path}.num_batches_tracked", f"{new_path or path}.num_batches_tracked")


def _conv_bias(path: str, rows: Sequence[int], columns: Sequence[int]) -> Iterator[_Selection]:
    yield _Selection(f"{path}.weight", f"{path}.weight", rows, columns)
    yield _Selection(f"{path}.bias", f"{path}.bias", rows)
