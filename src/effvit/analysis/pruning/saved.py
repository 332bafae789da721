"""A pruned network of timm's modules as a folder, and back. Networks of ours are weights folders like any other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from effvit.analysis.pruning.timm_layers import dims_of, is_attention, is_feed_forward, narrow
from effvit.errors import WeightsError, first_line
from effvit.files import make_output_folder, read_json, write_json
from effvit.model.sources import FoundModel, find_model
from effvit.model.tensors import WEIGHTS_FILE, read_tensors, write_tensors
from effvit.preprocessing import Preprocessing

DESCRIPTION_FILE = "pruned.json"
_FORMAT = "effvit-pruned/1"


def save_pruned(
    folder: Path | str,
    network: nn.Module,
    *,
    source: str,
    image_size: tuple[int, int],
    preprocessing: Preprocessing,
    num_classes: int | None = None,
    class_names: Sequence[str] | None = None,
    provenance: dict[str, Any] | None = None,
) -> Path:
    """Write a pruned network of timm's modules: `pruned.json` and `model.safetensors`; returns the folder.

    Args:
        folder: Where to.
        network: From `Ranking.pruned`.
        source: What `find_model` made the full network from.
        image_size: Height and width it was found with.
        preprocessing: What a picture needs.
        num_classes: What it was found with; None for the source's own.
        class_names: Name of each class.
        provenance: Where the weights came from; plain JSON values.
    """
    folder = make_output_folder(folder)
    write_tensors(folder / WEIGHTS_FILE, network.state_dict())
    write_json(
        folder / DESCRIPTION_FILE,
        {
            "format": _FORMAT,
            "source": source,
            "image_size": list(image_size),
            "num_classes": num_classes,
            "shapes": shapes_of(network),
            "preprocessing": preprocessing.to_dict(),
            "class_names": None if class_names is None else list(class_names),
            "provenance": provenance or {},
        },
    )
    return folder


def load_pruned(folder: Path | str) -> FoundModel:
    """Open what `save_pruned` wrote: the source's network with narrower modules, in evaluation mode.

    Raises:
        WeightsError: If it is no such folder, or its source makes another network now.
    """
    folder = Path(folder)
    if not (folder / DESCRIPTION_FILE).is_file():
        raise WeightsError(f"{folder} is no pruned network: it has no {DESCRIPTION_FILE}")
    values = read_json(folder / DESCRIPTION_FILE)
    if not isinstance(values, dict) or values.get("format") != _FORMAT:
        raise WeightsError(f"{folder / DESCRIPTION_FILE} does not describe a pruned network")
    try:
        height, width = values["image_size"]
        found = find_model(values["source"], image_size=(height, width), num_classes=values["num_classes"])
        network = narrow(found.network, values["shapes"])
        network.load_state_dict(read_tensors(folder / WEIGHTS_FILE))
        names = values["class_names"]
        return replace(
            found,
            label=f"{found.label} pruned",
            network=network.eval(),
            weights=folder.resolve().name,
            preprocessing=Preprocessing.from_dict(values["preprocessing"]),
            class_names=None if names is None else tuple(names),
        )
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise WeightsError(f"{folder} does not hold a pruned network: {first_line(error)}") from error


def shapes_of(network: nn.Module) -> dict[str, dict[str, int]]:
    """The shape of each module that `timm_layers.narrow` can give another."""
    shapes: dict[str, dict[str, int]] = {}
    for name, found in network.named_modules():
        module: Any = found
        if is_attention(found):
            key_dim, value_dim = dims_of(found)
            shapes[name] = {"key_dim": key_dim, "value_dim": value_dim}
        elif is_feed_forward(found):
            shapes[name] = {"hidden_dim": module.fc1.out_features}
    return shapes
