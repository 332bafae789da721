"""Records of settings from JSON and from the command line: one reader for all of them. No torch here."""

from __future__ import annotations

import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any, TypeVar

from effvit.errors import ConfigError

Section = TypeVar("Section")

Limit = tuple[str, str, Callable[[Any], bool]]
"""Name of a field, what is allowed in words, and whether a value is."""


def one_of(names: Sequence[str]) -> tuple[str, Callable[[Any], bool]]:
    """The second and third part of a `Limit` for a text that is one of some names."""
    return f"one of {', '.join(names)}", lambda value: value in names


def read_section(kind: type[Section], values: Mapping[str, Any], name: str) -> Section:
    """Rebuild a frozen dataclass from the plain values of its `to_dict`: lists become tuples.

    Args:
        kind: The dataclass.
        values: Its fields; those left out have their defaults.
        name: What it is called in messages.

    Raises:
        ConfigError: If a key is unknown or a value is not allowed.
    """
    unknown = set(values) - {field.name for field in fields(kind)}  # type: ignore[arg-type]
    if unknown:
        raise ConfigError(f"{name}: unknown keys {sorted(unknown)}")
    return kind(**{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()})


def limit_faults(record: object, limits: Sequence[Limit]) -> list[str]:
    """One text for each field whose value is not allowed."""
    return [
        f"{name} must be {allowed}, got {getattr(record, name)!r}"
        for name, allowed, holds in limits
        if not holds(getattr(record, name))
    ]


def parse_value(name: str, text: str, hint: Any) -> Any:
    """Read `text` as a value of type `hint`: str, bool, int, float, or a tuple of these with commas; nothing is an
    empty tuple.

    Raises:
        ConfigError: If it is none.
    """
    if typing.get_origin(hint) is tuple:
        element, *rest = typing.get_args(hint)
        if not text and rest == [...]:
            return ()
        return tuple(parse_value(name, part.strip(), element) for part in text.split(","))
    try:
        return _TRUTH[text.lower()] if hint is bool else hint(text)
    except (ValueError, KeyError) as error:
        raise ConfigError(f"{name} must be {_TYPE_NAMES[hint]}, got {text!r}") from error


_TRUTH = {"true": True, "false": False}
_TYPE_NAMES = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
