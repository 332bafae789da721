"""From whatever a person names to a backbone: a network that gives maps and promises their channels and strides."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import timm
from torch import Tensor, nn

from effvit.detection.neck import PYRAMIDS
from effvit.detection.timm_backbones import timm_backbone
from effvit.errors import ConfigError, WeightsError
from effvit.model.checkpoints import WeightsFile, load_weights
from effvit.model.config import PATCH_SIZE, EfficientViTConfig
from effvit.model.factory import find_weights
from effvit.model.functions import call_function, names_function
from effvit.model.network import EfficientViT
from effvit.model.resizing import with_windows
from effvit.model.sources import PRETRAINED, RANDOM, unknown_model
from effvit.model.variants import TIMM_PREFIX, TORCHVISION_PREFIX, VARIANTS, variant_config
from effvit.preprocessing import Preprocessing

logger = logging.getLogger("effvit")

NUM_COLOURS = 3


class Backbone(nn.Module):
    """A network that gives the maps a pyramid is made of.

    Args:
        network: One of ours, or a network that gives a list of maps.
        shapes: Channels and stride of each map it gives, in their order.
        task: boxes or masks: which of the maps are of use.
        source: What `find_backbone` makes it from again, without its weights.
        preprocessing: What the weights expect of a picture; None if they do not say.

    Raises:
        ConfigError: If no map is of use.
    """

    def __init__(
        self,
        network: nn.Module,
        shapes: Sequence[tuple[int, int]],
        *,
        task: str,
        source: str | dict[str, Any],
        preprocessing: Preprocessing | None = None,
    ) -> None:
        super().__init__()
        finest, coarsest = PYRAMIDS[task]
        # Of several maps with one stride the last has seen most.
        last = {stride: index for index, (_, stride) in enumerate(shapes) if finest <= stride <= coarsest}
        if not last:
            strides = [stride for _, stride in shapes]
            raise ConfigError(f"{task} need maps of strides {finest}..{coarsest}, and this network has {strides}")
        self.network = network
        self.source = source
        self.preprocessing = preprocessing
        self._num_maps = len(shapes)
        self._kept = tuple(last.values())
        self._shapes = [(shapes[index][0], shapes[index][1]) for index in self._kept]

    def output_shapes(self) -> list[tuple[int, int]]:
        """Channels and stride of each map, finest first."""
        return list(self._shapes)

    def forward(self, x: Tensor) -> list[Tensor]:
        """The maps of normalised pictures, (B, 3, H, W) -> (B, C_i, H / stride_i, W / stride_i), rounded up."""
        maps = self.network.features(x) if isinstance(self.network, EfficientViT) else self.network(x)
        if len(maps) != self._num_maps:
            raise ConfigError(f"{self.source} promises {self._num_maps} maps and gave {len(maps)}")
        return [maps[index] for index in self._kept]


def find_backbone(source: str | dict[str, Any], *, task: str = "boxes", weights: str | Path | None = None) -> Backbone:
    """Find what a person names, without its head.

    Our networks get windows as large as their stages say, whatever the size they were trained at: at 224 pixels the
    third stage of M0..M5 has a 4x4 window, for detection it has 7x7, as the official detection backbones have. Bias
    tables are resized to them bicubically.

    Args:
        source: A variant's name; a weights folder or a run folder of ours; the plain values of an
            `EfficientViTConfig`; `timm:NAME` (or `timm/NAME`, or NAME alone where ours has none of that name);
            `module.path:factory`, a function without arguments that gives a network with `output_shapes()`, whose
            forward gives as many maps.
        task: boxes (strides 8..128 are of use) or masks (4..64).
        weights: None or `random` for random ones; `imagenet` or `pretrained` for the published ones; or of a
            classifier of the same network: a file, for ours also a weights folder, a run folder or a Hub id.

    Raises:
        ConfigError: If nothing has this name, naming the nearest, or the network does not fit the task.
        WeightsError: If weights cannot be had or do not fit.
    """
    if task not in PYRAMIDS:
        raise ConfigError(f"task must be one of {', '.join(PYRAMIDS)}, got {task!r}")
    weights = None if weights == RANDOM else weights
    if isinstance(source, dict):
        config = EfficientViTConfig.from_dict(source)
        return _ours(config, None if weights is None else _weights_of(config.name, weights), task)
    name = str(source)
    if name in VARIANTS:
        return _variant(name, weights, task)
    if Path(name).is_dir():
        return _folder(name, weights, task)
    timm_name = name.removeprefix(TIMM_PREFIX).removeprefix("timm/")
    if timm.is_model(timm_name.partition(".")[0]):
        network, shapes, preprocessing = timm_backbone(timm_name, PYRAMIDS[task], weights)
        return Backbone(network, shapes, task=task, source=TIMM_PREFIX + timm_name, preprocessing=preprocessing)
    if names_function(name) and not name.startswith((TIMM_PREFIX, TORCHVISION_PREFIX)):
        return _function(name, weights, task)
    raise ConfigError(unknown_model(name, kind="backbone", others=""))


def _variant(name: str, weights: str | Path | None, task: str) -> Backbone:
    config = variant_config(name)
    if weights is None:
        return _ours(config, None, task)
    found = _weights_of(name, weights)
    if found.config is None:
        return _ours(config, found, task)
    if found.config.name != name:
        raise WeightsError(f"{found.path} holds weights of {found.config.name}, not of {name}")
    return _ours(found.config, found, task)


def _folder(name: str, weights: str | Path | None, task: str) -> Backbone:
    if weights is not None:
        raise ConfigError(f"weights {weights} cannot be given for {name}, which has its own")
    found = find_weights(Path(name))
    if found.config is None:
        raise WeightsError(
            f"{found.path} does not say which network it is for; name the network, and it as its weights"
        )
    return _ours(found.config, found, task)


def _weights_of(name: str, weights: str | Path) -> WeightsFile:
    return find_weights("imagenet" if weights == PRETRAINED else weights, name)


def _ours(config: EfficientViTConfig, weights: WeightsFile | None, task: str) -> Backbone:
    """A network of ours without a head, with full windows, and without the stages that no level is made from."""
    if config.in_channels != NUM_COLOURS:
        raise ConfigError(f"a detector takes colour pictures, and {config.name} has in_channels {config.in_channels}")
    config = _for_detection(config)
    network = EfficientViT(config)
    if weights is not None:
        logger.info("backbone: %s", load_weights(network, weights))
    num_useful = sum(stride <= PYRAMIDS[task][1] for _, stride in network.output_shapes())
    if num_useful < len(config.stages):
        shorter = EfficientViT(_for_detection(replace(config, stages=config.stages[:num_useful])))
        state = network.state_dict()
        shorter.load_state_dict({key: state[key] for key in shorter.state_dict()})
        network = shorter
    known = VARIANTS.get(network.config.name)
    is_variant = known is not None and _for_detection(known) == network.config
    return Backbone(
        network,
        network.output_shapes(),
        task=task,
        source=network.config.name if is_variant else json.loads(network.config.to_json()),
        preprocessing=None if weights is None or weights.config is None else weights.info.preprocessing,
    )


def _for_detection(config: EfficientViTConfig) -> EfficientViTConfig:
    """Without heads, and for pictures so large that no stage's window is cut to its map: 448 pixels for M0..M5."""
    config = replace(config, num_classes=0, distilled=False)
    side = max(stage.window * PATCH_SIZE * 2**index for index, stage in enumerate(config.stages))
    return with_windows(config, image_size=side)


def _function(name: str, weights: str | Path | None, task: str) -> Backbone:
    if weights is not None:
        raise ConfigError(f"weights {weights} cannot be given for {name}, which makes the network whole")
    network = call_function(name)
    promise = getattr(network, "output_shapes", None)
    shapes: Any = promise() if callable(promise) else None
    if not _are_shapes(shapes):
        raise ConfigError(
            f"{name}() must promise its maps by output_shapes(), a list of (channels, stride), got {shapes!r:.80}"
        )
    return Backbone(network, shapes, task=task, source=name)


def _are_shapes(shapes: Any) -> bool:
    """Whether these are pairs of whole numbers above 0."""
    return (
        isinstance(shapes, list | tuple)
        and len(shapes) > 0
        and all(
            isinstance(pair, list | tuple)
            and len(pair) == 2
            and all(isinstance(number, int) and number > 0 for number in pair)
            for pair in shapes
        )
    )
