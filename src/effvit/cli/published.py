"""Classifiers of other libraries by name, fed as their authors fed them: `timm:NAME`, `torchvision:NAME`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from timm.data.imagenet_info import ImageNetInfo

from effvit.data.named import imagenet_names
from effvit.model.published import NUM_IMAGENET_CLASSES, published_input
from effvit.preprocessing import Preprocessing


@dataclass(frozen=True, kw_only=True)
class Description:
    """What must be known of a classifier to feed it and to read its answers."""

    class_names: tuple[str, ...]
    """Name of each logit."""
    preprocessing: Preprocessing
    """What must happen to a picture first."""
    namings: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """Other ways in which data sets call the same classes, and what each is called."""


def describe(source: str, *, own_weights: bool = False) -> Description:
    """Preprocessing and classes of a published network, without the network; see `published_input`."""
    preprocessing, num_classes = published_input(source, own_weights=own_weights)
    numbers = tuple(map(str, range(num_classes)))
    if num_classes != NUM_IMAGENET_CLASSES:
        return Description(class_names=numbers, preprocessing=preprocessing)
    return imagenet_description(preprocessing)


def imagenet_description(preprocessing: Preprocessing) -> Description:
    """The classes of ImageNet-1k, for networks that do not name their 1000 outputs."""
    known: Any = ImageNetInfo("imagenet-1k")
    synsets = tuple(known.label_names())
    return Description(
        class_names=imagenet_names(synsets),
        preprocessing=preprocessing,
        namings=(
            ("ImageNet's synsets", synsets),
            ("ImageNet's class numbers", tuple(map(str, range(NUM_IMAGENET_CLASSES)))),
        ),
    )
