"""Every error a user can cause, one class per kind.

The message is the whole story in one line: what was wrong, the value, what is allowed. The
command line prints it and leaves with exit code 2; a library caller catches `EffvitError`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class EffvitError(Exception):
    """Base of all errors raised on purpose by this package."""


class ConfigError(EffvitError, ValueError):
    """A network, training or command setting is not allowed."""


class WeightsError(EffvitError, ValueError):
    """Weights cannot be found, read, or fitted to the network."""


class DataError(EffvitError, ValueError):
    """A picture, a folder of pictures or a split cannot be used."""


class RunError(EffvitError, RuntimeError):
    """A run folder cannot be written, read or continued."""


class ExportError(EffvitError, RuntimeError):
    """A model cannot be exported, or the exported file fails its check."""


def first_line(error: BaseException) -> str:
    """The first line of somebody else's error message; the error's kind if it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def unknown_name(kind: str, name: str, known: Iterable[str]) -> str:
    """Say that a name is unknown: list what exists and point at the nearest, without choosing it.

    Args:
        kind: What the name stands for, such as "model".
        name: What was asked for.
        known: The names that exist.

    Returns:
        One line for an error message.
    """
    names = list(known)
    near = difflib.get_close_matches(name, names, n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    return f"unknown {kind} {name!r}{hint}; known: {', '.join(names)}"
