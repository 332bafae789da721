"""Flags that mean the same in every verb, and how their texts become values."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from effvit.errors import ConfigError

Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
Seed = Annotated[int | None, typer.Option(help="Seed of everything random.", show_default="0")]
MAX_THREADS = 1024
DEVICE_HELP = "cpu, cuda, cuda:1, mps, or auto: the GPU if there is one, else the CPU."
Device = Annotated[str, typer.Option(help=DEVICE_HELP, metavar="NAME")]
ImageSize = Annotated[str | None, typer.Option(help="Side in pixels, or height and width.", metavar="SIZE")]
BatchSize = Annotated[int, typer.Option(help="Pictures at once.")]
Output = Annotated[Path | None, typer.Option(help="Where to write.", metavar="PATH")]
Workers = Annotated[int, typer.Option(help="Processes that decode pictures.")]


class SpacedLists(TyperCommand):
    """Lets a list be written with spaces as with commas: `--batch 1 16 64` is `--batch 1,16,64`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Join the values that follow a list's flag; what can be no value of it, such as a model, ends the list."""
        joined: list[str] = []
        flag = ""
        for argument in args:
            if flag and joined[-1] != flag and _is_value(flag, argument, joined[-1].count(",")):
                joined[-1] += "," + argument
                continue
            if argument.startswith("--"):
                flag = argument if argument in _LISTS else ""
            elif joined and joined[-1] != flag:
                flag = ""
            joined.append(argument)
        return super().parse_args(ctx, joined)


_LISTS = ("--batch", "--image-size", "--runtimes", "--precisions")


def _is_value(flag: str, text: str, num_commas: int) -> bool:
    """Whether a text can go on with a list, and is not the name of a model."""
    if flag == "--image-size":
        return text.isdecimal() and num_commas == 0
    if flag == "--batch":
        return text == "max" or text.isdecimal()
    from effvit.deploy.speed.candidates import PRECISIONS, RUNTIMES

    return text in (RUNTIMES if flag == "--runtimes" else PRECISIONS)


def parse_size(text: str | None) -> tuple[int, int] | None:
    """`224` -> (224, 224), `224,320` or `224x320` -> (224, 320): height and width in pixels.

    Raises:
        ConfigError: If it is neither, or not positive.
    """
    if text is None:
        return None
    match = re.fullmatch(r"(\d+)(?:[x,](\d+))?", text.strip())
    size = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if min(size) < 1:
        raise ConfigError(f"--image-size must be a side, or a height and a width, in pixels, got {text!r}")
    return size


def parse_numbers(text: str, name: str) -> list[int]:
    """`1,16` -> [1, 16], positive whole numbers.

    Raises:
        ConfigError: If it is anything else.
    """
    numbers = [int(part) if re.fullmatch(r"\s*\d+\s*", part) else 0 for part in text.split(",")]
    if min(numbers) < 1:
        raise ConfigError(f"{name} must be positive whole numbers with commas between them, got {text!r}")
    return numbers


def parse_batch(text: str | None) -> int | str | None:
    """`8` -> 8, `dynamic` as it is: pictures per call of an exported file.

    Raises:
        ConfigError: If it is neither.
    """
    if text is None or text == "dynamic":
        return text
    if not re.fullmatch(r"\d+", text) or int(text) < 1:
        raise ConfigError(f"--batch must be a positive whole number or dynamic, got {text!r}")
    return int(text)


def check_positive(**numbers: int | None) -> None:
    """Raise a `ConfigError` naming the flag if a number is zero or negative."""
    for name, number in numbers.items():
        if number is not None and number < 1:
            raise ConfigError(f"--{name.replace('_', '-')} must be at least 1, got {number}")


def check_threads(threads: int | None) -> None:
    """Raise a `ConfigError` for a number of threads that no machine has: OpenMP would end the process."""
    if threads is not None and threads > MAX_THREADS:
        raise ConfigError(f"--threads must be at most {MAX_THREADS}, got {threads}")


def assignments_of(flags: Mapping[str, Any], settings: Sequence[str]) -> list[str]:
    """Flags and `--set` as one list of `field=value`; a flag that is None was not given.

    Raises:
        ConfigError: If a field is in both: a contradiction, and no one's to resolve.
    """
    given = {name: value for name, value in flags.items() if value is not None}
    twice = [name for name in given if any(text.partition("=")[0].strip() == name for text in settings)]
    if twice:
        raise ConfigError(f"{', '.join(twice)} is given by a flag and by --set; give it once")
    return [*(f"{name}={value}" for name, value in given.items()), *settings]


def command_line() -> str:
    """The command as typed, for the record of a run."""
    return shlex.join(["effvit", *sys.argv[1:]])


def refuse_with_resume(given: Mapping[str, Any]) -> None:
    """Raise a `ConfigError` naming what was given beside --resume; None and empty lists were not."""
    names = [_flag(name) for name, value in given.items() if value not in (None, [])]
    if names:
        raise ConfigError(f"--resume continues a run as it was started; leave out {', '.join(names)}")


def _flag(name: str) -> str:
    """`preprocessing.image_size` -> `--image-size`; what is written as it is typed stays."""
    return f"--{name.rpartition('.')[2].replace('_', '-')}" if name[0].islower() else name
