"""What a network costs, found without numbers: parameters, MACs, activations, bytes; per module and operator."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import torch
from torch import nn

from effvit.analysis.tracing import OperatorCall as OperatorCall
from effvit.analysis.tracing import trace
from effvit.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What some calls cost together: one row of a table."""

    name: str
    """Of a module ("" for the whole network) or of an operator."""
    kind: str
    """Class of the module; "operator" for an operator."""
    num_params: int
    """Parameters of the module and all below it, each tensor once; 0 for an operator."""
    num_calls: int
    """Calls of operators, views included."""
    num_views: int
    """Calls that move nothing: views, and memory set aside."""
    num_macs: int
    """Multiply-accumulates."""
    num_activations: int
    """Elements of the results of convolutions and matrix products."""
    bytes_read: int
    """Bytes in."""
    bytes_written: int
    """Bytes out."""
    num_uncounted: int
    """Calls that may multiply and of which no formula is known."""

    @property
    def bytes_moved(self) -> int:
        """Read and written."""
        return self.bytes_read + self.bytes_written

    @property
    def intensity(self) -> float:
        """MACs per byte moved; 0 where nothing moves."""
        return self.num_macs / self.bytes_moved if self.bytes_moved else 0.0


@dataclass(frozen=True, kw_only=True)
class ModuleFacts:
    """A module of the network."""

    name: str
    """Dotted; "" for the network itself."""
    kind: str
    """Its class."""
    num_params: int
    """Of it and all below it, each tensor once."""


@dataclass(frozen=True, kw_only=True)
class Costs:
    """Every call that a network makes for one batch, and sums of them."""

    input_size: tuple[int, int, int]
    """Channels, height, width."""
    batch_size: int
    """Pictures in the batch; everything but the parameters is for the whole batch."""
    dtype: str
    """Of the input, which is that of the first parameter."""
    traced_on: str
    """`meta`, or the device whose real tensors were needed."""
    reason: str
    """Why real tensors were needed; "" if they were not."""
    calls: tuple[OperatorCall, ...]
    """In the order of execution."""
    modules: tuple[ModuleFacts, ...]
    """In the order of the network, itself first."""

    @property
    def tensor_type(self) -> torch.dtype:
        """`dtype` as torch has it."""
        dtype: torch.dtype = getattr(torch, self.dtype)
        return dtype

    @property
    def num_params(self) -> int:
        """Parameters of the network, each tensor once."""
        return self.modules[0].num_params

    @property
    def num_macs(self) -> int:
        """Multiply-accumulates of all calls."""
        return sum(call.num_macs for call in self.calls)

    @property
    def num_activations(self) -> int:
        """Elements of the results of all convolutions and matrix products."""
        return sum(call.num_activations for call in self.calls)

    @property
    def bytes_read(self) -> int:
        """Bytes in, of all calls."""
        return sum(call.bytes_read for call in self.calls)

    @property
    def bytes_written(self) -> int:
        """Bytes out, of all calls."""
        return sum(call.bytes_written for call in self.calls)

    @property
    def bytes_moved(self) -> int:
        """Read and written."""
        return self.bytes_read + self.bytes_written

    @property
    def uncounted(self) -> dict[str, int]:
        """Operators that may multiply and of which no formula is known, with their number of calls."""
        return dict(Counter(call.operator for call in self.calls if not call.is_counted))

    def total(self) -> Cost:
        """The whole network in one row."""
        return self._cost("", self.calls)

    def by_module(self, depth: int | None = None) -> list[Cost]:
        """A row for each module that calls something, with all that lies below it; the network itself first.

        Args:
            depth: Levels of dotted names to show, 0 for the network alone; None for all.

        Returns:
            Rows in the order of the network. A module's calls are in the rows of all modules above it too.
        """
        below: dict[str, list[OperatorCall]] = {}
        for call in self.calls:
            parts = call.module.split(".") if call.module else []
            for level in range(len(parts) + 1):
                below.setdefault(".".join(parts[:level]), []).append(call)
        return [
            self._cost(facts.name, below[facts.name])
            for facts in self.modules
            if facts.name in below and (depth is None or level_of(facts.name) <= depth)
        ]

    def split(self, depth: int) -> list[Cost]:
        """Every call in exactly one row: its module, or the ancestor of its module `depth` levels down.

        Returns:
            Rows in the order in which their first calls run.
        """
        parts: dict[str, list[OperatorCall]] = {}
        for call in self.calls:
            parts.setdefault(cut(call.module, depth), []).append(call)
        return [self._cost(name, calls) for name, calls in parts.items()]

    def by_operator(self) -> list[Cost]:
        """A row for each operator, most MACs first, then most bytes."""
        groups: dict[str, list[OperatorCall]] = {}
        for call in self.calls:
            groups.setdefault(call.operator, []).append(call)
        rows = [sum_costs(calls, name=name, kind="operator", num_params=0) for name, calls in groups.items()]
        return sorted(rows, key=lambda row: (-row.num_macs, -row.bytes_moved, row.name))

    def to_dict(self, *, calls: bool = False) -> dict[str, Any]:
        """Plain values for JSON: sums, per module, per operator; every call if asked for."""
        return {
            "input_size": list(self.input_size),
            "batch_size": self.batch_size,
            "dtype": self.dtype,
            "traced_on": self.traced_on,
            "reason": self.reason,
            "num_params": self.num_params,
            "num_macs": self.num_macs,
            "num_activations": self.num_activations,
            "bytes_read": self.bytes_read,
            "bytes_written": self.bytes_written,
            "uncounted": self.uncounted,
            "modules": [asdict(row) for row in self.by_module()],
            "operators": [asdict(row) for row in self.by_operator()],
            **({"calls": [asdict(call) for call in self.calls]} if calls else {}),
        }

    def _cost(self, name: str, calls: Iterable[OperatorCall]) -> Cost:
        facts = self._facts.get(name, ModuleFacts(name=name, kind="", num_params=0))
        return sum_costs(calls, name=name, kind=facts.kind, num_params=facts.num_params)

    @cached_property
    def _facts(self) -> dict[str, ModuleFacts]:
        return {facts.name: facts for facts in self.modules}


