"""The channels of our networks: which knobs a configuration has, and which weights speak for each channel.

The algebra of the cascade decides what is a knob. Head j adds its first channels of values, one by one, to the split
of head j + 1, so values and stage channels are tied; `own_orders` says how. Splits are equally wide, so a
stage gets narrower by one channel in each of its splits at a time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from effvit.analysis.pruning.importance import Groups, Part
from effvit.analysis.pruning.knobs import Kind, Knob, make_knob
from effvit.errors import ConfigError
from effvit.model.config import BlockConfig, EfficientViTConfig, StageConfig

Found = tuple[Knob, Groups]


def refuse_inexact(config: EfficientViTConfig) -> None:
    """Raise a ConfigError for a network whose channels cannot be removed exactly."""
    if config.norm != "batch":
        raise ConfigError(
            f"{config.name} has norm {config.norm!r}: a channel less changes what LayerNorm makes of all others, so no"
            " smaller network computes the same; only networks with norm 'batch' can be pruned"
        )


def find_knobs(config: EfficientViTConfig, *, kinds: Sequence[Kind], multiple: int, min_share: float) -> list[Found]:
    """Everything in a network that can be turned down, with the weights that speak for it.

    Args:
        config: The network.
        kinds: Which kinds of knobs.
        multiple: See `make_knob`.
        min_share: See `make_knob`.
    """

    def found(
        name: str, kind: Kind, place: str, shape: tuple[int, int], parts: Sequence[Part], *, size: int, width: int
    ) -> Iterator[Found]:
        if kind not in kinds:
            return
        knob = make_knob(
            name,
            kind,
            place,
            size,
            multiple=multiple,
            min_share=min_share,
            width=width,
            heads=1 if kind == "heads" else shape[0],
        )
        yield knob, Groups(name=name, shape=shape, parts=tuple(parts))

    def hidden(name: str, kind: Kind, place: str, size: int, width: int, *readers: str) -> Iterator[Found]:
        parts = [Part(parameter=reader, dim=1, channels=range(size), groups=range(size)) for reader in readers]
        return found(name, kind, place, (1, size), parts, size=size, width=width)

    knobs: list[Found] = []
    for index, width in enumerate(config.stem_widths[:-1]):
        reader = f"stem.{2 * (index + 1)}.conv.weight"
        knobs += hidden(f"stem.{index}", "stem", "stem", width, config.stem_widths[-1], reader)
    for number, stage in enumerate(config.stages):
        at = f"stage{number}"
        place = f"stage {number}"
        step = stage.subsample
        if step is not None:
            before, path = config.stages[number - 1].width, f"stages.{number}.0"
            merge, excite = f"{path}.merge.project.conv.weight", f"{path}.merge.squeeze_excite"
            entry = f"into stage {number}"
            reader = f"{path}.before.ffn.body.project.conv.weight"
            knobs += hidden(f"{at}.enter.ffn_before", "ffn", f"{entry}, before", step.ffn_dim_before, before, reader)
            readers = merge, f"{excite}.reduce.weight"
            knobs += hidden(f"{at}.enter.merge", "merge", f"{entry}, merging", step.merge_dim, before, *readers)
            reader = f"{excite}.expand.weight"
            knobs += hidden(f"{at}.enter.squeeze", "squeeze", f"{entry}, merging", step.squeeze_dim, before, reader)
            reader = f"{path}.after.ffn.body.project.conv.weight"
            knobs += hidden(f"{at}.enter.ffn_after", "ffn", f"{entry}, after", step.ffn_dim_after, stage.width, reader)
        num_splits = splits_of(stage)
        # Without a head the last stage's channels are what the network gives: their number is not ours to change.
        narrows = num_splits is not None and (number + 1 < len(config.stages) or config.num_classes > 0)
        if num_splits is not None and narrows:
            size = stage.width // num_splits
            parts = [_regrouped(part, range(stage.width)) for part in stage_readers(config, number)]
            shape = (num_splits, size)
            knobs += found(f"{at}.width", "width", place, shape, parts, size=size, width=stage.width)
        heads = common_heads(stage)
        if heads is not None and heads > 1 and narrows:
            parts = list(_stage_head_parts(config, number, heads))
            knobs += found(f"{at}.heads", "heads", place, (1, heads), parts, size=heads, width=stage.width)
        for position, block in enumerate(stage.blocks):
            prefix = block_path(number, position)
            name, row = f"{at}.block{position}", f"stage {number}, block {position}"
            for side, dims in (("before", block.ffn_dims_before), ("after", block.ffn_dims_after)):
                for layer, size in enumerate(dims):
                    reader = f"{prefix}.{side}.{layer}.ffn.body.project.conv.weight"
                    knobs += hidden(f"{name}.ffn_{side}{layer}", "ffn", row, size, stage.width, reader)
            if not block.num_heads:
                continue
            queries, values = _query_parts(prefix, block), _value_parts(prefix, block)
            shape = (block.num_heads, block.key_dim)
            knobs += found(f"{name}.qk", "qk", row, shape, queries, size=block.key_dim, width=stage.width)
            shape = (block.num_heads, block.value_dim)
            knobs += found(f"{name}.value", "value", row, shape, values, size=block.value_dim, width=stage.width)
            if block.mixer == "mhsa" and block.num_heads > 1:
                owners = [channel // block.value_dim for channel in range(block.num_heads * block.value_dim)]
                parts = [_regrouped(part, owners) for part in values]
                shape = (1, block.num_heads)
                knobs += found(f"{name}.heads", "heads", row, shape, parts, size=block.num_heads, width=stage.width)
    return knobs


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


def splits_of(stage: StageConfig) -> int | None:
    """Into how many equal parts a stage falls so that any head's split is some of them; None if it cannot."""
    number = math.lcm(*(block.num_heads for block in split_blocks(stage)))
    return number if stage.width % number == 0 else None


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


def _regrouped(part: Part, owners: Sequence[int]) -> Part:
    """The same weights counted for other groups: `owners` of what were groups."""
    return Part(
        parameter=part.parameter, dim=part.dim, channels=part.channels, groups=[owners[group] for group in part.groups]
    )


def _affine(path: str, channels: range, first_group: int) -> Iterator[Part]:
    """The weight and the bias of a norm: together the gradient x value of its outputs."""
    groups = range(first_group, first_group + len(channels))
    for kind in ("weight", "bias"):
        yield Part(parameter=f"{path}.norm.{kind}", dim=0, channels=channels, groups=groups)


def _query_parts(path: str, block: BlockConfig) -> list[Part]:
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


def _value_parts(path: str, block: BlockConfig) -> list[Part]:
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


def _stage_head_parts(config: EfficientViTConfig, number: int, heads: int) -> Iterator[Part]:
    """A head of all blocks of a stage goes together with its split of the channels.

    What the heads themselves read of the split is in the values already.
    """
    stage = config.stages[number]
    split = stage.width // heads
    owners = [channel // split for channel in range(stage.width)]
    for part in stage_readers(config, number):
        if ".mixer.qkv.conv." in part.parameter or ".mixer.qkv." not in part.parameter:
            yield _regrouped(part, owners)
    for position, block in enumerate(stage.blocks):
        if block in split_blocks(stage):
            values = [channel // block.value_dim for channel in range(heads * block.value_dim)]
            for part in _value_parts(block_path(number, position), block):
                yield _regrouped(part, values)
