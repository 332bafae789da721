"""Read and write weights: ours, the official code's, timm's; never running what a file contains.

Our folder is two files that everything else in the package takes and leaves:

    config.json         the network, class names, preprocessing, where the weights came from
    model.safetensors   the weights under our names
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from effvit.errors import ConfigError, WeightsError
from effvit.files import read_json, write_json
from effvit.model.attention import relative_bias_index
from effvit.model.config import EfficientViTConfig
from effvit.model.names import Style, bias_index_name, foreign_names, style_of
from effvit.model.network import EfficientViT
from effvit.model.resizing import resize_bias_table
from effvit.model.tensors import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    read_tensors,
    weights_file_in,
    write_tensors,
    write_weights_folder,
)
from effvit.preprocessing import IMAGENET_MEAN, Preprocessing

FORMAT, DETECTOR_FORMAT = "effvit/1", "effvit-detector/1"
"""What a classifier's and a detector's `config.json` say they are."""


@dataclass(frozen=True, kw_only=True)
class WeightsInfo:
    """What weights must be kept together with to be of use to anyone."""

    class_names: tuple[str, ...] | None = None
    """Name of each class, in the order of the head's outputs; None if unknown."""
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    """What the network expects of a picture."""
    provenance: dict[str, Any] = field(default_factory=dict)
    """Where the weights came from: file or repository, SHA-256, training run; plain JSON values."""
    temperature: float = 1.0
    """What logits are divided by before they become probabilities, see `effvit eval --calibrate`."""

    def __post_init__(self) -> None:
        if not isinstance(self.temperature, int | float) or not 0 < self.temperature < math.inf:
            raise WeightsError(f"temperature must be a finite number above 0, got {self.temperature!r}")
        names = self.class_names
        if names is None:
            return
        texts = isinstance(names, tuple) and all(isinstance(name, str) for name in names)
        if not texts or len(set(names)) != len(names):
            raise WeightsError(f"class_names must be a tuple of different texts, got {names!r:.80}")


@dataclass(frozen=True, kw_only=True)
class WeightsFile:
    """Weights as read from a file, in whichever world's names, and what came with them."""

    path: Path
    """The file."""
    state: dict[str, Tensor]
    """Its tensors."""
    style: Style
    """Whose names they have."""
    config: EfficientViTConfig | None = None
    """The network, if the file stands in a folder of ours."""
    info: WeightsInfo = field(default_factory=WeightsInfo)
    """The rest of that folder's `config.json`."""

    @property
    def num_classes(self) -> int:
        """Classes of the head; 0 if there is no head."""
        linear = self.state.get("head.l.weight", self.state.get("head.linear.weight"))
        return 0 if linear is None else len(linear)

    @property
    def distilled(self) -> bool:
        """Whether there is a second head."""
        return any(name.startswith(("head_dist.", "head_distilled.")) for name in self.state)


@dataclass(frozen=True, kw_only=True)
class LoadReport:
    """What happened when weights were put into a network."""

    source: str
    """The file."""
    style: Style
    """Whose names it had."""
    num_loaded: int
    """Tensors copied."""
    head_replaced: tuple[int, int] | None
    """Classes of the file's head and of the network's new one, if they differ."""
    tables_resized: tuple[str, ...]
    """Bias tables that were resized because the windows differ."""

    def __str__(self) -> str:
        notes = [f"loaded {self.num_loaded} tensors from {self.source} ({self.style} names)"]
        if self.head_replaced:
            notes.append("head of {} classes replaced by a new one of {}".format(*self.head_replaced))
        if self.tables_resized:
            notes.append(f"{len(self.tables_resized)} bias tables resized to other windows")
        return "; ".join(notes)


def read_weights(path: Path | str) -> WeightsFile:
    """Read a weights file, or a folder of ours; a run folder is read through its `weights/`.

    Args:
        path: `.safetensors`, a checkpoint that torch wrote (`.pth`, `.pt`, `.bin`; the state dict itself or under
            `model` or `state_dict`), a folder with one of them, or a run folder.

    Raises:
        WeightsError: If it is missing, damaged, contains code, or is no EfficientViT-M.
    """
    path = Path(path)
    if not path.exists():
        raise WeightsError(f"no weights at {path}: no such file or folder")
    if path.is_dir():
        path = weights_file_in(path)
    state = read_tensors(path)
    description = path.with_name(CONFIG_FILE)
    # Somebody else's file may lie beside ours; config.json speaks for model.safetensors alone.
    described = path.name == WEIGHTS_FILE and description.is_file()
    values = read_json(description) if described else {}
    if isinstance(values, dict) and values.get("format") == DETECTOR_FORMAT:
        raise WeightsError(f"{path.parent} holds a detector, not a classifier; detectors are for effvit detect")
    style = style_of(state, str(path))
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        return WeightsFile(path=path, state=state, style=style)
    try:
        info = WeightsInfo(
            class_names=None if values["class_names"] is None else tuple(values["class_names"]),
            preprocessing=Preprocessing.from_dict(values["preprocessing"]),
            provenance=values["provenance"],
            temperature=values.get("temperature", 1.0),
        )
        config = EfficientViTConfig.from_dict(values["network"])
    except (KeyError, TypeError, AttributeError, ConfigError) as error:
        raise WeightsError(f"{description} does not describe weights: {error}") from error
    return WeightsFile(path=path, state=state, style=style, config=config, info=info)


