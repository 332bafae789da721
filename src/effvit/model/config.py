"""A network as a value: everything needed to build it, checked when it is made, to and from JSON.

Any network of this family is a configuration: the paper's six, the rows of its ablation tables,
and what pruning and search leave behind. So every width is written out per block; the functions
in `variants` derive them from the paper's few numbers. No torch here: listing and editing
configurations must be instant.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, TypeVar, get_args

from effvit.errors import ConfigError

T = TypeVar("T")

Mixer = Literal["cascaded", "grouped", "mhsa"]
Norm = Literal["batch", "layer"]
Activation = Literal["relu", "hard_swish", "gelu", "silu"]

PATCH_SIZE = 16
"""Stride of the stem: four convolutions of stride 2."""
MIN_IMAGE_SIZE = 32
"""Smallest height and width a network takes, in pixels: two tokens a side after the stem."""


@dataclass(frozen=True, kw_only=True)
class BlockConfig:
    """One block: feed-forward layers, attention, feed-forward layers (Eq. 1)."""

    num_heads: int
    """Attention heads; 0 for a block of feed-forward layers alone (Fig. 3)."""
    value_dim: int
    """Channels of one head's values; the paper's is stage width / num_heads; 0 without heads."""
    key_dim: int = 16
    """Channels of one head's queries, and of its keys."""
    query_kernels: tuple[int, ...] = ()
    """Side of the depth-wise convolution on each head's queries, odd, one per head; empty for none."""
    mixer: Mixer = "cascaded"
    """What a head sees: cascaded, its split plus the previous head's output; grouped, its split; mhsa, everything."""
    ffn_dims_before: tuple[int, ...]
    """Hidden channels of each feed-forward layer before the attention; empty in a Swin block."""
    ffn_dims_after: tuple[int, ...]
    """Hidden channels of each feed-forward layer after the attention."""

    def faults(self, width: int) -> Iterator[str]:
        """What is not allowed in a stage of this width, one sentence each."""
        yield from self._attention_faults(width)
        yield from _not_positive(
            ffn_dims_before=min(self.ffn_dims_before, default=1),
            ffn_dims_after=min(self.ffn_dims_after, default=1),
        )

    def _attention_faults(self, width: int) -> Iterator[str]:
        if _is_whole(self.num_heads) and self.num_heads == 0:
            if not _is_whole(self.value_dim) or self.value_dim != 0 or self.query_kernels:
                yield (
                    "a block without heads has value_dim 0 and no query_kernels,"
                    f" got {self.value_dim!r} and {self.query_kernels}"
                )
            if not self.ffn_dims_before and not self.ffn_dims_after:
                yield "a block without heads needs a feed-forward layer, got none"
        else:
            yield from _not_positive(num_heads=self.num_heads, value_dim=self.value_dim, key_dim=self.key_dim)
        if self.mixer not in get_args(Mixer):
            yield f"mixer must be one of {', '.join(get_args(Mixer))}, got {self.mixer!r}"
        elif self.mixer != "mhsa" and self.num_heads > 0 and width % self.num_heads:
            yield f"width must be a multiple of num_heads for mixer {self.mixer!r}, got {width} and {self.num_heads}"
        if self.num_heads and self.query_kernels and len(self.query_kernels) != self.num_heads:
            yield f"query_kernels must be empty or one per head, got {self.query_kernels} for {self.num_heads} heads"
        if any(kernel < 1 or kernel % 2 == 0 for kernel in self.query_kernels):
            yield f"query_kernels must be odd and positive, got {self.query_kernels}"


@dataclass(frozen=True, kw_only=True)
class SubsampleConfig:
    """The step between two stages: a feed-forward layer, patch merging, a feed-forward layer."""

    ffn_dim_before: int
    """Hidden channels of the feed-forward layer before the merging."""
    merge_dim: int
    """Channels inside the merging; the paper's is 4 x the width of the stage before."""
    squeeze_dim: int
    """Channels inside its squeeze-and-excite; the paper's is merge_dim / 4."""
    ffn_dim_after: int
    """Hidden channels of the feed-forward layer after the merging."""

    def faults(self) -> Iterator[str]:
        """What is not allowed, one sentence each."""
        yield from _not_positive(**asdict(self))


@dataclass(frozen=True, kw_only=True)
class StageConfig:
    """Blocks of one width and one resolution."""

    width: int
    """Channels of the stage."""
    window: int = 7
    """Side of an attention window, in tokens; a smaller map shrinks it (see `EfficientViTConfig.windows`)."""
    subsample: SubsampleConfig | None = None
    """How the stage is entered; None for the first stage, which follows the stem."""
    blocks: tuple[BlockConfig, ...]
    """The blocks, in order."""

    def faults(self) -> Iterator[str]:
        """What is not allowed, one sentence each."""
        yield from _not_positive(width=self.width, window=self.window)
        if self.subsample is not None:
            yield from (f"subsample: {fault}" for fault in self.subsample.faults())
        for index, block in enumerate(self.blocks):
            yield from (f"block {index}: {fault}" for fault in block.faults(self.width))


