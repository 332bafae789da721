"""A pruned network of timm's modules as a folder, and back. Networks of ours are weights folders like any other.

The folder says which network to make and which of its modules are narrower; `effvit.model.sources.find_model` opens it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from effvit.errors import WeightsError, first_line
from effvit.files import make_output_folder, read_json, write_json
from effvit.model.narrow import Shapes, dims_of, is_attention, is_feed_forward, narrow
from effvit.model.tensors import WEIGHTS_FILE, read_tensors, write_tensors
from effvit.preprocessing import Preprocessing

DESCRIPTION_FILE = "pruned.json"
_FORMAT = "effvit-pruned/1"


@dataclass(frozen=True, kw_only=True)
class PrunedFolder:
    """What a folder says of its network; the weights stay on the disk."""

    path: Path
    """The folder."""
    source: str
    """What `find_model` makes the full network from."""
    image_size: tuple[int, int]
    """Height and width it was found with."""
    num_classes: int | None
    """What it was found with; None for the source's own."""
    shapes: Shapes
    """The modules that are narrower."""
    preprocessing: Preprocessing
    """What a picture needs."""
    class_names: tuple[str, ...] | None
    """Name of each class."""

    def pruned(self, network: nn.Module) -> nn.Module:
        """The pruned network in evaluation mode, made of the full one, which is used up.

        Raises:
            WeightsError: If this is another network than the folder was made from.
        """
        try:
            network = narrow(network, self.shapes)
            network.load_state_dict(read_tensors(self.path / WEIGHTS_FILE))
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise WeightsError(f"{self.path} does not hold a pruned {self.source}: {first_line(error)}") from error
        return network.eval()


def save_pruned(
    folder: Path | str,
    network: nn.Module,
    *,
    source: str,
    image_size: tuple[int, int],
    preprocessing: Preprocessing,
    num_classes: int | None = None,
    class_names: Sequence[str] | None = None,
    provenance: Mapping[str, Any] | None = None,
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
            "provenance": dict(provenance or {}),
        },
    )
    return folder


def read_pruned(path: Path | str) -> PrunedFolder | None:
    """What a folder of `save_pruned`, or one with such a folder as its `weights`, says; None if it is neither.

    Raises:
        WeightsError: If its description cannot be understood.
    """
    places = Path(path), Path(path) / "weights"
    folder = next((place for place in places if (place / DESCRIPTION_FILE).is_file()), None)
    if folder is None:
        return None
    values = read_json(folder / DESCRIPTION_FILE)
    if not isinstance(values, dict) or values.get("format") != _FORMAT:
        raise WeightsError(f"{folder / DESCRIPTION_FILE} does not describe a pruned network")
    try:
        height, width = values["image_size"]
        names = values["class_names"]
        return PrunedFolder(
            path=folder,
            source=values["source"],
            image_size=(height, width),
            num_classes=values["num_classes"],
            shapes=values["shapes"],
            preprocessing=Preprocessing.from_dict(values["preprocessing"]),
            class_names=None if names is None else tuple(names),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"{folder} does not hold a pruned network: {first_line(error)}") from error


def shapes_of(network: nn.Module) -> dict[str, dict[str, int]]:
    """The shape of each module that `narrow` can give another."""
    shapes: dict[str, dict[str, int]] = {}
    for name, found in network.named_modules():
        module: Any = found
        if is_attention(found):
            key_dim, value_dim = dims_of(found)
            shapes[name] = {"key_dim": key_dim, "value_dim": value_dim}
        elif is_feed_forward(found):
            shapes[name] = {"hidden_dim": module.fc1.out_features}
    return shapes
