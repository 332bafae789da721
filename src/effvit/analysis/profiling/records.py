"""What a profile found, as plain values: per operator, and summed by class, cause, module and head."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from effvit.analysis.roofline import Peaks
from effvit.operators import CLASSES, ELEMENTWISE, MOVEMENT, NORMS, OTHER, SOFTMAX
from effvit.timing import Timing

K = TypeVar("K", bound=Hashable)

MEMORY_CLASSES = (MOVEMENT, ELEMENTWISE, NORMS, SOFTMAX)
"""What the paper calls memory-bound (Sec. 2.1)."""


@dataclass(frozen=True, kw_only=True)
class Operator:
    """One call of an operator and its time."""

    name: str
    """As torch's profiler calls it; `aten::copy_ in aten::addmm` for a copy that another operator makes for itself."""
    module: str
    """Dotted name of the innermost module that called it; "" for the network itself, or where it is not known."""
    kind: str
    """Class, one of `effvit.operators.CLASSES`."""
    cause: str
    """Why the time is spent, a key of `effvit.analysis.profiling.causes.CAUSES`."""
    ms: float
    """Milliseconds of one pass."""
    num_macs: int
    """Multiply-accumulates; 0 where the call was not found among the counted ones."""
    bytes_moved: int
    """Bytes read and written; 0 where the call was not found."""
    is_counted: bool
    """Whether it was found among the counted calls."""
    head: str | None = None
    """`MODULE head NUMBER` of a head that runs by itself."""


@dataclass(frozen=True, kw_only=True)
class Sum:
    """Some operators together."""

    ms: float
    """Milliseconds of one pass."""
    num_calls: int
    """How many there are."""
    num_macs: int
    """Multiply-accumulates."""
    bytes_moved: int
    """Bytes read and written."""

    @property
    def intensity(self) -> float:
        """MACs per byte; 0 where nothing moves."""
        return self.num_macs / self.bytes_moved if self.bytes_moved else 0.0

    @property
    def macs_per_second(self) -> float:
        """Reached; 0 where no time was seen."""
        return self.num_macs / self.ms * 1e3 if self.ms else 0.0

    @property
    def bytes_per_second(self) -> float:
        """Reached; 0 where no time was seen."""
        return self.bytes_moved / self.ms * 1e3 if self.ms else 0.0

    def roofline_ms(self, peaks: Peaks) -> float:
        """What it would take at the machine's limits: arithmetic or memory, whichever is slower."""
        return peaks.shortest_seconds(self.num_macs, self.bytes_moved) * 1e3


def sum_of(operators: Iterable[Operator]) -> Sum:
    """Add operators up."""
    operators = list(operators)
    return Sum(
        ms=sum(operator.ms for operator in operators),
        num_calls=sum(operator.is_counted for operator in operators),
        num_macs=sum(operator.num_macs for operator in operators),
        bytes_moved=sum(operator.bytes_moved for operator in operators),
    )


def digits(value: float) -> str:
    """Three digits, and no powers of ten: 0.0123, 4.56, 7,890."""
    return f"{value:.3g}" if value < 999.5 else f"{value:,.0f}"


def short(label: str) -> str:
    """A label without the library's name."""
    return label.rpartition(":")[2].removeprefix("timm/")


def pattern(module: str) -> str:
    """`stages.0.1.ffn` -> `stages.*.*.ffn`: the same layer of all blocks under one name."""
    return re.sub(r"(?<![^.])\d+(?![^.])", "*", module)