@dataclass(frozen=True, kw_only=True)
class EfficientViTConfig:
    """A whole network. Vary it with `dataclasses.replace`; all faults are raised as one `ConfigError`."""

    name: str = "custom"
    """What to call the network; the variant's name for M0..M5."""
    in_channels: int = 3
    """Channels of a picture."""
    num_classes: int = 1000
    """Classes of the head; 0 for no head, the pooled features are returned."""
    image_size: tuple[int, int] = (224, 224)
    """Height and width the windows and bias tables are chosen for, in pixels; any other size from 32 up still runs."""
    stem_widths: tuple[int, ...]
    """Channels after each of the stem's four stride-2 convolutions; the last is the first stage's width."""
    stages: tuple[StageConfig, ...]
    """The stages, in order, each but the first entered by a subsample of stride 2."""
    norm: Norm = "batch"
    """batch: BatchNorm, folds into the convolution before it; layer: LayerNorm over channels (Table 6, row 10)."""
    activation: Activation = "relu"
    """Activation everywhere but in squeeze-and-excite, which keeps ReLU and sigmoid."""
    token_interaction: bool = True
    """Whether a 3x3 depth-wise convolution stands before each feed-forward layer."""
    distilled: bool = False
    """Whether there is a second head for distillation; at inference the two are averaged."""
    drop_path: float = 0.0
    """Probability of dropping the last block's residual branches in training; rises linearly from 0, in [0, 1)."""
    mask_padding: bool = True
    """Whether window padding is kept out of the attention; False is the official code's behaviour."""

    def __post_init__(self) -> None:
        faults = list(self._faults())
        if faults:
            raise ConfigError(f"network {self.name!r}: " + "; ".join(faults))

    def _faults(self) -> Iterator[str]:
        yield from _not_positive(in_channels=self.in_channels)
        yield from _not_positive(**{f"stem_widths[{i}]": width for i, width in enumerate(self.stem_widths)})
        if not _is_whole(self.num_classes) or self.num_classes < 0:
            yield f"num_classes must be a whole number, 0 or more, got {self.num_classes!r}"
        if len(self.image_size) != 2 or any(not _is_whole(s) or s < MIN_IMAGE_SIZE for s in self.image_size):
            yield f"image_size must be a height and a width from {MIN_IMAGE_SIZE} up, got {self.image_size}"
        if self.norm not in get_args(Norm):
            yield f"norm must be one of {', '.join(get_args(Norm))}, got {self.norm!r}"
        if self.activation not in get_args(Activation):
            yield f"activation must be one of {', '.join(get_args(Activation))}, got {self.activation!r}"
        if not 0 <= self.drop_path < 1:
            yield f"drop_path must be in [0, 1), got {self.drop_path}"
        if len(self.stem_widths) != 4:
            yield f"stem_widths must have four entries, got {self.stem_widths}"
        elif self.stages and self.stem_widths[-1] != self.stages[0].width:
            yield f"the stem ends with {self.stem_widths[-1]} channels but stage 0 has width {self.stages[0].width}"
        if not self.stages:
            yield "stages must not be empty"
        for index, stage in enumerate(self.stages):
            if (stage.subsample is None) != (index == 0):
                yield f"stage {index}: subsample must be {'None' if index == 0 else 'given'}"
            yield from (f"stage {index}: {fault}" for fault in stage.faults())

    def map_sizes(self) -> tuple[tuple[int, int], ...]:
        """Height and width of each stage's feature map at `image_size`, in tokens."""
        # A stride-2 convolution with padding 1 halves and rounds up, in the stem four times.
        height, width = (-(-side // PATCH_SIZE) for side in self.image_size)
        return tuple((-(-height // 2**i), -(-width // 2**i)) for i in range(len(self.stages)))

    def windows(self) -> tuple[int, ...]:
        """Side of the attention windows of each stage: never larger than the map's longer side (Sec. 3.2)."""
        return tuple(min(stage.window, max(size)) for stage, size in zip(self.stages, self.map_sizes(), strict=True))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    def to_json(self) -> str:
        """The configuration as indented JSON; `from_json` reads it back equal."""
        return json.dumps(self.to_dict(), indent=2)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> EfficientViTConfig:
        """Rebuild from `to_dict`; a missing or unknown key is a `ConfigError`."""
        stages = []
        for stage in _entries(values, "stages"):
            blocks = tuple(_build(BlockConfig, block) for block in _entries(stage, "blocks"))
            subsample = stage.get("subsample")
            step = None if subsample is None else _build(SubsampleConfig, subsample)
            stages.append(_build(StageConfig, {**stage, "blocks": blocks, "subsample": step}))
        return _build(cls, {**values, "stages": tuple(stages)})

    @classmethod
    def from_json(cls, text: str) -> EfficientViTConfig:
        """Rebuild from `to_json`; text that is not JSON is a `ConfigError`."""
        try:
            values = json.loads(text)
        except ValueError as error:
            raise ConfigError(f"network configuration is not valid JSON: {error}") from error
        return cls.from_dict(values)


def _is_whole(number: object) -> bool:
    return isinstance(number, int) and not isinstance(number, bool)


def _not_positive(**numbers: int) -> Iterator[str]:
    for name, number in numbers.items():
        if not _is_whole(number):
            yield f"{name} must be a whole number, got {number!r}"
        elif number < 1:
            yield f"{name} must be positive, got {number}"


def _entries(values: Any, key: str) -> list[Any]:
    if not isinstance(values, dict) or not isinstance(values.get(key), list | tuple):
        raise ConfigError(f"network configuration: {key!r} must be a list")
    return list(values[key])


def _build(kind: type[T], values: Any) -> T:
    """Make one record from plain values, lists become tuples; name the keys that do not fit."""
    if not isinstance(values, dict):
        raise ConfigError(f"network configuration: a {kind.__name__} must be an object, got {values!r}")
    known = {field.name for field in fields(kind)}  # type: ignore[arg-type]
    if unknown := set(values) - known:
        raise ConfigError(f"network configuration: {kind.__name__} has no {', '.join(sorted(unknown))}")
    try:
        return kind(**{key: tuple(v) if isinstance(v, list) else v for key, v in values.items()})
    except TypeError as error:
        raise ConfigError(f"network configuration: {kind.__name__}: {error}") from error
