"""Keeping other libraries' remarks off the terminal."""

from __future__ import annotations

import io
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path


@contextmanager
def quiet() -> Iterator[None]:
    """Keep what exporters print off the terminal: on a failure they write whole programs to stderr."""
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        yield


@contextmanager
def silence() -> Iterator[None]:
    """Keep the terminal free of what converters and runtimes say, in C++ and in loggers made before, and of warnings.

    The whole process is silent for as long; so only around calls into them. What went wrong comes as an
    exception or a return code.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(number) for number in (1, 2)]
    try:
        with Path(os.devnull).open("w") as nowhere, warnings.catch_warnings(), quiet():
            warnings.simplefilter("ignore")
            for number in (1, 2):
                os.dup2(nowhere.fileno(), number)
            yield
    finally:
        for number, copy in zip((1, 2), kept, strict=True):
            os.dup2(copy, number)
            os.close(copy)
