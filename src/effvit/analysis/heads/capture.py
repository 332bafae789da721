"""Seeing the attention maps of any network while it runs, without touching it.

Every softmax over the last dimension and every scaled dot product attention that a module calls is a map, whoever
wrote the module. A fused attention never holds its map, so it is computed beside it, from the same queries and keys.
The network's own computation is not changed: its output is the same to the bit, unless torch takes one of its fast
paths for whole encoder layers, which step aside when somebody watches.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from effvit.analysis.heads.shapes import by_head, heads_beside_pictures, stated_heads
from effvit.model.attention import CascadedGroupAttention, MultiHeadSelfAttention

_SOFTMAX = (torch.softmax, torch.special.softmax, torch.Tensor.softmax, F.softmax)


@dataclass(frozen=True)
class Entered:
    """A module that was running when a map was seen, with the shape of its first input."""

    module: nn.Module
    input_shape: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class AttentionCall:
    """The maps of all heads of one attention, for one batch."""

    name: str
    """Dotted name of the module; its second attention in a forward pass has `#2` at the end, and so on."""
    maps: Tensor
    """(B * windows, heads, N, M): each row of N queries sums to 1 over M keys. Rows of padding tokens are zero."""
    inside: Tensor | None
    """True where a token is in the picture and False where it is padding, (B * windows, N); None where nothing is
    known to be padding."""
    modules: tuple[Entered, ...]
    """What was running, outermost first."""


def attention_maps(network: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """Attention maps of a network on a batch, all in memory at once; `watch_attention` hands them out one by one.

    Args:
        network: Any network whose attention is a softmax or a scaled dot product attention in Python; it runs in
            eval mode and gets its modes back.
        images: Its input, on its device.

    Returns:
        In the order of the forward pass, name of the module -> (B * windows, heads, N, M), see `AttentionCall`.
        Empty if the network has no attention.
    """
    found: dict[str, Tensor] = {}
    with watch_attention(network, lambda call: found.update({call.name: call.maps.clone()})), torch.no_grad():
        network(images)
    return found


@contextmanager
def watch_attention(network: nn.Module, on_call: Callable[[AttentionCall], None]) -> Iterator[Counter[str]]:
    """Hand out every attention of the forward passes made inside, as soon as it is computed.

    The network is in eval mode meanwhile: dropped attention weights are no map.

    Args:
        network: See `attention_maps`.
        on_call: Told of each attention. Keep no reference to its maps, and memory stays that of one block.

    Yields:
        What looked like an attention and could not be read, and how often; filled as the network runs.
    """
    unread: Counter[str] = Counter()
    watcher = _Watcher(on_call, unread)
    modes = {module: module.training for module in network.modules()}
    with ExitStack() as stack:
        for name, module in network.named_modules():
            before = module.register_forward_pre_hook(watcher.entering(name), with_kwargs=True)
            after = module.register_forward_hook(watcher.leaving, always_call=True)
            stack.callback(before.remove)
            stack.callback(after.remove)
        network.eval()
        try:
            with watcher:
                yield unread
        finally:
            for module, training in modes.items():
                module.training = training


@dataclass
class _Frame:
    """One running forward of a module."""

    name: str
    entered: Entered
    inside: Tensor | None
    single_maps: list[Tensor]
    """Maps that came without a dimension of heads, such as those of our cascade, one head after another."""


class _Watcher(TorchFunctionMode):
    """Knows which module is running, and sees what it calls."""

    def __init__(self, on_call: Callable[[AttentionCall], None], unread: Counter[str]) -> None:
        super().__init__()
        self.on_call = on_call
        self.unread = unread
        self.frames: list[_Frame] = []
        self.num_seen: Counter[str] = Counter()

    def entering(self, name: str) -> Callable[..., None]:
        """The hook that runs before a module."""

        def enter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if not self.frames:
                self.num_seen.clear()  # a new forward pass
            tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
            shape = tuple(tensors[0].shape) if tensors else ()
            self.frames.append(_Frame(name, Entered(module, shape), _inside(module, args), []))

        return enter

    def leaving(self, module: nn.Module, args: Any, output: Any) -> None:
        """The hook that runs after a module, whether it succeeded or not."""
        frame = self.frames.pop()
        if frame.single_maps:
            self._read(frame, frame.single_maps, (*self.frames, frame))

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call what was called; if it has a map, take it."""
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        # Inside this method the mode is off: what is computed here is not seen again.
        if self.frames and func in _SOFTMAX and output.dim() > 2:
            self._softmax(output, *args[1:], **kwargs)
        elif self.frames and func is F.scaled_dot_product_attention:
            self._seen(_product_map(*args, **kwargs))
        elif self.frames and func is F.multi_head_attention_forward:
            needed = {**kwargs, "need_weights": True, "average_attn_weights": False}
            weights = func(*args, **needed)[1]
            assert weights is not None  # they were asked for
            self._seen(weights)
        return output

    def _softmax(self, output: Tensor, dim: int | None = None, *args: Any, **kwargs: Any) -> None:
        if dim is not None and dim % output.dim() == output.dim() - 1:
            self._seen(output)
        else:
            owner = self._owner()[-1].name
            self.unread[f"{owner or 'network'}: softmax over dimension {dim} of {output.dim()}, not over keys"] += 1

    def _seen(self, maps: Tensor) -> None:
        frames = self._owner()
        if maps.dim() == 3:
            frames[-1].single_maps.append(maps.clone())
        else:
            self._read(frames[-1], [maps], frames)

    def _owner(self) -> tuple[_Frame, ...]:
        """What is running, down to the module that has the attention: an `nn.Softmax` belongs to its parent."""
        frames = self.frames
        if len(frames) > 1 and isinstance(frames[-1].entered.module, nn.Softmax):
            frames = frames[:-1]
        return tuple(frames)

    def _read(self, frame: _Frame, maps: list[Tensor], frames: tuple[_Frame, ...]) -> None:
        module = frame.entered.module
        (num_pictures, *_) = frames[0].entered.input_shape or (1,)
        read = by_head(
            maps, stated_heads(module), num_pictures=num_pictures, beside_pictures=heads_beside_pictures(module)
        )
        if isinstance(read, str):
            self.unread[f"{frame.name or 'network'}: {read}"] += 1
            return
        self.num_seen[frame.name] += 1
        number = self.num_seen[frame.name]
        inside = frame.inside
        if inside is not None:
            read = read * inside[:, None, :, None]
        self.on_call(
            AttentionCall(
                name=frame.name if number == 1 else f"{frame.name}#{number}",
                maps=read,
                inside=inside,
                modules=tuple(each.entered for each in frames),
            )
        )


