"""What takes part in a benchmark: from a name, folder or file to something that can be called and timed."""

from __future__ import annotations

import copy
import difflib
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import timm
import torch
from timm.utils.model import reparameterize_model
from torch import Tensor, nn

from effvit.deploy.export import export
from effvit.deploy.rewrite import rewrite
from effvit.deploy.runtimes import OnnxModel, OpenVinoModel
from effvit.errors import ConfigError, EffvitError, unknown_name
from effvit.model.checkpoints import WeightsInfo
from effvit.model.factory import create_model, load
from effvit.model.network import EfficientViT
from effvit.model.variants import VARIANTS
from effvit.preprocessing import Preprocessing

Source = str | Path | nn.Module | OnnxModel
"""A name, a folder of weights or of a run, an ONNX file, or a model itself."""

TIMM_PREFIX = "timm/"
"""Asks for timm's network where ours has the same name: `timm/efficientvit_m0`."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One model, ready to be timed."""

    label: str
    """What it is called in tables."""
    form: str
    """What was done to it so that it runs at its best."""
    runtime: str
    """What runs it, a key of `RUNTIMES`."""
    call: Callable[[Tensor], Tensor]
    """Pictures (B, C, H, W) to logits."""
    input_size: tuple[int, int, int]
    """Channels, height and width of a picture."""
    num_params: int | None
    """Parameters before rewriting; None where the file does not tell."""


def find_candidate(
    source: Source,
    *,
    runtime: str = "torch",
    image_size: tuple[int, int] | None = None,
    device: torch.device | str = "cpu",
    num_threads: int | None = None,
) -> Candidate:
    """Prepare a model for timing, each in its own best form.

    Ours is rewritten (`effvit.deploy.rewrite`), timm's reparameterised by timm. Weights by name are
    random: no network's speed on these devices depends on them.

    Args:
        source: A variant's name, a timm name (`timm/NAME` where both have it), a folder, an `.onnx` file, a module.
        runtime: Key of `RUNTIMES`; `torch` cannot run a file, which then goes to ONNX Runtime.
        image_size: Height and width in pixels; None for the model's own.
        device: For torch; files run on the CPU.
        num_threads: For ONNX Runtime; torch's are set around the measurement.

    Raises:
        ConfigError: If nothing has this name, naming the nearest, or runtime and device do not go together.
        WeightsError: If a folder or file cannot be read.
    """
    if runtime not in RUNTIMES:
        raise ConfigError(unknown_name("runtime", runtime, RUNTIMES))
    if isinstance(source, OnnxModel) or (isinstance(source, str | Path) and Path(source).suffix == ".onnx"):
        return _of_file(source, runtime, image_size, device, num_threads)
    label, model = _named(source, image_size)
    size = (_channels(model), *(image_size or _own_size(model)))
    return RUNTIMES[runtime](label, model, size, torch.device(device), num_threads)


def _of_file(
    source: OnnxModel | str | Path,
    runtime: str,
    image_size: tuple[int, int] | None,
    device: torch.device | str,
    num_threads: int | None,
) -> Candidate:
    # Opened anew also where it is open: with as many threads as everyone else.
    path = source.path if isinstance(source, OnnxModel) else source
    model = OnnxModel(path, num_threads=num_threads)
    if torch.device(device).type != "cpu":
        raise ConfigError(f"{model.path.name} runs on the CPU only, got device {device}")
    own = model.metadata.preprocessing.image_size if model.metadata.preprocessing else (224, 224)
    _, channels, height, width = model.input_shape
    fixed = (height or (image_size or own)[0], width or (image_size or own)[1])
    if image_size not in (None, fixed):
        raise ConfigError(f"{model.path.name} takes pictures of {fixed[0]} x {fixed[1]} only, got {image_size}")
    return Candidate(
        label=model.path.stem,
        form="exported file",
        runtime="openvino" if runtime == "openvino" else "onnxruntime",
        call=OpenVinoModel(path, num_threads=num_threads) if runtime == "openvino" else model,
        input_size=(channels or 3, *fixed),
        num_params=None,
    )


