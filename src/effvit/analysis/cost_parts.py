"""A network cut into parts worth a row each: finer where more bytes move, modules of a kind cut alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from effvit.analysis.cost import Cost, Costs, cut, level_of, sum_costs
from effvit.analysis.tracing import OperatorCall

_MAX_ROWS = 24
_SMALL = 0.04
"""Share of the bytes: modules of a kind are not cut further when each of them moves less."""
_DOMINANT = 0.5
"""Share of the bytes: a module that moves more is cut, however many rows that gives."""


@dataclass(frozen=True)
class Part:
    """A module, or what a module calls beside the modules in it."""

    cost: Cost
    """Of its calls; `name` is the module's."""
    is_rest: bool
    """Whether the modules in it have parts of their own."""

    @property
    def label(self) -> str:
        """For tables: the module's name, said to be the rest where it is."""
        return f"{self.cost.name or 'the network'} (itself)" if self.is_rest else self.cost.name


def parts(costs: Costs, *, max_rows: int = _MAX_ROWS) -> list[Part]:
    """Cut a network into about so many parts at most, every call in one.

    Modules of one class are cut together, so that neighbours can be compared; the class that moves most comes first.

    Returns:
        Parts that move or multiply anything, in the order in which they first run.
    """
    kinds = {module.name: module for module in costs.modules}
    whole: dict[str, Sequence[OperatorCall]] = {"": costs.calls}
    rest: dict[str, Sequence[OperatorCall]] = {}
    final: set[str] = set()
    while groups := _groups(whole, {name: module.kind for name, module in kinds.items()}, final):
        kind = max(groups, key=lambda kind: sum(_moved(whole[name]) for name in groups[kind]))
        names = groups[kind]
        inside = {name: _inside(name, whole[name]) for name in names}
        largest = max(_moved(whole[name]) for name in names) / max(costs.bytes_moved, 1)
        num_rows = len(whole) - len(names) + len(rest) + sum(map(len, inside.values()))
        if largest > _DOMINANT or (num_rows <= max_rows and largest > _SMALL):
            for name, groups_inside in inside.items():
                del whole[name]
                rest |= {name: groups_inside.pop(name)} if name in groups_inside else {}
                whole |= groups_inside
        else:
            final.add(kind)
    order = {id(call): index for index, call in enumerate(costs.calls)}
    found = [(name, calls, False) for name, calls in whole.items()]
    found += [(name, calls, True) for name, calls in rest.items()]
    found = [part for part in found if _does_something(part[1])]
    found.sort(key=lambda part: order[id(part[1][0])])
    return [
        Part(sum_costs(calls, name=name, kind=kinds[name].kind, num_params=kinds[name].num_params), is_rest)
        for name, calls, is_rest in found
    ]


def _does_something(calls: Sequence[OperatorCall]) -> bool:
    """Whether not all of these calls are free."""
    return any(call.bytes_moved or call.num_macs or not call.is_counted for call in calls)


def _groups(whole: dict[str, Sequence[OperatorCall]], kinds: dict[str, str], final: set[str]) -> dict[str, list[str]]:
    """Class of modules to those parts of it that have modules in them."""
    groups: dict[str, list[str]] = {}
    for name, calls in whole.items():
        if kinds[name] not in final and any(call.module != name for call in calls):
            groups.setdefault(kinds[name], []).append(name)
    return groups


def _inside(name: str, calls: Sequence[OperatorCall]) -> dict[str, list[OperatorCall]]:
    """The calls of a module by the modules directly in it; its own under its own name."""
    groups: dict[str, list[OperatorCall]] = {}
    for call in calls:
        groups.setdefault(cut(call.module, level_of(name) + 1), []).append(call)
    return groups


def _moved(calls: Sequence[OperatorCall]) -> int:
    return sum(call.bytes_moved for call in calls)