def _inside(module: nn.Module, args: tuple[Any, ...]) -> Tensor | None:
    """Which tokens of the windows of our attention are no padding, (B * windows, N)."""
    if not isinstance(module, CascadedGroupAttention | MultiHeadSelfAttention) or args[2] is None:
        return None
    inside: Tensor = args[2]
    return inside.flatten(1) != 0  # (B * windows, 1, w, w) -> (B * windows, N)


def _product_map(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """The map that a scaled dot product attention uses, as torch's documentation defines it, at least in float32."""
    dtype = torch.promote_types(query.dtype, torch.float32)
    query, key = query.to(dtype), key.to(dtype)
    if enable_gqa:
        key = key.repeat_interleave(query.shape[-3] // key.shape[-3], dim=-3)
    logits = query @ key.transpose(-2, -1) * (query.shape[-1] ** -0.5 if scale is None else scale)
    if is_causal:
        attn_mask = torch.ones(logits.shape[-2:], dtype=torch.bool, device=logits.device).tril()
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        logits = logits.masked_fill(~attn_mask, float("-inf"))
    elif attn_mask is not None:
        logits = logits + attn_mask
    # A query that may look at nothing has a row of zeros, as in the fused kernels, not of NaN.
    return logits.softmax(-1).masked_fill((logits == float("-inf")).all(-1, keepdim=True), 0.0)
