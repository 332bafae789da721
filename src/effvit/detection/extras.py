"""The optional packages of detection, imported where they are needed."""

from __future__ import annotations

import importlib
import warnings
from typing import Any

from effvit.errors import ConfigError, first_line


def import_extra(module: str, what_for: str) -> Any:
    """A module of the extra `detection`.

    Args:
        module: Its name, such as `supervision`.
        what_for: What needs it, for the message.

    Raises:
        ConfigError: If it is not installed or cannot be loaded; names the extra.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # supervision says that it draws without OpenCV
            return importlib.import_module(module)
    except ImportError as error:
        package = module.split(".")[0].replace("_", "-")
        raise ConfigError(
            f"{what_for} needs the package {package}, which cannot be imported ({first_line(error)}):"
            " pip install 'effvit[detection]'"
        ) from error
