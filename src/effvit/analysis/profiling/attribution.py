"""Whose time it is: every span of a pass becomes operators, each with its class, module, head, MACs and bytes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from torch import nn
from torch.profiler import record_function

from effvit.analysis.cost import Costs, OperatorCall
from effvit.analysis.profiling.lowered import canonical, family, kind_of
from effvit.analysis.profiling.spans import Span
from effvit.analysis.tracing import is_composite
from effvit.operators import MOVEMENT, PRODUCTS

_MODULE = "effvit: module "
"""Begins the name of the range around each call of a module."""
_AHEAD = 6
"""How many calls may be passed over to find the one that a span is."""
_COPIES = frozenset({"copy_", "contiguous", "clone", "to", "_to_copy"})
"""Operators whose time counts as moving data inside another operator too: a bias copied, an order in memory changed."""
_PRODUCTS_OF_HEAD = 2
"""Logits and result: with the second, a head is done."""


@dataclass(frozen=True, kw_only=True)
class OperatorTime:
    """One operator of one pass."""

    name: str
    """As the profiler calls it; `aten::copy_ in aten::addmm` for a copy that another operator makes for itself."""
    module: str
    """Dotted name of the innermost module that called it; "" for the network itself."""
    kind: str
    """Class of the operator, one of `effvit.operators.CLASSES`."""
    microseconds: float
    """Its time, of whatever the profiler measured: the profile scales it."""
    call: OperatorCall | None = None
    """What it computes and moves; None if it was not found among the counted calls."""
    is_wrapper: bool = False
    """Whether torch writes it in other operators, which have their own entries."""
    head: tuple[str, int] | None = None
    """Module and number of the attention head it belongs to."""


@contextmanager
def module_ranges(network: nn.Module) -> Iterator[None]:
    """Inside the block, every call of a module stands in a range of its name in the profile."""
    open_ranges: list[ExitStack] = []

    def enter(name: str, *_: Any) -> None:
        open_ranges.append(ExitStack())
        open_ranges[-1].enter_context(record_function(_MODULE + name))

    def leave(*_: Any) -> None:
        open_ranges.pop().close()

    hooks = []
    for name, module in network.named_modules():
        hooks.append(module.register_forward_pre_hook(partial(enter, name), prepend=True))
        hooks.append(module.register_forward_hook(leave, always_call=True))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def cascades(network: nn.Module) -> dict[str, int]:
    """Modules that compute their heads one after the other, with the number of heads: ours, and their deploy form."""
    found = {}
    for name, module in network.named_modules():
        parts = [getattr(module, attribute, None) for attribute in ("qkv", "heads")]
        lists = [part for part in parts if isinstance(part, nn.ModuleList)]
        if lists and hasattr(module, "cascade"):
            found[name] = len(lists[0])
    return found


def operators_of(
    root: Span,
    costs: Costs,
    *,
    event_cost_us: float,
    on_cuda: bool,
    heads: Mapping[str, int] | None = None,
    is_compiled: bool = False,
) -> list[OperatorTime]:
    """All time that operators take in a pass, once.

    Args:
        root: A pass recorded inside `module_ranges`.
        costs: Of the same network and input; a span is matched to the counted calls of its module in their order.
        event_cost_us: See `effvit.analysis.profiling.spans.event_cost_us`.
        on_cuda: Count the kernels' time and not the CPU's.
        heads: See `cascades`.
        is_compiled: Whether torch.compile made the pass: its modules are gone, and only products are matched, in the
            order of all.
    """
    waiting: dict[str, list[OperatorCall]] = {}
    for call in costs.calls:
        if call.num_macs or not is_compiled:
            waiting.setdefault("" if is_compiled else call.module, []).append(call)
    collector = _Collector(waiting, event_cost_us=event_cost_us, on_cuda=on_cuda, heads=heads or {})
    collector.visit(root, "", None)
    return collector.found


class _Collector:
    """Goes through a pass in the order of time."""

    def __init__(
        self,
        waiting: dict[str, list[OperatorCall]],
        *,
        event_cost_us: float,
        on_cuda: bool,
        heads: Mapping[str, int],
    ) -> None:
        self.found: list[OperatorTime] = []
        self.event_cost_us, self.on_cuda, self.heads = event_cost_us, on_cuda, heads
        self.waiting = waiting

    def visit(self, span: Span, module: str, head: tuple[str, int] | None) -> None:
        """A range: look into it. What it started on the GPU itself are generated kernels."""
        if self.on_cuda:
            for name, duration in span.kernels:
                self._add(name, module, kind_of(name), duration, head=head)
        num_heads, num_products = self.heads.get(module, 0), 0
        is_cascade = num_heads > 0 and span.name == _MODULE + module
        for child in span.children:
            if is_cascade:
                index = num_products // _PRODUCTS_OF_HEAD
                head = (module, index) if index < num_heads else None
            if child.name.startswith(_MODULE):
                self.visit(child, child.name.removeprefix(_MODULE), head)
            elif child.is_operator:
                before = len(self.found)
                self._operator(child, module, head)
                # The product may stand below an operator that is written in others.
                num_products += any(unit.call is not None and unit.call.num_macs for unit in self.found[before:])
            else:
                self.visit(child, module, head)

    def _operator(self, span: Span, module: str, head: tuple[str, int] | None) -> None:
        """An operator: one of the counted calls with all below it, or written in others that are."""
        kind, call = kind_of(span.name), self._matching(span, module)
        if call is None:
            inner = [child for child in span.children if child.is_operator]
            others = sum(self._total(child) for child in span.children if not child.is_operator)  # the driver's calls
            is_wrapper = bool(inner) and _is_written_in_others(span.name)
            self._add(span.name, module, kind, self._own(span) + others, is_wrapper=is_wrapper, head=head)
            for child in inner:
                self._operator(child, module, head)
            return
        kind, module = PRODUCTS if call.num_macs else kind, call.module  # which a compiled pass does not know itself
        copies: list[Span] = [] if kind == MOVEMENT else list(_outermost_copies(span))
        copied = sum(map(self._total, copies))
        self._add(span.name, module, kind, self._total(span) - copied, call=call, head=head)
        if copied > 0:
            self._add(f"aten::copy_ in {call.operator}", module, MOVEMENT, copied, head=head)

    def _matching(self, span: Span, module: str) -> OperatorCall | None:
        """The counted call that a span is; it and those passed over wait no longer."""
        waiting = self.waiting.get(module, [])
        for same in (canonical, family):
            for index, call in enumerate(waiting[:_AHEAD]):
                if same(call.operator) == same(span.name):
                    del waiting[: index + 1]
                    return call
            if any(kind_of(child.name) == PRODUCTS for child in span.children):
                break  # that child is the product, and this one only calls it
        return None

    def _add(self, name: str, module: str, kind: str, microseconds: float, **facts: Any) -> None:
        self.found.append(OperatorTime(name=name, module=module, kind=kind, microseconds=microseconds, **facts))

    def _own(self, span: Span) -> float:
        return sum(time for _, time in span.kernels) if self.on_cuda else span.own_us(self.event_cost_us)

    def _total(self, span: Span) -> float:
        return sum(map(self._own, span.walk()))


@cache
def _is_written_in_others(name: str) -> bool:
    """Whether an operator only calls others; one with a kernel of its own may call some too, and compute besides."""
    namespace, _, bare = name.partition("::")
    packet = getattr(getattr(torch.ops, namespace), bare, None) if bare else None
    return packet is not None and any(is_composite(getattr(packet, overload)) for overload in packet.overloads())


def _outermost_copies(span: Span) -> Iterator[Span]:
    for child in span.children:
        if child.name.removeprefix("aten::") in _COPIES:
            yield child
        else:
            yield from _outermost_copies(child)