@dataclass(frozen=True, kw_only=True)
class ModelProfile:
    """One model: where the time of a forward pass goes."""

    label: str
    """What it is called."""
    is_ours: bool
    """Whether it is a network of this package, which `effvit.rewrite` knows."""
    is_compiled: bool
    """Whether torch.compile made it."""
    input_size: tuple[int, int, int]
    """Channels, height, width."""
    batch_size: int
    """Pictures per pass."""
    dtype: str
    """Of the pictures and the weights."""
    num_params: int
    """Parameters."""
    num_macs: int
    """Multiply-accumulates of a pass, all pictures."""
    timing: Timing
    """Of the pass without a profiler, interleaved with the other models."""
    between_ms: float
    """Time of the pass in which no operator runs: Python, dispatch, waiting."""
    operators: tuple[Operator, ...]
    """In the order of execution; with `between_ms` they add up to the wall time."""

    @property
    def wall_ms(self) -> float:
        """Milliseconds of one pass."""
        return self.timing.latency_ms

    @property
    def operators_ms(self) -> float:
        """Milliseconds of a pass in which an operator runs."""
        return sum(operator.ms for operator in self.operators)

    @property
    def images_per_second(self) -> float:
        """Pictures per second."""
        return self.batch_size / self.wall_ms * 1e3

    @property
    def shares(self) -> dict[str, float]:
        """Class to its share of the operators' time, in the order of `CLASSES`, all of them; they add up to 1."""
        sums = self.by(lambda operator: operator.kind)
        return {kind: sums[kind].ms / self.operators_ms if kind in sums else 0.0 for kind in CLASSES}

    @property
    def between_share(self) -> float:
        """Share of the wall time in which no operator runs."""
        return self.between_ms / self.wall_ms

    @property
    def memory_share(self) -> float:
        """Share of the operators' time in the classes that the paper calls memory-bound."""
        return sum(self.shares[kind] for kind in MEMORY_CLASSES)

    @property
    def found_share(self) -> float:
        """Share of the MACs that were found in measured operators; what is missing ran in kernels nobody counted."""
        return sum(operator.num_macs for operator in self.operators) / self.num_macs if self.num_macs else 1.0

    def below_ridge_share(self, peaks: Peaks) -> float:
        """Share of the operators' time in operators with fewer MACs per byte than the machine has at its peaks.

        Products whose MACs nobody counted are not among them.
        """
        known = (operator for operator in self.operators if operator.cause != "products")
        below = (operator.ms for operator in known if operator.num_macs < peaks.ridge * max(operator.bytes_moved, 1))
        return sum(below) / self.operators_ms

    @property
    def unclassified(self) -> dict[str, float]:
        """Operators of no class (pooling, and any that is unknown) with their share of the operators' time."""
        sums = self.by(lambda operator: operator.name if operator.kind == OTHER else None)
        found = {name: total.ms / self.operators_ms for name, total in sums.items() if name is not None}
        return dict(sorted(found.items(), key=lambda item: -item[1]))

    def by(self, key: Callable[[Operator], K]) -> dict[K, Sum]:
        """Sums of the operators that share a key, in the order of their first calls."""
        groups: dict[K, list[Operator]] = {}
        for operator in self.operators:
            groups.setdefault(key(operator), []).append(operator)
        return {name: sum_of(group) for name, group in groups.items()}

    def heads(self) -> dict[str, Sum]:
        """Time of each attention head that runs by itself; empty where heads run together."""
        return {name: total for name, total in self.by(lambda o: o.head).items() if name is not None}

    def to_dict(self, peaks: Peaks) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "label": self.label,
            "is_compiled": self.is_compiled,
            "input_size": list(self.input_size),
            "batch_size": self.batch_size,
            "dtype": self.dtype,
            "num_params": self.num_params,
            "num_macs": self.num_macs,
            "images_per_second": self.images_per_second,
            "wall_ms": self.wall_ms,
            "operators_ms": self.operators_ms,
            "between_ms": self.between_ms,
            "shares": self.shares,
            "memory_share": self.memory_share,
            "below_ridge_share": self.below_ridge_share(peaks),
            "found_share": self.found_share,
            "unclassified": self.unclassified,
            "causes": _plain(self.by(lambda operator: operator.cause)),
            "heads": _plain(self.heads()),
            "layers": [
                {"module": module, "operator": name, "kind": kind, "cause": cause, **asdict(total)}
                for (module, name, kind, cause), total in self.by(
                    lambda operator: (pattern(operator.module), operator.name, operator.kind, operator.cause)
                ).items()
            ],
            "timing": self.timing.to_dict(),
        }


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Models beside each other."""

    models: tuple[ModelProfile, ...]
    """In the order asked for."""
    device: str
    """Where they ran."""
    num_threads: int
    """Threads within an operator."""
    event_cost_us: float
    """What recording one event cost; it is taken off."""
    peaks: Peaks
    """What this machine can do at most."""

    def name_of(self, model: ModelProfile) -> str:
        """What tables and pictures call a model: `short` where that is the name of no other, else its label."""
        names = [short(other.label) for other in self.models]
        return short(model.label) if names.count(short(model.label)) == 1 else model.label

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "device": self.device,
            "num_threads": self.num_threads,
            "event_cost_us": self.event_cost_us,
            "peaks": self.peaks.to_dict(),
            "models": [model.to_dict(self.peaks) for model in self.models],
        }


def _plain(sums: Mapping[str, Sum]) -> dict[str, dict[str, float]]:
    return {name: asdict(total) for name, total in sums.items()}
