"""From whatever a person names to a network: ours, a run's, another library's, or a function of their own."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torchvision
from torch import nn

from effvit.errors import ConfigError, first_line
from effvit.model.checkpoints import default_info
from effvit.model.factory import create_model, find_weights, load
from effvit.model.foreign import timm_network
from effvit.model.functions import call_function, names_function
from effvit.model.network import EfficientViT
from effvit.model.pruned import PrunedFolder, read_pruned
from effvit.model.published import NUM_IMAGENET_CLASSES, open_published, published_input
from effvit.model.variants import TIMM_PREFIX, TORCHVISION_PREFIX, VARIANTS
from effvit.preprocessing import Preprocessing

RANDOM = "random"
PRETRAINED = "pretrained"


@dataclass(frozen=True, kw_only=True)
class FoundModel:
    """A network and what must be known to feed it."""

    label: str
    """What it is called in tables; no path of this machine."""
    network: nn.Module
    """As its authors made it, in whichever mode they return it."""
    input_size: tuple[int, int, int]
    """Channels, height and width of a picture."""
    weights: str
    """`random`, `pretrained`, or the name of the file or folder they came from."""
    preprocessing: Preprocessing
    """What must happen to a picture first; without meaning where `find_model` was told that none will come."""
    class_names: tuple[str, ...] | None = None
    """Name of each class; None if the network does not say."""

    @property
    def is_random(self) -> bool:
        """Whether the weights are random and made anew each time."""
        return self.weights == RANDOM


def find_model(
    source: str | Path | nn.Module,
    *,
    image_size: tuple[int, int] | None = None,
    weights: str | Path | None = None,
    num_classes: int | None = None,
    for_pictures: bool = True,
) -> FoundModel:
    """Find what a person names.

    Args:
        source: A variant's name; a folder of weights, of a run or of a pruned network; `timm:NAME` (or `timm/NAME`, or
            NAME alone where ours has none of that name); `torchvision:NAME`; `module.path:factory`, a function
            without arguments that gives a network; or a network itself.
        image_size: Height and width in pixels; None for the network's own.
        weights: For a name: None or `random` for random ones, `pretrained` for the published ones, or a file.
        num_classes: Classes of a network by name; None for its own.
        for_pictures: Whether pictures will be prepared for it, so that it must be known how; some networks of timm
            want that in a way that is not offered here.

    Raises:
        ConfigError: If nothing has this name, naming the nearest, or an argument does not go with it.
        WeightsError: If weights cannot be had or do not fit.
    """
    if isinstance(source, nn.Module):
        _refuse("a network that is there", weights, num_classes)
        label = getattr(getattr(source, "config", None), "name", type(source).__name__)
        return _found(str(label), source, "given", image_size)
    name = str(source)
    if name in VARIANTS:
        return _variant(name, image_size, weights, num_classes)
    if Path(source).is_dir():
        _refuse(f"{source}, which has its own", weights, num_classes)
        narrower = read_pruned(source)
        return _folder(Path(source), image_size) if narrower is None else _pruned(narrower, image_size)
    if name.startswith(TORCHVISION_PREFIX):
        return _torchvision(name, image_size, weights, num_classes)
    timm_name = name.removeprefix(TIMM_PREFIX).removeprefix("timm/")
    if timm.is_model(timm_name.partition(".")[0]):
        return _timm(name, timm_name, image_size, weights, num_classes, for_pictures=for_pictures)
    if names_function(name) and not name.startswith(TIMM_PREFIX):
        _refuse(f"{name}, which makes the network whole", weights, num_classes)
        return _found(name, call_function(name), "given", image_size)
    raise ConfigError(unknown_model(name))


def unknown_model(name: str, *, kind: str = "model", others: str = f"{TORCHVISION_PREFIX}NAME, ") -> str:
    """Say that a name is unknown: timm's thousand names are too many to list.

    Args:
        name: What was asked for.
        kind: What it was to stand for.
        others: Kinds of names that are known besides, with a comma after each.
    """
    timm_names = timm.list_models()
    near = difflib.get_close_matches(name.removeprefix(TIMM_PREFIX), list(dict.fromkeys([*VARIANTS, *timm_names])), n=3)
    hint = f"nearest: {', '.join(near)}; " if near else ""
    return (
        f"unknown {kind} {name!r}; {hint}known: {', '.join(VARIANTS)}, the {len(timm_names)} names of"
        f" timm.list_models(), {others}module.path:factory, weights folders and run folders"
    )


def _variant(
    name: str, image_size: tuple[int, int] | None, weights: str | Path | None, num_classes: int | None
) -> FoundModel:
    if weights is None or weights == RANDOM:
        network, label = create_model(name, image_size=image_size, num_classes=num_classes), RANDOM
        info = default_info(network)
    else:
        found = find_weights("imagenet" if weights == PRETRAINED else weights, name)
        network = create_model(name, weights=found, image_size=image_size, num_classes=num_classes)
        label, info = _called(weights), found.info
    return FoundModel(
        label=name,
        network=network,
        input_size=(network.config.in_channels, *network.config.image_size),
        weights=label,
        preprocessing=info.preprocessing.at_size(network.config.image_size),
        class_names=info.class_names,
    )


def _folder(path: Path, image_size: tuple[int, int] | None) -> FoundModel:
    network, info = load(path)
    size = image_size or network.config.image_size
    return FoundModel(
        label=path.resolve().name,
        network=network if image_size is None else network.resized(image_size=image_size),
        input_size=(network.config.in_channels, *size),
        weights=path.resolve().name,
        preprocessing=info.preprocessing.at_size(size),
        class_names=info.class_names,
    )


def _pruned(folder: PrunedFolder, image_size: tuple[int, int] | None) -> FoundModel:
    """A network of timm's modules, made as it was before the pruning, then narrowed, then brought to the size."""
    full = find_model(folder.source, image_size=folder.image_size, num_classes=folder.num_classes)
    network = folder.pruned(full.network)
    if image_size is not None:
        _resize(network, image_size)
    size = image_size or folder.image_size
    return FoundModel(
        label=f"{full.label} pruned",
        network=network,
        input_size=(full.input_size[0], *size),
        weights=folder.path.resolve().name,
        preprocessing=folder.preprocessing.at_size(size),
        class_names=folder.class_names,
    )


