"""What can be turned down in a network of ours, knob by knob, in the order in which a picture goes through it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from effvit.analysis.pruning.importance import Groups, Part
from effvit.analysis.pruning.knobs import Kind, Knob, make_knob
from effvit.analysis.pruning.own_groups import (
    block_path,
    common_heads,
    query_parts,
    regrouped,
    splits_of,
    stage_head_parts,
    stage_readers,
    value_parts,
)
from effvit.errors import ConfigError
from effvit.model.config import EfficientViTConfig

Found = tuple[Knob, Groups]


def refuse_inexact(config: EfficientViTConfig) -> None:
    """Raise a ConfigError for a network whose channels cannot be removed exactly."""
    if config.norm != "batch":
        raise ConfigError(
            f"{config.name} has norm {config.norm!r}: a channel less changes what LayerNorm makes of all others, so no"
            " smaller network computes the same; only networks with norm 'batch' can be pruned"
        )


class KnobFinder:
    """Finds the knobs of a configuration, with the weights that speak for each.

    Args:
        config: The network.
        kinds: Which kinds of knobs.
        multiple: See `make_knob`.
        min_share: See `make_knob`.
    """

    def __init__(self, config: EfficientViTConfig, *, kinds: Sequence[Kind], multiple: int, min_share: float) -> None:
        self.config, self.kinds, self.multiple, self.min_share = config, kinds, multiple, min_share

    def find(self) -> list[Found]:
        """All knobs."""
        knobs = list(self._stem())
        for number, stage in enumerate(self.config.stages):
            if stage.subsample is not None:
                knobs += self._subsample(number)
            knobs += self._stage(number)
            for position in range(len(stage.blocks)):
                knobs += self._block(number, position)
        return knobs

    def _stem(self) -> Iterator[Found]:
        *inner, last = self.config.stem_widths
        for index, size in enumerate(inner):
            reader = f"stem.{2 * (index + 1)}.conv.weight"
            yield from self._hidden(f"stem.{index}", "stem", f"stem, convolution {index + 1}", size, last, reader)

    def _subsample(self, number: int) -> Iterator[Found]:
        stage, before = self.config.stages[number], self.config.stages[number - 1].width
        step, path = stage.subsample, f"stages.{number}.0"
        assert step is not None
        at, place = f"stage{number}.enter", f"into stage {number}"
        merge, excite = f"{path}.merge.project.conv.weight", f"{path}.merge.squeeze_excite"
        reader = f"{path}.before.ffn.body.project.conv.weight"
        yield from self._hidden(f"{at}.ffn_before", "ffn", f"{place}, before", step.ffn_dim_before, before, reader)
        readers = merge, f"{excite}.reduce.weight"
        yield from self._hidden(f"{at}.merge", "merge", f"{place}, merging", step.merge_dim, before, *readers)
        reader = f"{excite}.expand.weight"
        yield from self._hidden(f"{at}.squeeze", "squeeze", f"{place}, merging", step.squeeze_dim, before, reader)
        reader = f"{path}.after.ffn.body.project.conv.weight"
        yield from self._hidden(f"{at}.ffn_after", "ffn", f"{place}, after", step.ffn_dim_after, stage.width, reader)

    def _stage(self, number: int) -> Iterator[Found]:
        stage, place = self.config.stages[number], f"stage {number}"
        splits, heads = splits_of(stage), common_heads(stage)
        # Without a head the last stage's channels are what the network gives: their number is not ours to change.
        is_output = number + 1 == len(self.config.stages) and not self.config.num_classes
        if is_output:
            return
        shape = splits, stage.width // splits
        yield from self._found(
            f"stage{number}.width", "width", place, shape, stage_readers(self.config, number), width=stage.width
        )
        if heads is not None and heads > 1:
            parts = tuple(stage_head_parts(self.config, number, heads))
            yield from self._found(f"stage{number}.heads", "heads", place, (1, heads), parts, width=stage.width)

    def _block(self, number: int, position: int) -> Iterator[Found]:
        width, block = self.config.stages[number].width, self.config.stages[number].blocks[position]
        name, place = f"stage{number}.block{position}", f"stage {number}, block {position}"
        yield from self._feed_forwards(number, position, "before", block.ffn_dims_before)
        if block.num_heads:
            path = block_path(number, position)
            queries, values = query_parts(path, block), value_parts(path, block)
            yield from self._found(f"{name}.qk", "qk", place, (block.num_heads, block.key_dim), queries, width=width)
            shape = block.num_heads, block.value_dim
            yield from self._found(f"{name}.value", "value", place, shape, values, width=width)
            if block.mixer == "mhsa" and block.num_heads > 1:
                owners = [channel // block.value_dim for channel in range(block.num_heads * block.value_dim)]
                parts = tuple(regrouped(part, owners) for part in values)
                yield from self._found(f"{name}.heads", "heads", place, (1, block.num_heads), parts, width=width)
        yield from self._feed_forwards(number, position, "after", block.ffn_dims_after)

    def _feed_forwards(self, number: int, position: int, side: str, dims: Sequence[int]) -> Iterator[Found]:
        for layer, size in enumerate(dims):
            name = f"stage{number}.block{position}.ffn_{side}{layer}"
            place = f"stage {number}, block {position}, {side}" + (f" {layer + 1}" if len(dims) > 1 else "")
            reader = f"{block_path(number, position)}.{side}.{layer}.ffn.body.project.conv.weight"
            yield from self._hidden(name, "ffn", place, size, self.config.stages[number].width, reader)

    def _hidden(self, name: str, kind: Kind, place: str, size: int, width: int, *readers: str) -> Iterator[Found]:
        """Channels inside a layer, which only `readers` read."""
        parts = [Part(parameter=reader, dim=1, channels=range(size), groups=range(size)) for reader in readers]
        return self._found(name, kind, place, (1, size), parts, width=width)

    def _found(
        self, name: str, kind: Kind, place: str, shape: tuple[int, int], parts: Sequence[Part], *, width: int
    ) -> Iterator[Found]:
        if kind in self.kinds:
            knob = make_knob(
                name,
                kind,
                place,
                shape[1],
                multiple=self.multiple,
                min_share=self.min_share,
                width=width,
                heads=shape[0],
            )
            yield knob, Groups(name=name, shape=shape, parts=tuple(parts))
