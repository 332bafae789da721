"""From the network people train to the form that is exported and timed: same function, fewer and better operators.

The result is a new module on the same device and in the same dtype; the network is never touched. Each step is a
function of its own here, exact in real numbers, computed in float64 and rounded once:

- every BatchNorm into the operator beside it (`effvit.deploy.folding`), two distilled heads into their mean;
- the residual of a depth-wise convolution into the centre of its kernel (`with_residual`);
- the softmax scale into the queries (`scaled`);
- the bias of a branch into the convolution before it, and out of whatever reads the map in between (`without_shift`);
- the bias table into one value per pair of tokens, and for a known picture size also window masks, and the queries'
  convolution into a matrix (`effvit.deploy.attention`).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn

from effvit.deploy.attention import Attention, Head
from effvit.deploy.folding import can_fold, exact, fold_norms, folded
from effvit.deploy.layers import MapAttention, MapFeedForward, MapMerging, Operator, TokenFeedForward, TokenMerging
from effvit.deploy.network import DeployedEfficientViT, Layout
from effvit.errors import ConfigError
from effvit.model.attention import CascadedGroupAttention, WindowAttention
from effvit.model.config import PATCH_SIZE, EfficientViTConfig
from effvit.model.layers import ConvNorm, FeedForwardUnit, NormLinear, PatchMerging, Residual
from effvit.model.network import Block, EfficientViT, Subsample

MAX_DENSE_TOKENS = 64
"""Windows up to this many tokens get their queries' convolution as a matrix: beyond, its values outweigh its work."""


def rewrite(
    model: nn.Module, *, layout: Layout = "tokens", image_size: int | tuple[int, int] | None = None
) -> nn.Module:
    """Make the deploy form of a network; of any other module, fold the norms of our layers in it.

    Args:
        model: A network of ours, trained, pruned or ablated. One with layer norms, norms without fixed statistics
            or the usual multi-head attention stays as it is but for what can be folded, and so does any other
            module, in which only our `ConvNorm` and `NormLinear` are looked for.
        layout: tokens for torch; maps for runtimes that prefer convolutions.
        image_size: Side, or height and width, in pixels, to fix the form to; None for pictures of any size.

    Returns:
        A `DeployedEfficientViT`, or a copy of the module with its norms folded; in eval mode without gradients.

    Raises:
        ConfigError: If the layout is unknown or the picture size is not allowed.
    """
    if layout not in ("tokens", "maps"):
        raise ConfigError(f"layout must be tokens or maps, got {layout!r}")
    if not isinstance(model, EfficientViT):
        return fold_norms(model)
    size = (image_size, image_size) if isinstance(image_size, int) else image_size
    config = replace(model.config, distilled=False, image_size=size or model.config.image_size)  # checks the size
    if not _can_deploy(model):
        return _with_one_head(model)
    stem = [_stem(layer, layout) for layer in model.stem if isinstance(layer, ConvNorm)]
    stages = [[part for layer in stage.children() for part in _parts(layer, layout, config)] for stage in model.stages]
    deployed = DeployedEfficientViT(
        config,
        layout=layout,
        stem=stem,
        layers=[part for stage in stages for part in stage],
        stage_ends=list(accumulate(map(len, stages))),
        head=_classifier(model),
        image_size=size,
    )
    if size is not None:
        _fix_size(deployed, size)
    return deployed.to(next(model.parameters())).eval()


def _can_deploy(model: EfficientViT) -> bool:
    """Whether the deploy form knows all of it, and every norm has fixed statistics."""
    layers = [module for module in model.modules() if isinstance(module, ConvNorm | NormLinear)]
    blocks = (layer for stage in model.stages for layer in stage.children() if isinstance(layer, Block))
    mixers = (_branch(block.attention).mixer for block in blocks if isinstance(block.attention, Residual))
    return all(map(can_fold, layers)) and all(isinstance(mixer, CascadedGroupAttention) for mixer in mixers)


def _branch(residual: Any) -> Any:
    """What is added to the map: an attention, feed-forward layer or convolution."""
    return residual.body


def _with_one_head(model: EfficientViT) -> nn.Module:
    """The network itself, its norms folded where they can be; two foldable heads become one."""
    result = fold_norms(model)
    assert isinstance(result, EfficientViT)
    if result.head_distilled is not None and isinstance(result.head, nn.Linear):
        assert isinstance(result.head_distilled, nn.Linear)
        head = copy.deepcopy(result.head)
        values = _classifier(model)
        assert values is not None
        head.weight.data, head.bias.data = values[0].t().to(head.weight), values[1].to(head.bias)
        result.head, result.head_distilled = head, None
        result.config = replace(result.config, distilled=False)
    return result


def _classifier(model: EfficientViT) -> tuple[Tensor, Tensor] | None:
    """Weight (C, num_classes) and bias of the classifier, of two distilled heads their mean; None for no classifier."""
    if model.num_classes == 0:
        return None
    heads = [folded(head) for head in (model.head, model.head_distilled) if head is not None]
    weight, bias = (torch.stack(values).mean(0) for values in zip(*heads, strict=True))
    return weight.t().contiguous(), bias


def _stem(layer: nn.Module, layout: Layout) -> Operator:
    weight, bias = folded(layer)
    # A convolution reads its kernel in the order of its picture: kept so, nothing is reordered in a call.
    order = torch.channels_last if layout == "tokens" else torch.contiguous_format
    return Operator(weight.contiguous(memory_format=order), bias)