def _named(source: str | Path | nn.Module, image_size: tuple[int, int] | None) -> tuple[str, nn.Module]:
    """A label and the model, as its authors made it."""
    if isinstance(source, nn.Module):
        return getattr(getattr(source, "config", None), "name", type(source).__name__), source
    name = str(source)
    if name in VARIANTS:
        return name, create_model(name, image_size=image_size)
    if Path(source).is_dir():
        return Path(source).resolve().name, load(source)[0]
    timm_name = name.removeprefix(TIMM_PREFIX)
    if not timm.is_model(timm_name):
        raise ConfigError(_unknown(name))
    model: nn.Module = timm.create_model(timm_name)
    resize = getattr(model, "set_input_size", None)  # only models with position tables have it and need it
    if image_size is not None and callable(resize):
        resize(img_size=image_size)
    return name, model


def _unknown(name: str) -> str:
    """Say that a name is unknown: timm's thousand names are too many to list."""
    timm_names = timm.list_models()
    near = difflib.get_close_matches(name, list(dict.fromkeys([*VARIANTS, *timm_names])), n=3)
    hint = f"nearest: {', '.join(near)}; " if near else ""
    return (
        f"unknown model {name!r}; {hint}known: {', '.join(VARIANTS)}, the {len(timm_names)} names of"
        " timm.list_models(), weights folders, run folders and .onnx files"
    )


def _own_size(model: nn.Module) -> tuple[int, int]:
    """Height and width the model was made for."""
    if isinstance(model, EfficientViT):
        return model.config.image_size
    _, height, width = getattr(model, "pretrained_cfg", {}).get("input_size", (3, 224, 224))
    return height, width


def _channels(model: nn.Module) -> int:
    if isinstance(model, EfficientViT):
        return model.config.in_channels
    channels: int = getattr(model, "pretrained_cfg", {}).get("input_size", (3, 224, 224))[0]
    return channels


def _best_form(model: nn.Module) -> tuple[str, nn.Module]:
    """The form a model is deployed in, and its name."""
    if isinstance(model, EfficientViT):
        return "rewritten", rewrite(model)
    if hasattr(model, "pretrained_cfg"):
        return "reparameterized by timm", reparameterize_model(model).eval()
    return "as it is", copy.deepcopy(model).eval()


def _in_torch(
    label: str, model: nn.Module, size: tuple[int, int, int], device: torch.device, num_threads: int | None
) -> Candidate:
    form, best = _best_form(model)
    return Candidate(
        label=label,
        form=form,
        runtime="torch",
        call=best.to(device),
        input_size=size,
        num_params=_num_params(model),
    )


def _as_file(
    runtime: str,
    open_file: Callable[..., Callable[[Tensor], Tensor]],
    label: str,
    model: nn.Module,
    size: tuple[int, int, int],
    device: torch.device,
    num_threads: int | None,
) -> Candidate:
    """Export to a file that is gone once the runtime has read it."""
    if device.type != "cpu":
        raise ConfigError(f"{runtime} runs on the CPU only here, got device {device}")
    form, best = ("rewritten", model) if isinstance(model, EfficientViT) else _best_form(model)
    info = WeightsInfo(preprocessing=Preprocessing(image_size=size[1:], mean=(0.5,) * size[0], std=(0.5,) * size[0]))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{type(model).__name__}.onnx"
        try:
            export(best, path, info=info)
        except EffvitError as error:
            raise type(error)(f"{label} in {runtime}: {error}") from error
        call = open_file(path, num_threads=num_threads)
    return Candidate(
        label=label,
        form=f"{form}, exported",
        runtime=runtime,
        call=call,
        input_size=size,
        num_params=_num_params(model),
    )


def _num_params(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


RUNTIMES: dict[str, Callable[..., Candidate]] = {
    "torch": _in_torch,
    "onnxruntime": partial(_as_file, "onnxruntime", OnnxModel),
    "openvino": partial(_as_file, "openvino", OpenVinoModel),
}
"""Name of a runtime -> how a model is brought into it."""