def _timm(
    label: str,
    name: str,
    image_size: tuple[int, int] | None,
    weights: str | Path | None,
    num_classes: int | None,
    *,
    for_pictures: bool,
) -> FoundModel:
    preprocessing, known_classes = published_input(TIMM_PREFIX + name, for_pictures=for_pictures)
    if weights is None or weights == RANDOM:
        given: dict[str, Any] = {} if num_classes is None else {"num_classes": num_classes}
        network: nn.Module = timm.create_model(name, **given)
    elif weights == PRETRAINED:
        network = open_published(TIMM_PREFIX + name, None)
        if num_classes not in (None, known_classes):
            network.reset_classifier(num_classes)  # type: ignore[operator]
    else:
        network = timm_network(name, Path(weights), known_classes if num_classes is None else num_classes)
    if image_size is not None:
        _resize(network, image_size)
    channels, *own_size = getattr(network, "pretrained_cfg", {}).get("input_size", (3, 224, 224))
    height, width = image_size or own_size
    return FoundModel(
        label=label,
        network=network,
        input_size=(channels, height, width),
        weights=_called(weights),
        preprocessing=preprocessing.at_size((height, width)),
    )


def _torchvision(
    name: str, image_size: tuple[int, int] | None, weights: str | Path | None, num_classes: int | None
) -> FoundModel:
    random = weights is None or weights == RANDOM
    preprocessing, _ = published_input(name, own_weights=not random and weights != PRETRAINED)
    if random:
        given = {} if num_classes is None else {"num_classes": num_classes}
        network: nn.Module = torchvision.models.get_model(name.removeprefix(TORCHVISION_PREFIX), weights=None, **given)
    elif num_classes not in (None, NUM_IMAGENET_CLASSES):
        raise ConfigError(f"{name} with weights has its own classes; got num_classes {num_classes}")
    else:
        network = open_published(name, None if weights == PRETRAINED else str(weights))
    preprocessing = preprocessing.at_size(image_size)
    return FoundModel(
        label=name,
        network=network,
        input_size=(3, *preprocessing.image_size),
        weights=_called(weights),
        preprocessing=preprocessing,
    )


def _found(label: str, network: nn.Module, weights: str, image_size: tuple[int, int] | None) -> FoundModel:
    """A network that is there: as it is, for the size asked for or the one it says."""
    if isinstance(network, EfficientViT):
        own, channels = network.config.image_size, network.config.in_channels
        preprocessing = default_info(network).preprocessing
    else:
        channels, *sides = getattr(network, "pretrained_cfg", {}).get("input_size", (3, 224, 224))
        own, preprocessing = (sides[0], sides[1]), Preprocessing()
    size = image_size or own
    return FoundModel(
        label=label,
        network=network,
        input_size=(channels, *size),
        weights=weights,
        preprocessing=preprocessing.at_size(size),
    )


def _resize(network: nn.Module, image_size: tuple[int, int]) -> None:
    """Only timm's networks with tables of positions have the function and need it."""
    resize = getattr(network, "set_input_size", None)
    if not callable(resize):
        return
    try:
        resize(img_size=image_size)
    except (AssertionError, ValueError, RuntimeError) as error:
        height, width = image_size
        raise ConfigError(f"this network does not take pictures of {height} x {width}: {first_line(error)}") from error


def _refuse(what: str, weights: str | Path | None, num_classes: int | None) -> None:
    given = {"weights": weights, "num_classes": num_classes}
    if asked := [f"{name} {value}" for name, value in given.items() if value is not None]:
        raise ConfigError(f"{' and '.join(asked)} cannot be given for {what}")


def _called(weights: str | Path | None) -> str:
    text = str(weights or RANDOM)
    return text if text in (RANDOM, PRETRAINED) else Path(text).name