def _parts(layer: Any, layout: Layout, config: EfficientViTConfig) -> list[nn.Module]:
    """A block or the step between two stages, in the chosen layout."""
    if isinstance(layer, Subsample):
        steps: list[Any] = list(layer)
        before, merge, after = steps
        ends = [_feed_forward(unit, layout, config, None) for unit in (before, after)]
        return [ends[0], _merging(merge, layout, config), ends[1]]
    units, residual, after = layer.children()
    if not isinstance(residual, Residual):  # a block without heads
        return [_feed_forward(unit, layout, config, None) for unit in (*units, *after)]
    attention: WindowAttention = _branch(residual)
    shift = _movable_bias(list(units), attention)
    last = len(units) - 1
    mixed = _attention(attention, config, shift)
    return [
        *(_feed_forward(unit, layout, config, shift if i == last else None) for i, unit in enumerate(units)),
        mixed if layout == "tokens" else MapAttention(mixed),
        *(_feed_forward(unit, layout, config, None) for unit in after),
    ]


def with_residual(weight: Tensor) -> Tensor:
    """The kernel that gives `x + convolution(x)`, for a depth-wise (C, 1, k, k)."""
    weight, centre = weight.clone(), weight.shape[-1] // 2
    weight[:, 0, centre, centre] += 1
    return weight


def scaled(weight: Tensor, bias: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """The operator times a number."""
    return weight * scale, bias * scale


def without_shift(weight: Tensor, bias: Tensor, shift: Tensor) -> Tensor:
    """The bias with which a product, weight (out, in), gives on `x + shift` what it gave on `x`."""
    return bias - weight @ shift


def _movable_bias(units: Sequence[FeedForwardUnit], attention: WindowAttention) -> Tensor | None:
    """The bias of the attention's projection, if it can be added before the attention reads the map.

    It takes a convolution before it, and padding that is kept out: the zeros around a map would not be shifted.
    """
    if not units or not hasattr(units[-1], "interaction") or not attention.mask_padding:
        return None
    return folded(_mixer(attention).project)[1]


def _feed_forward(unit: FeedForwardUnit, layout: Layout, config: EfficientViTConfig, extra: Tensor | None) -> nn.Module:
    """Token interaction and feed-forward layer; `extra` is added to the map along the way."""
    kind = TokenFeedForward if layout == "tokens" else MapFeedForward
    layer = _branch(unit.ffn)
    (expand, expand_bias), (project, project_bias) = folded(layer.expand), folded(layer.project)
    if not hasattr(unit, "interaction"):
        return kind(None, (expand, expand_bias), (project, project_bias), config.activation)
    shift = project_bias if extra is None else project_bias + extra
    weight, bias = folded(_branch(unit.interaction))
    expand_bias = without_shift(expand.flatten(1), expand_bias, shift)  # (out, in, 1, 1) -> (out, in)
    return kind((with_residual(weight), bias + shift), (expand, expand_bias), (project, None), config.activation)


def _merging(merge: PatchMerging, layout: Layout, config: EfficientViTConfig) -> nn.Module:
    kind = TokenMerging if layout == "tokens" else MapMerging
    gate = merge.squeeze_excite
    layers = (merge.expand, merge.depthwise, gate.reduce, gate.expand, merge.project)
    expand, depthwise, reduce, widen, project = map(folded, layers)
    return kind(expand, depthwise, reduce, widen, project, config.activation)


def _attention(attention: WindowAttention, config: EfficientViTConfig, shift: Tensor | None) -> Attention:
    """Attention on maps that hold `shift` more than the network's own; None for attention that adds its own bias."""
    mixer = _mixer(attention)
    project, project_bias = folded(mixer.project)
    shifts = [None] * len(mixer.qkv) if shift is None else shift.chunk(len(mixer.qkv))
    return Attention(
        [_head(mixer, index, shifts[index]) for index in range(len(mixer.qkv))],
        cascade=mixer.cascade,
        weight=project.flatten(1).t(),  # (C, num_heads * value_dim, 1, 1) -> (num_heads * value_dim, C)
        bias=project_bias if shift is None else None,
        table=exact(attention.bias(attention.window, attention.window)),
        window=attention.window,
        mask_padding=attention.mask_padding,
        activation=config.activation,
    )


def _mixer(attention: WindowAttention) -> CascadedGroupAttention:
    assert isinstance(attention.mixer, CascadedGroupAttention)
    return attention.mixer


def _head(mixer: CascadedGroupAttention, index: int, shift: Tensor | None) -> Head:
    """One head, the softmax scale in its queries."""
    weight, bias = folded(mixer.qkv[index])
    weight = weight.flatten(1)  # (out, in, 1, 1) -> (out, in)
    if shift is not None:
        bias = without_shift(weight, bias, shift)
    query, key, value = torch.split(weight, mixer.dims)
    query_bias, _, value_bias = torch.split(bias, mixer.dims)
    if can_fold(mixer.query[index]):
        convolution = scaled(*folded(mixer.query[index]), mixer.scale)
        return Head((query, query_bias), key, (value, value_bias), convolution)
    return Head(scaled(query, query_bias, mixer.scale), key, (value, value_bias), None)


def _fix_size(deployed: DeployedEfficientViT, image_size: tuple[int, int]) -> None:
    """Compute what depends on the size of the pictures."""
    height, width = (-(-side // PATCH_SIZE) for side in image_size)
    for layer in deployed.layers:
        if isinstance(layer, TokenMerging | MapMerging):
            height, width = -(-height // 2), -(-width // 2)
        attention = layer.attention if isinstance(layer, MapAttention) else layer
        if isinstance(attention, Attention):
            grid = attention.fix_size(height, width)
            # Only torch pays more for a small convolution than for a product.
            if deployed.layout == "tokens" and grid.num_tokens <= MAX_DENSE_TOKENS:
                attention.make_queries_dense(grid.window_size)
