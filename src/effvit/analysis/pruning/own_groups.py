"""Which weights of our networks speak for which channels, and what ties channels together.

The algebra of the cascade decides what can be turned down. Head j adds its first channels of values, one by one, to the
split of head j + 1, so values and stage channels are tied; `own_orders` says how. Splits are equally wide, so a
stage gets narrower by one channel in each of its splits at a time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from effvit.analysis.pruning.importance import Part
from effvit.model.config import BlockConfig, EfficientViTConfig, StageConfig


def block_path(stage: int, block: int) -> str:
    """Where a block is in the network; a subsample stands before the blocks of all stages but the first."""
    return f"stages.{stage}.{block + (stage > 0)}"


def split_blocks(stage: StageConfig) -> tuple[BlockConfig, ...]:
    """The blocks whose heads each see a split of the stage's channels."""
    return tuple(block for block in stage.blocks if block.num_heads and block.mixer != "mhsa")


def common_heads(stage: StageConfig) -> int | None:
    """The number of heads that all blocks with splits agree on; None if there are no such blocks or they do not."""
    numbers = {block.num_heads for block in split_blocks(stage)}
    return numbers.pop() if len(numbers) == 1 else None


def splits_of(stage: StageConfig) -> int:
    """Into how many equal parts a stage falls so that any head's split is some of them."""
    return math.lcm(*(block.num_heads for block in split_blocks(stage)))  # divides the width, as each of them does


def stage_readers(config: EfficientViTConfig, number: int) -> list[Part]:
    """Every weight that reads the channels of a stage, each for its own channel."""
    stage, width = config.stages[number], config.stages[number].width
    readers = [] if number == 0 else [f"stages.{number}.0.after.ffn.body.expand.conv.weight"]
    parts: list[Part] = []
    for position, block in enumerate(stage.blocks):
        path = block_path(number, position)
        for side, dims in (("before", block.ffn_dims_before), ("after", block.ffn_dims_after)):
            readers += [f"{path}.{side}.{layer}.ffn.body.expand.conv.weight" for layer in range(len(dims))]
        if block.num_heads and block.mixer == "mhsa":
            readers.append(f"{path}.attention.body.mixer.qkv.conv.weight")
        elif block.num_heads:
            split = width // block.num_heads
            for head in range(block.num_heads):
                parts.append(
                    Part(
                        parameter=f"{path}.attention.body.mixer.qkv.{head}.conv.weight",
                        dim=1,
                        channels=range(split),
                        groups=range(head * split, (head + 1) * split),
                    )
                )
    if number + 1 < len(config.stages):
        following = f"stages.{number + 1}.0"
        readers += [f"{following}.before.ffn.body.expand.conv.weight", f"{following}.merge.expand.conv.weight"]
    elif config.num_classes:
        readers += ["head.linear.weight", *(["head_distilled.linear.weight"] if config.distilled else [])]
    return [*parts, *(Part(parameter=name, dim=1, channels=range(width), groups=range(width)) for name in readers)]


def regrouped(part: Part, owners: Sequence[int]) -> Part:
    """The same weights counted for other groups: `owners` of what were groups."""
    return Part(
        parameter=part.parameter, dim=part.dim, channels=part.channels, groups=[owners[group] for group in part.groups]
    )


def _affine(path: str, channels: range, first_group: int) -> Iterator[Part]:
    """The weight and the bias of a norm: together the gradient x value of its outputs."""
    groups = range(first_group, first_group + len(channels))
    for kind in ("weight", "bias"):
        yield Part(parameter=f"{path}.norm.{kind}", dim=0, channels=channels, groups=groups)


def query_parts(path: str, block: BlockConfig) -> list[Part]:
    """The affine map behind the queries. Its product with the keys is what a Q/K channel gives to the logits."""
    mixer, size = f"{path}.attention.body.mixer", block.key_dim
    parts: list[Part] = []
    for head in range(block.num_heads):
        if block.query_kernels:
            parts += _affine(f"{mixer}.query.{head}", range(size), head * size)
        elif block.mixer == "mhsa":
            parts += _affine(f"{mixer}.qkv", range(head * size, (head + 1) * size), head * size)
        else:
            parts += _affine(f"{mixer}.qkv.{head}", range(size), head * size)
    return parts


def value_parts(path: str, block: BlockConfig) -> list[Part]:
    """The affine map behind the values: all that comes of them, in the output and down the cascade, is linear in it."""
    mixer, size = f"{path}.attention.body.mixer", block.value_dim
    parts: list[Part] = []
    for head in range(block.num_heads):
        if block.mixer == "mhsa":
            start = 2 * block.num_heads * block.key_dim + head * size
            parts += _affine(f"{mixer}.qkv", range(start, start + size), head * size)
        else:
            start = 2 * block.key_dim
            parts += _affine(f"{mixer}.qkv.{head}", range(start, start + size), head * size)
    return parts


def stage_head_parts(config: EfficientViTConfig, number: int, heads: int) -> Iterator[Part]:
    """A head of all blocks of a stage goes together with its split of the channels.

    What the heads themselves read of the split is in the values already.
    """
    stage = config.stages[number]
    split = stage.width // heads
    owners = [channel // split for channel in range(stage.width)]
    for part in stage_readers(config, number):
        if ".mixer.qkv.conv." in part.parameter or ".mixer.qkv." not in part.parameter:
            yield regrouped(part, owners)
    for position, block in enumerate(stage.blocks):
        if block in split_blocks(stage):
            values = [channel // block.value_dim for channel in range(heads * block.value_dim)]
            for part in value_parts(block_path(number, position), block):
                yield regrouped(part, values)
