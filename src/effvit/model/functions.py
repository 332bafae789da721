"""A network from a function of a person's own, by name: `module.path:factory`."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path

from torch import nn

from effvit.errors import ConfigError, first_line

_NAME = r"[A-Za-z_]\w*"
_FUNCTION = re.compile(rf"(?P<module>{_NAME}(\.{_NAME})*):(?P<factory>{_NAME})")


def names_function(source: str) -> bool:
    """Whether a text has the form `module.path:factory`."""
    return _FUNCTION.fullmatch(source) is not None


def call_function(source: str) -> nn.Module:
    """Call a person's own function; what they keep in the current folder is found as Python itself would.

    Args:
        source: `module.path:factory`, a function without arguments.

    Returns:
        The network it gives.

    Raises:
        ConfigError: If there is no such function, it fails, or it gives something else.
    """
    module, _, factory = source.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        make = getattr(importlib.import_module(module), factory)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"cannot get {source} ({first_line(error)}); wanted: module.path:factory") from error
    except Exception as error:  # whatever that file raises when it is read
        raise ConfigError(f"{module} cannot be imported: {type(error).__name__}: {first_line(error)}") from error
    try:
        network = make()
    except Exception as error:  # whatever that function raises
        raise ConfigError(f"{source}() failed: {type(error).__name__}: {first_line(error)}") from error
    if not isinstance(network, nn.Module):
        raise ConfigError(f"{source}() gave {type(network).__name__}, not a torch.nn.Module")
    return network