def load_weights(model: EfficientViT, weights: WeightsFile) -> LoadReport:
    """Put weights into a network, in place.

    Another number of classes leaves the network's own new head, other windows resize the bias tables.
    Anything else that does not fit is an error and leaves the network as it was.

    Args:
        model: The network.
        weights: From `read_weights`.

    Raises:
        WeightsError: If weights are missing, unexpected or misshapen, listing them all.
    """
    own = model.state_dict()
    names = foreign_names(own, weights.style, model.config)
    replaced = weights.num_classes != model.config.num_classes
    state = {
        name: value
        for name, value in weights.state.items()
        if not name.endswith("attention_bias_idxs") and not (replaced and name.startswith("head"))
    }
    new: dict[str, Tensor] = {}
    resized, faults = [], []
    for name, foreign in names.items():
        if replaced and name.startswith("head"):
            continue
        value = state.pop(foreign, None)
        if value is None:
            # A counter that never enters a computation with a fixed momentum; some tools leave it out.
            if not name.endswith("num_batches_tracked"):
                faults.append(f"missing {foreign}")
            continue
        if name.endswith("attention_biases") and _other_window(value, own[name]):
            value = resize_bias_table(value, own[name].shape[1])
            resized.append(name)
        if value.shape != own[name].shape:
            faults.append(f"{foreign} has shape {tuple(value.shape)}, the network's is {tuple(own[name].shape)}")
        new[name] = value
    faults += [f"unexpected {name}" for name in state]
    if faults:
        raise WeightsError(f"{weights.path} does not fit {model.config.name}: {'; '.join(faults)}")
    model.load_state_dict(new, strict=False)
    return LoadReport(
        source=str(weights.path),
        style=weights.style,
        num_loaded=len(new),
        head_replaced=(weights.num_classes, model.config.num_classes) if replaced else None,
        tables_resized=tuple(resized),
    )


def default_info(model: EfficientViT) -> WeightsInfo:
    """What is known of a network by itself: its picture size; plain scaling to -1..1 unless it takes colours."""
    size, channels = model.config.image_size, model.config.in_channels
    if channels == len(IMAGENET_MEAN):
        return WeightsInfo(preprocessing=Preprocessing(image_size=size))
    half = (0.5,) * channels
    return WeightsInfo(preprocessing=Preprocessing(image_size=size, mean=half, std=half))


def save(folder: Path | str, model: EfficientViT, info: WeightsInfo | None = None) -> Path:
    """Write a network as a folder of ours, each file atomically; returns the folder.

    Raises:
        WeightsError: If there are not as many class names as classes.
        RunError: If the folder cannot be written.
    """
    info = info or default_info(model)
    _check_trainable_form(model)
    if info.class_names is not None and len(info.class_names) != model.config.num_classes:
        raise WeightsError(f"{len(info.class_names)} class names for {model.config.num_classes} classes")
    values = {
        "format": FORMAT,
        "class_names": info.class_names,
        "preprocessing": info.preprocessing.to_dict(),
        "provenance": info.provenance,
        "temperature": info.temperature,
        "network": model.config.to_dict(),
    }
    return write_weights_folder(folder, values, model.state_dict())


def write_temperature(path: Path | str, temperature: float, origin: dict[str, Any]) -> Path:
    """Write a temperature and how it was found into a weights or run folder; returns the changed `config.json`.

    Raises:
        WeightsError: If it is no folder of ours, or the temperature is not allowed.
        RunError: If the file cannot be written.
    """
    weights = read_weights(path)
    if weights.config is None:
        raise WeightsError(f"{path} is no weights folder or run, which a temperature could be written into")
    info = replace(weights.info, temperature=temperature)
    description = weights.path.with_name(CONFIG_FILE)
    values = {**read_json(description), "temperature": info.temperature}
    write_json(description, {**values, "provenance": {**info.provenance, "calibration": origin}})
    return description


def foreign_state_dict(model: EfficientViT, style: Style) -> dict[str, Tensor]:
    """The network's state dict under the official or timm's names, complete, so that they load it strictly.

    Raises:
        WeightsError: If that world has no such network.
    """
    _check_trainable_form(model)
    own = model.state_dict()
    state = {}
    for name, foreign in foreign_names(own, style, model.config).items():
        state[foreign] = own[name]
        index_name = bias_index_name(foreign)
        if style == "official" and index_name:
            window = round(own[name].shape[1] ** 0.5)
            state[index_name] = relative_bias_index(window).to(own[name].device)
    return state


def save_foreign(path: Path | str, model: EfficientViT, style: Style) -> Path:
    """Write weights for the official code (`{"model": ...}`, `.pth`) or for timm (`.safetensors`); returns the path.

    Raises:
        WeightsError: If that world has no such network.
        RunError: If the place cannot be written.
    """
    path = Path(path)
    state = foreign_state_dict(model, style)
    write_tensors(path, state)
    return path


def _check_trainable_form(model: EfficientViT) -> None:
    """Refuse a network whose weights nobody could read back, such as the deploy form."""
    with torch.device("meta"):
        expected = EfficientViT(model.config).state_dict().keys()
    if model.state_dict().keys() != expected:
        raise WeightsError(f"this {model.config.name} was rewritten for inference; save the network it was made from")


def _other_window(table: Tensor, own: Tensor) -> bool:
    """Whether a table is one for another window; any other misfit is a fault of its shape."""
    return (
        table.dim() == 2
        and table.shape[0] == own.shape[0]
        and table.shape[1] != own.shape[1]
        and math.isqrt(table.shape[1]) ** 2 == table.shape[1]
    )