def count_costs(network: nn.Module, input_size: tuple[int, int, int], *, batch_size: int = 1) -> Costs:
    """Count what a network costs for one batch, in evaluation mode.

    The network runs once on shapes without numbers (meta tensors): no memory, no time, no weights. Where it cannot
    (an operator without shapes, or a decision that hangs on a number) it runs once on zeros, and the result says so.

    **MACs** are those of convolutions, matrix products and attention, padding and masked positions included;
    element-wise operators, norms, pooling and interpolation have none. This is what the paper calls FLOPs, and half
    of what `torch.utils.flop_counter` counts. **Activations** are the elements of the results of the same operators,
    as fvcore and pycls count them; for attention in one kernel the logits are counted too, so that the number does
    not depend on the kernel. **Bytes** are the operands and results of each call, each once, with nothing kept in a
    cache between two calls: what unfused execution moves at least. A view moves nothing; attention in one kernel
    does not move its logits.

    Args:
        network: Any module that takes one tensor (B, channels, height, width); it is left as it is.
        input_size: Channels, height, width.
        batch_size: Pictures in the batch.

    Returns:
        Calls and sums; `uncounted` names what may multiply and has no formula.

    Raises:
        ConfigError: If a size is not positive or the network does not run on such an input.
    """
    if len(input_size) != 3 or min(*input_size, batch_size) < 1:
        given = f"{'x'.join(map(str, input_size))} and {batch_size}"
        raise ConfigError(f"costs need a channels x height x width and a batch size, all at least 1, got {given}")
    seen = trace(network, (batch_size, *input_size))
    return Costs(
        input_size=input_size,
        batch_size=batch_size,
        dtype=seen.dtype,
        traced_on=seen.traced_on,
        reason=seen.reason,
        calls=seen.calls,
        modules=tuple(
            ModuleFacts(name=name, kind=type(module).__name__, num_params=sum(p.numel() for p in module.parameters()))
            for name, module in network.named_modules()
        ),
    )


def level_of(name: str) -> int:
    """How deep a dotted name lies; 0 for the network itself."""
    return name.count(".") + 1 if name else 0


def cut(name: str, depth: int) -> str:
    """The first `depth` parts of a dotted name."""
    return ".".join(name.split(".")[:depth])


def sum_costs(calls: Iterable[OperatorCall], *, name: str, kind: str, num_params: int) -> Cost:
    """One row of some calls."""
    calls = list(calls)
    return Cost(
        name=name,
        kind=kind,
        num_params=num_params,
        num_calls=len(calls),
        num_views=sum(call.is_view for call in calls),
        num_macs=sum(call.num_macs for call in calls),
        num_activations=sum(call.num_activations for call in calls),
        bytes_read=sum(call.bytes_read for call in calls),
        bytes_written=sum(call.bytes_written for call in calls),
        num_uncounted=sum(not call.is_counted for call in calls),
    )
