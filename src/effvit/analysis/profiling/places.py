"""Where in a network the time is: by stage and by block, found in the names of its modules."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from effvit.analysis.profiling.records import ModelProfile, Operator

ELSEWHERE = "(between these)"
"""Row of what no named part has: what a network does by itself between its parts."""


def stages(model: ModelProfile) -> dict[str, list[Operator]]:
    """Parts of the first level, lists of larger parts taken apart: stages, or blocks where there are no stages."""
    return _grouped(model.operators, _stage_names(_names(model)))


def blocks(model: ModelProfile) -> dict[str, list[Operator]]:
    """The same one level further: the blocks of every stage that has some."""
    names = _names(model)
    rows = []
    for stage in _stage_names(names):
        inner = _parts(names, stage)
        rows += inner if any(_is_number(name) and _is_large(names, name) for name in inner) else [stage]
    return _grouped(model.operators, rows)


def _names(model: ModelProfile) -> list[str]:
    """Every module that calls an operator and all above it, in order of execution."""
    names: dict[str, None] = {}
    for operator in model.operators:
        parts = operator.module.split(".")
        names.update((".".join(parts[:depth]), None) for depth in range(1, len(parts) + 1))
    return [name for name in names if name]


def _stage_names(names: Sequence[str]) -> list[str]:
    return _parts(names, "")


def _parts(names: Sequence[str], parent: str) -> list[str]:
    """Children of a module; a list whose members have parts with parts is replaced by its members."""
    found = []
    for child in _children(names, parent):
        members = _children(names, child)
        is_list = bool(members) and all(map(_is_number, members))
        found += members if is_list and any(_is_large(names, member) for member in members) else [child]
    return found


def _is_large(names: Sequence[str], name: str) -> bool:
    """Whether a module has parts with parts."""
    return any(_children(names, part) for part in _children(names, name))


def _children(names: Iterable[str], parent: str) -> list[str]:
    start = parent + "." if parent else ""
    return [name for name in names if name.startswith(start) and "." not in name[len(start) :] and name != parent]


def _is_number(name: str) -> bool:
    return name.rpartition(".")[2].isdecimal()


def _grouped(operators: Iterable[Operator], rows: Sequence[str]) -> dict[str, list[Operator]]:
    groups: dict[str, list[Operator]] = {row: [] for row in rows}
    for operator in operators:
        name = operator.module
        while name and name not in groups:
            name = name.rpartition(".")[0]
        groups.setdefault(name or ELSEWHERE, []).append(operator)
    return {row: group for row, group in groups.items() if group}
