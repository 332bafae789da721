"""What is timed: a model in a runtime and a precision, with all the forms it may take there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from effvit.deploy.formats.table import format_of
from effvit.deploy.runtimes import ExportedModel, OpenVinoModel, open_file
from effvit.deploy.speed.exported_forms import FILE_RUNTIMES, exported_forms
from effvit.deploy.speed.forms import TORCH_RUNTIMES, Form, Prepared, torch_forms
from effvit.deploy.speed.sources import Entrant
from effvit.errors import ConfigError, unknown_name

RUNTIMES = (*TORCH_RUNTIMES, *FILE_RUNTIMES)
"""Names of all runtimes."""
PRECISIONS = ("fp32", "fp16", "bf16", "int8")
"""Names of all number formats."""
AS_IN_FILE = "file"
"""Precision of an exported file: what was written into it."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A model in a runtime and a precision."""

    entrant: Entrant
    """The model."""
    runtime: str
    """What runs it, one of `RUNTIMES`."""
    precision: str
    """One of `PRECISIONS`, or `AS_IN_FILE`."""
    forms: tuple[Form, ...]
    """What is tried; the fastest stands for the candidate."""

    @property
    def label(self) -> str:
        """What the model is called in tables."""
        return self.entrant.label


def find_candidate(
    entrant: Entrant,
    *,
    runtime: str = "torch",
    precision: str = "fp32",
    device: torch.device | str = "cpu",
    num_threads: int | None = None,
    folder: Path,
) -> Candidate:
    """Bring a model into a runtime.

    Args:
        entrant: The model. A file stays in its own runtime and precision, whatever is asked for; an ONNX file can
            go to `openvino`.
        runtime: One of `RUNTIMES`.
        precision: One of `PRECISIONS`.
        device: For torch; files run on the CPU.
        num_threads: For runtimes of files; torch's are set around the measurement.
        folder: Where files are written, and taken from if they are there.

    Raises:
        ConfigError: If there is no such runtime, precision or form, or they do not go together.
    """
    device = torch.device(device)
    check_names([runtime], [precision])
    if (entrant.file is not None or runtime in FILE_RUNTIMES) and device.type != "cpu":
        what = entrant.label if entrant.file is not None else runtime
        raise ConfigError(f"{what} runs on the CPU only here, got device {device}")
    if entrant.file is not None:
        return _of_file(entrant, entrant.file, runtime, num_threads)
    if runtime in FILE_RUNTIMES:
        forms = exported_forms(
            entrant,
            runtime=runtime,
            precision=precision,
            num_threads=num_threads,
            folder=folder,
        )
    else:
        assert entrant.network is not None
        forms = torch_forms(entrant.network, runtime=runtime, precision=precision, device=device)
    return Candidate(entrant=entrant, runtime=runtime, precision=precision, forms=_asked(forms, entrant, runtime))


def _asked(forms: list[Form], entrant: Entrant, runtime: str) -> tuple[Form, ...]:
    """The forms that were asked for."""
    if entrant.form == "best":
        return tuple(form for form in forms if form.name != "plain")
    asked = tuple(form for form in forms if form.name == entrant.form)
    if not asked:
        known = ", ".join(dict.fromkeys(form.name for form in forms))
        raise ConfigError(f"{entrant.label}: no form {entrant.form!r} in {runtime}; there is {known}")
    return asked


def _of_file(entrant: Entrant, file: Path, runtime: str, num_threads: int | None) -> Candidate:
    # Opened with as many threads as everyone else has.
    if runtime == "openvino" and file.suffix == ".onnx":
        model: ExportedModel = OpenVinoModel(file, num_threads=num_threads)
    else:
        model = open_file(file, num_threads=num_threads)
        runtime = next(name for name, key in FILE_RUNTIMES.items() if key == format_of(file.name))
    if not model.runs_here:
        raise ConfigError(f"{file.name} cannot be run on this machine")
    form = Form(name="best", text="exported file", prepare=partial(_bind, model))
    precision = entrant.precision or AS_IN_FILE
    return Candidate(entrant=entrant, runtime=runtime, precision=precision, forms=(form,))


def _bind(model: ExportedModel, images: Tensor) -> Prepared:
    """A file that takes pixels gets some."""
    if model.takes_pixels:
        # (B, C, H, W) -> (B, H, W, C)
        images = (images.permute(0, 2, 3, 1) * 64 + 128).clamp(0, 255).to(torch.uint8).contiguous()
    return Prepared(call=lambda: model(images), file=model.path, images=images)


def check_names(runtimes: Sequence[str], precisions: Sequence[str]) -> None:
    """Raise a `ConfigError` for a runtime or precision that does not exist."""
    for runtime in runtimes:
        if runtime not in RUNTIMES:
            raise ConfigError(unknown_name("runtime", runtime, RUNTIMES))
    for precision in precisions:
        if precision not in PRECISIONS:
            raise ConfigError(unknown_name("precision", precision, PRECISIONS))
