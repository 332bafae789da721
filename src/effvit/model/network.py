"""EfficientViT, in the paper's order: stem, stages of sandwich blocks, head (Sec. 3, Fig. 6)."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from effvit.errors import ConfigError
from effvit.model.attention import WindowAttention
from effvit.model.config import MIN_IMAGE_SIZE, PATCH_SIZE, BlockConfig, EfficientViTConfig, StageConfig
from effvit.model.groups import attention_bias_names, parameter_groups
from effvit.model.layers import ACTIVATIONS, ConvNorm, FeedForwardUnit, NormLinear, PatchMerging, Residual
from effvit.model.recomputing import checkpointed
from effvit.model.resizing import resize_bias_table, with_windows


class Stem(nn.Sequential):
    """Overlapping patch embedding: four 3x3 convolutions of stride 2, an activation between them (Sec. 3.2)."""

    def __init__(self, config: EfficientViTConfig) -> None:
        layers: list[nn.Module] = []
        channels = config.in_channels
        for width in config.stem_widths:
            if layers:
                layers.append(ACTIVATIONS[config.activation]())
            layers.append(ConvNorm(channels, width, kernel_size=3, stride=2, norm=config.norm))
            channels = width
        super().__init__(*layers)


class Block(nn.Sequential):
    """Feed-forward layers, attention, feed-forward layers (Eq. 1): the sandwich.

    Without layers before the attention it is a Swin block; without heads the attention is an identity.
    """

    attention: Residual | nn.Identity

    def __init__(
        self,
        config: EfficientViTConfig,
        stage: StageConfig,
        block: BlockConfig,
        *,
        window: int,
        drop_path: float,
    ) -> None:
        def feed_forward(hidden_dim: int) -> FeedForwardUnit:
            return FeedForwardUnit(
                stage.width,
                hidden_dim,
                token_interaction=config.token_interaction,
                zero_init=True,
                norm=config.norm,
                activation=config.activation,
                drop_path=drop_path,
            )

        attention: nn.Module = nn.Identity()
        if block.num_heads:
            mixing = WindowAttention(
                stage.width,
                block,
                window=window,
                mask_padding=config.mask_padding,
                norm=config.norm,
                activation=config.activation,
            )
            attention = Residual(mixing, drop_path)
        parts = OrderedDict(
            before=nn.Sequential(*map(feed_forward, block.ffn_dims_before)),
            attention=attention,
            after=nn.Sequential(*map(feed_forward, block.ffn_dims_after)),
        )
        super().__init__(parts)


class Subsample(nn.Sequential):
    """Between two stages: a feed-forward layer, patch merging, a feed-forward layer (Sec. 3.2)."""

    def __init__(self, config: EfficientViTConfig, in_width: int, stage: StageConfig, *, drop_path: float) -> None:
        assert stage.subsample is not None
        step = stage.subsample
        options: dict[str, Any] = {"norm": config.norm, "activation": config.activation}
        unit: dict[str, Any] = {**options, "token_interaction": config.token_interaction, "drop_path": drop_path}
        merging: dict[str, Any] = {"merge_dim": step.merge_dim, "squeeze_dim": step.squeeze_dim}
        parts: OrderedDict[str, nn.Module] = OrderedDict(
            before=FeedForwardUnit(in_width, step.ffn_dim_before, **unit),
            merge=PatchMerging(in_width, stage.width, **merging, **options),
            after=FeedForwardUnit(stage.width, step.ffn_dim_after, **unit),
        )
        super().__init__(parts)


class EfficientViT(nn.Module):
    """The network of a configuration; see `effvit.create_model` for the usual way to get one.

    Runs at any height and width from 32 up, whatever the size it was built for: windows reaching past a
    map are cut off (see `effvit.model.attention`).

    Args:
        config: What to build.
    """

    def __init__(self, config: EfficientViTConfig) -> None:
        super().__init__()
        self.config = config
        self.grad_checkpointing = False
        self.stem = Stem(config)
        depth = sum(len(stage.blocks) for stage in config.stages)
        rates = iter([config.drop_path * index / max(depth - 1, 1) for index in range(depth)])
        self.stages = nn.ModuleList()
        width = config.stem_widths[-1]
        for stage, window in zip(config.stages, config.windows(), strict=True):
            stage_rates = [next(rates) for _ in stage.blocks]
            layers: list[nn.Module] = []
            if stage.subsample is not None:
                layers.append(Subsample(config, width, stage, drop_path=stage_rates[0] if stage_rates else 0.0))
            for block, rate in zip(stage.blocks, stage_rates, strict=True):
                layers.append(Block(config, stage, block, window=window, drop_path=rate))
            self.stages.append(nn.Sequential(*layers))
            width = stage.width
        self.head: nn.Module = nn.Identity()
        self.head_distilled: nn.Module | None = None
        self.reset_classifier(config.num_classes, distilled=config.distilled)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Classify pictures.

        Args:
            x: Normalised pictures, (B, in_channels, H, W), H and W from 32 up.

        Returns:
            Logits, (B, num_classes); the pooled features if there are no classes. A distilled network in
            training gives the logits of both heads, else their mean.
        """
        return self.forward_head(self.forward_features(x))

    def forward_features(self, x: Tensor) -> Tensor:
        """Last feature map, (B, C, H / 64, W / 64), rounded up; see `forward` for the input."""
        return self.features(x)[-1]

    def features(self, x: Tensor) -> list[Tensor]:
        """Feature map of each stage, at strides 16, 32, 64; `output_shapes` tells their channels."""
        config = self.config
        if x.dim() != 4 or x.shape[1] != config.in_channels or min(x.shape[2:]) < MIN_IMAGE_SIZE:
            raise ConfigError(
                f"{config.name} takes (batch, {config.in_channels}, height, width) with height and width from"
                f" {MIN_IMAGE_SIZE} up, got {tuple(x.shape)}"
            )
        maps = []
        x = self.stem(x)
        for stage in self.stages:
            for layer in stage.children():
                x = checkpointed(layer, x) if self.grad_checkpointing and self.training else layer(x)
            maps.append(x)
        return maps

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        """Pool a feature map and classify it; with `pre_logits` only pool, (B, C)."""
        x = x.mean((2, 3))  # (B, C, H, W) -> (B, C)
        if pre_logits or self.head_distilled is None:
            return x if pre_logits else self.head(x)
        logits, distilled_logits = self.head(x), self.head_distilled(x)
        return (logits, distilled_logits) if self.training else (logits + distilled_logits) / 2

    @property
    def num_classes(self) -> int:
        """Classes of the head; 0 for none."""
        return self.config.num_classes

    @property
    def num_features(self) -> int:
        """Channels of the last feature map, which the head takes."""
        return self.config.stages[-1].width

    def output_shapes(self) -> list[tuple[int, int]]:
        """Channels and stride of each map of `features`."""
        return [(stage.width, PATCH_SIZE * 2**index) for index, stage in enumerate(self.config.stages)]

    def reset_classifier(self, num_classes: int, *, distilled: bool | None = None) -> None:
        """Put a new, untrained head in place.

        Args:
            num_classes: Classes; 0 for no head.
            distilled: Whether there is a second head; None keeps what was.

        Raises:
            ConfigError: If num_classes is negative.
        """
        distilled = self.config.distilled if distilled is None else distilled
        self.config = replace(self.config, num_classes=num_classes, distilled=distilled)
        like = next(self.stem.parameters())

        def head() -> nn.Module:
            return NormLinear(self.num_features, num_classes, norm=self.config.norm).to(like).train(self.training)

        self.head = head() if num_classes else nn.Identity()
        self.head_distilled = head() if num_classes and distilled else None

    def resized(self, *, image_size: int | tuple[int, int] | None = None, window: int | None = None) -> EfficientViT:
        """A new network with the same weights and other windows, the bias tables resized bicubically.

        Args:
            image_size: Side, or height and width, in pixels, that the windows are chosen for; None keeps it.
            window: Side of the windows in tokens, for all stages; None keeps each stage's.

        Returns:
            A network on the same device, dtype and mode.

        Raises:
            ConfigError: If a number is not allowed.

        Source: each head's table is seen as a picture of window x window, as the official detection code does.
        """
        config = with_windows(self.config, image_size=image_size, window=window)
        like = next(self.parameters())
        network = EfficientViT(config).to(like).train(self.training)
        state = self.state_dict()
        for name, table in network.state_dict().items():
            if name.endswith("attention_biases"):
                state[name] = resize_bias_table(state[name], table.shape[1])
        network.load_state_dict(state)
        network.grad_checkpointing = self.grad_checkpointing
        for parameter, original in zip(network.parameters(), self.parameters(), strict=True):
            parameter.requires_grad_(original.requires_grad)
        return network

    def get_classifier(self) -> nn.Module | tuple[nn.Module, nn.Module]:
        """The head, or both heads of a distilled network, by timm's name for it."""
        return self.head if self.head_distilled is None else (self.head, self.head_distilled)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Keep only the input of each block in training and compute the rest again for the gradient.

        For eager mode: `torch.compile` does not take it, and decides by itself what to keep.
        """
        self.grad_checkpointing = enable

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters that weight decay must leave alone: the attention bias tables."""
        return attention_bias_names(self)

    def parameter_groups(
        self, *, learning_rate: float, weight_decay: float, layer_decay: float = 1.0
    ) -> list[dict[str, Any]]:
        """Parameter groups for an optimiser: weight decay where it belongs, slower learning near the input.

        Norms, biases and the attention bias tables get no weight decay. The head learns at
        `learning_rate`, each block before it at `layer_decay` times the rate of the one after it; a
        subsample goes with the block that follows it, the stem is first.

        Args:
            learning_rate: Rate of the head.
            weight_decay: Weight decay of the rest.
            layer_decay: Factor per block, in (0, 1]; 1 for one rate everywhere.

        Returns:
            Groups with `params`, `lr`, `weight_decay`, and for schedulers and people `lr_scale` and `names`.

        Raises:
            ConfigError: If layer_decay is not in (0, 1].
        """
        return parameter_groups(
            self.named_parameters(),
            self.config,
            undecayed=self.no_weight_decay(),
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            layer_decay=layer_decay,
        )

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Regular expressions of the depth groups, for timm's optimiser factory."""
        blocks: Any = r"^stages\.(\d+)" if coarse else r"^stages\.(\d+)\.(\d+)"
        return {"stem": r"^stem", "blocks": blocks}
