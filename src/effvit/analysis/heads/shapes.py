"""From whatever shape a network computes its attention in to (windows, heads, queries, keys)."""

from __future__ import annotations

import torch
from timm.layers.halo_attn import HaloAttn
from torch import Tensor, nn

_NAMES_FOR_HEADS = ("num_heads", "heads", "num_attention_heads", "n_heads", "nhead")


def stated_heads(module: nn.Module) -> int | None:
    """How many heads an attention module says that it has; None if it does not say."""
    for name in _NAMES_FOR_HEADS:
        number = getattr(module, name, None)
        if isinstance(number, int) and not isinstance(number, bool) and number > 0:
            return number
    return None


def heads_beside_pictures(module: nn.Module) -> bool:
    """Whether an attention's maps have shape (B * heads, windows, N, M), which their numbers do not tell."""
    return isinstance(module, HaloAttn)


def by_head(
    maps: list[Tensor], num_heads: int | None, *, num_pictures: int = 1, beside_pictures: bool = False
) -> Tensor | str:
    """Bring the maps of one attention into one form.

    Args:
        maps: One tensor with a dimension of heads; or tensors of three dimensions, (windows, N, M): several are
            the heads one after another (a cascade), a single one of a module with more heads has them in its first
            dimension, windows first, as torch's own multi-head attention does.
        num_heads: What the module says; None if it does not.
        num_pictures: Pictures of the batch: windows and heads are not split over two of them.
        beside_pictures: See `heads_beside_pictures`.

    Returns:
        (windows, heads, N, M), windows of one picture together where they were; or in one line why it cannot be said.
    """
    first = maps[0]
    shape = tuple(first.shape)
    if first.dim() == 3:
        if any(tuple(other.shape) != shape for other in maps):
            return f"softmaxes of different shapes, {[tuple(other.shape) for other in maps]}, which are no heads"
        if num_heads in (None, len(maps)):
            return torch.stack(maps, dim=1)  # (W, N, M) each -> (W, heads, N, M)
        assert num_heads is not None
        if len(maps) > 1:
            return f"{num_heads} heads, but {len(maps)} softmaxes of shape {shape}"
        if shape[0] % (num_pictures * num_heads):
            return f"{num_heads} heads, but the softmax has shape {shape}"
        return first.reshape(-1, num_heads, *shape[1:])  # (W * heads, N, M) -> (W, heads, N, M)
    if first.dim() == 4:
        if beside_pictures and num_heads is not None:
            # (B * heads, windows, N, M) -> (B, heads, windows, N, M) -> (B * windows, heads, N, M)
            return first.reshape(-1, num_heads, *shape[1:]).transpose(1, 2).flatten(0, 1)
        if num_heads is None or shape[1] == num_heads:
            return first
        return f"{num_heads} heads, but the softmax has shape {shape}"
    places = [place for place in range(1, first.dim() - 2) if shape[place] == num_heads]
    if not places or (len(places) > 1 and num_heads != 1):
        stated = "does not say how many heads it has" if num_heads is None else f"has {num_heads} heads"
        return f"the module {stated}, and in a softmax of shape {shape} their dimension cannot be told"
    return first.movedim(places[0], -3).flatten(0, -4)  # (B, ..., heads, ..., N, M) -> (B * ..., heads, N, M)
