"""How alike the heads of an attention are (Sec. 2.2, Fig. 4): cosine similarity of their maps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from effvit.analysis.heads.capture import AttentionCall, watch_attention
from effvit.errors import ConfigError, DataError, first_line

_MAX_ELEMENTS = 2**23
"""Elements of the maps that are compared at once in float64: 64 MiB."""


class Likeness(NamedTuple):
    """How alike the heads of each window are; float64, on the device of the maps."""

    cosine: Tensor
    """Of each pair of maps, each seen as one vector of N * M numbers, (W, heads, heads)."""
    correlation: Tensor
    """The same after the mean is taken off each map; 0 for a map that is flat, (W, heads, heads)."""
    flatness: Tensor
    """Cosine similarity of each map with the flat one, (W, heads)."""


def likeness(maps: Tensor, inside: Tensor | None = None) -> Likeness:
    """Compare the maps of every two heads of a window.

    The three are one fact: cosine = f * f' + correlation * sqrt((1 - f^2) * (1 - f'^2)), with the flatness f and f'
    of the two maps. Two maps that have nothing in common but that they spread over many keys are alike by f * f'.

    Args:
        maps: (W, heads, N, M), each row summing to 1, or to 0 where its query is padding.
        inside: Which tokens are no padding, (W, N) with N = M; None for all.
    """
    W, _, N, M = maps.shape
    flat = maps.double().flatten(2)  # (W, heads, N, M) -> (W, heads, N * M)
    if inside is None:
        num_entries = torch.full((W, 1, 1), float(N * M), dtype=torch.float64, device=maps.device)
    else:
        num_entries = inside.sum(1).double().square().view(W, 1, 1)  # (W, N) -> (W, 1, 1)
    products = flat @ flat.transpose(1, 2)  # (W, heads, heads)
    sums = flat.sum(2, keepdim=True)  # (W, heads, 1)
    centred = products - sums * sums.transpose(1, 2) / num_entries
    norms = products.diagonal(dim1=1, dim2=2)  # (W, heads)
    centred_norms = centred.diagonal(dim1=1, dim2=2)
    # What rounding leaves of a flat map's variance is no variance.
    centred_norms = centred_norms.where(centred_norms > 1e-12 * norms, torch.inf)
    return Likeness(
        cosine=products / (norms[:, :, None] * norms[:, None, :]).sqrt(),
        correlation=centred / (centred_norms[:, :, None] * centred_norms[:, None, :]).sqrt(),
        flatness=sums.squeeze(2) / (norms * num_entries.squeeze(2)).sqrt(),
    )


@dataclass(frozen=True, kw_only=True)
class BlockSimilarity:
    """One attention of a network."""

    name: str
    """Dotted name of its module."""
    num_heads: int
    """Heads."""
    map_shape: tuple[int, int]
    """Queries and keys of a map."""
    windows_per_picture: float
    """Maps of a head for one picture."""
    similarity: float | None
    """Mean over heads of the largest cosine similarity of a head's map with any other head's, averaged over windows
    and pictures: the number of Fig. 4. None for a single head, or a single key."""
    standard_error: float | None
    """Of it, from its spread over pictures; None for fewer than two pictures."""
    correlation: float | None
    """The same with each map's mean taken off: what is alike beyond that maps are spread out."""
    flatness: float | None
    """Cosine similarity of a map with the flat one, averaged over heads, windows and pictures."""
    per_head: tuple[float, ...]
    """Each head's part in `similarity`."""
    pairs: tuple[tuple[float, ...], ...]
    """Cosine similarity of every two heads, averaged over windows and pictures."""
    num_windows: int
    """Windows it was averaged over."""
    num_left_out: int
    """Windows with fewer than two tokens in the picture: nothing to compare."""


@dataclass(frozen=True, kw_only=True)
class HeadSimilarity:
    """All attentions of a network, in the order of its forward pass."""

    blocks: tuple[BlockSimilarity, ...]
    """One per attention."""
    num_pictures: int
    """Pictures it was averaged over."""
    unread: dict[str, int] = field(default_factory=dict)
    """What looked like an attention and could not be read, and how often."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def head_similarity(
    network: nn.Module, batches: Iterable[Tensor], *, on_picture: Callable[[int], None] | None = None
) -> HeadSimilarity:
    """Measure how alike the heads of each attention are, on pictures.

    In every window of every picture each head's map is compared with every other head's as one long vector (plain
    cosine, float64); a head's largest value counts; mean over heads, then over windows and pictures.

    Args:
        network: Any network whose attentions `attention_maps` sees; eval mode while it runs.
        batches: Its inputs, (B, C, H, W), brought to its device.
        on_picture: Told how many pictures were seen so far.

    Raises:
        DataError: If there are no pictures.
        ConfigError: If the network does not run on these pictures, has no attention that can be read, or gives maps
            that are not finite.

    Source: arXiv:2305.07027, Sec. 2.2. The paper does not say in which order it averages; the mean of the largest,
    as here, is no less than the largest of the mean, which `pairs` has.
    """
    device = next((parameter.device for parameter in network.parameters()), torch.device("cpu"))
    sums: dict[str, _Sums] = {}
    num_pictures = 0

    def add(call: AttentionCall) -> None:
        sums.setdefault(call.name, _Sums(call)).add(call, len(images))

    with torch.no_grad(), watch_attention(network, add) as unread:
        for images in batches:
            try:
                network(images.to(device))
            except ConfigError:
                raise  # of ours, about the maps
            except (AssertionError, RuntimeError, TypeError, ValueError) as error:
                size = " x ".join(map(str, images.shape[1:]))
                raise ConfigError(
                    f"{type(network).__name__} does not run on pictures of {size}: {first_line(error)}"
                ) from error
            num_pictures += len(images)
            if on_picture is not None:
                on_picture(num_pictures)
    if not num_pictures:
        raise DataError("no pictures to look at")
    if not sums:
        raise ConfigError(_nothing_seen(network, unread))
    blocks = tuple(entry.result(num_pictures) for entry in sums.values())
    return HeadSimilarity(blocks=blocks, num_pictures=num_pictures, unread=dict(unread))


class _Sums:
    """Sums over the windows of one attention."""

    def __init__(self, call: AttentionCall) -> None:
        _, self.num_heads, *map_shape = call.maps.shape
        self.name = call.name
        self.map_shape = (map_shape[0], map_shape[1])
        self.per_head = torch.zeros(self.num_heads, dtype=torch.float64)
        self.correlation = torch.zeros((), dtype=torch.float64)
        self.flatness = torch.zeros((), dtype=torch.float64)
        self.pairs = torch.zeros(self.num_heads, self.num_heads, dtype=torch.float64)
        self.by_picture: list[float] = []
        self.num_windows = 0
        self.num_left_out = 0

    def add(self, call: AttentionCall, num_pictures: int) -> None:
        """Add the windows of a batch."""
        W, heads, N, M = call.maps.shape
        if heads != self.num_heads:
            raise ConfigError(f"{self.name} has {heads} heads for one batch and {self.num_heads} for another")
        step = max(1, _MAX_ELEMENTS // (heads * N * M))
        parts = [
            self._add(call.maps[at : at + step], None if call.inside is None else call.inside[at : at + step])
            for at in range(0, W, step)
        ]
        of_window = torch.cat(parts)
        if W % num_pictures == 0:  # windows of one picture lie together
            self.by_picture += of_window.view(num_pictures, -1).nanmean(1).tolist()

    def _add(self, maps: Tensor, inside: Tensor | None) -> Tensor:
        """Add some windows; the mean over heads for each, NaN where there is nothing to compare."""
        W, heads, _, M = maps.shape
        if maps.device.type == "mps":  # has no float64
            maps, inside = maps.cpu(), None if inside is None else inside.cpu()
        num_keys = torch.full((W,), M) if inside is None else inside.sum(1).cpu()
        valid = (num_keys > 1).to(maps.device)
        self.num_left_out += int(W - valid.sum())
        of_window = torch.full((W,), torch.nan, dtype=torch.float64)
        if not valid.any():
            return of_window
        if not maps.isfinite().all():
            raise ConfigError(f"the attention maps of {self.name} are not finite: look at the weights")
        found = likeness(maps[valid], None if inside is None else inside[valid])
        self.num_windows += len(found.flatness)
        self.flatness += found.flatness.mean(1).sum().cpu()
        self.pairs += found.cosine.sum(0).cpu()
        if heads > 1:
            largest = _largest_of_others(found.cosine)  # (W, heads)
            self.per_head += largest.sum(0).cpu()
            self.correlation += _largest_of_others(found.correlation).mean(1).sum().cpu()
            of_window[valid.cpu()] = largest.mean(1).cpu()
        return of_window

    def result(self, num_pictures: int) -> BlockSimilarity:
        """What the sums say."""
        count = self.num_windows
        comparable = count > 0 and self.num_heads > 1
        spread = torch.tensor(self.by_picture, dtype=torch.float64)
        error = None
        if comparable and num_pictures > 1 and len(spread) == num_pictures:
            error = float(spread.std() / num_pictures**0.5)
        return BlockSimilarity(
            name=self.name,
            num_heads=self.num_heads,
            map_shape=self.map_shape,
            windows_per_picture=(count + self.num_left_out) / num_pictures,
            similarity=float(self.per_head.mean() / count) if comparable else None,
            standard_error=error,
            correlation=float(self.correlation / count) if comparable else None,
            flatness=float(self.flatness / count) if count else None,
            per_head=tuple((self.per_head / count).tolist()) if comparable else (),
            pairs=tuple(tuple(row) for row in (self.pairs / count).tolist()) if count else (),
            num_windows=count,
            num_left_out=self.num_left_out,
        )


def _largest_of_others(values: Tensor) -> Tensor:
    """Each head's largest value with another head, (W, heads, heads) -> (W, heads)."""
    own = torch.eye(values.shape[1], dtype=torch.bool, device=values.device)
    return values.masked_fill(own, -torch.inf).amax(2)


def _nothing_seen(network: nn.Module, unread: Counter[str]) -> str:
    name = type(network).__name__
    if unread:
        return f"{name} has no attention that can be read; seen, and not read: {'; '.join(list(unread)[:3])}"
    return (
        f"{name} has no attention: no softmax over keys and no scaled dot product attention was called"
        " (inside compiled or scripted modules none can be seen)"
    )
