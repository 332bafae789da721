"""ImageNet-1k accuracy of other people's networks as published, for the picture of speed against accuracy.

Nothing here was measured by us. What could not be found in a source is left out: such a network is in the tables
and not in that picture.
"""

from __future__ import annotations

from dataclasses import dataclass

from effvit.deploy.speed.sources import TIMM_PREFIX
from effvit.model.variants import PUBLISHED, VARIANTS


@dataclass(frozen=True)
class PublishedAccuracy:
    """Accuracy of one set of weights."""

    weights: str
    """Which weights: timm's tag, or whose."""
    top1: float
    """ImageNet-1k validation, in percent."""
    image_size: int
    """Side of the pictures it was measured with, in pixels; the speed must be that of the same size."""
    source: str
    """Where it stands."""


_RESULTS = "timm, results/results-imagenet.csv at 0173a139"
_TIMM_TABLE = "timm's published benchmark table, to one decimal"
_CPUBONE = "authors' README, altair199797/CPUBone at 194d4dc6"
_SHVIT = "authors' README, ysj9909/SHViT"

PEERS: dict[str, PublishedAccuracy] = {
    "mobilenetv3_large_100": PublishedAccuracy("ra_in1k", 75.766, 224, _RESULTS),
    "mobilenetv3_small_100": PublishedAccuracy("lamb_in1k", 67.656, 224, _RESULTS),
    "mobilenetv2_100": PublishedAccuracy("ra_in1k", 72.976, 224, _RESULTS),
    "mobilevit_xxs": PublishedAccuracy("cvnets_in1k", 68.932, 256, _RESULTS),
    "levit_128s": PublishedAccuracy("fb_dist_in1k, distilled", 76.526, 224, _RESULTS),
    "efficientnet_b0": PublishedAccuracy("ra_in1k", 77.7, 224, _TIMM_TABLE),
    "mobilenetv4_conv_small": PublishedAccuracy("e2400_r224_in1k", 73.8, 224, _TIMM_TABLE),
    "repvit_m0_9": PublishedAccuracy("dist_300e_in1k, distilled", 78.7, 224, _TIMM_TABLE),
    "shvit_s1": PublishedAccuracy("in1k", 72.8, 224, _SHVIT),
    "shvit_s2": PublishedAccuracy("in1k", 75.2, 224, _SHVIT),
    "shvit_s3": PublishedAccuracy("in1k", 77.4, 224, _SHVIT),
    "shvit_s4": PublishedAccuracy("in1k", 79.4, 256, _SHVIT),
    "fastvit_t8": PublishedAccuracy("apple_in1k", 76.2, 256, "authors' README, apple/ml-fastvit at 8af5928"),
    "mobileone_s0": PublishedAccuracy(
        "mmpretrain's own training, not timm's weights", 71.34, 224, "open-mmlab/mmpretrain, configs/mobileone"
    ),
    "starnet_s1": PublishedAccuracy("in1k", 73.5, 224, "authors' weights as listed by Westlake-AI/openmixup"),
    "efficientvim_m1": PublishedAccuracy("e300_in1k", 72.9, 224, "authors' README, mlvlab/EfficientViM"),
    "iformer_t": PublishedAccuracy("in1k", 74.1, 224, "authors' model card, BillionZheng/iFormer"),
    "cpubone_nano": PublishedAccuracy("r224_in1k", 72.67, 224, _CPUBONE),
    "cpubone_t0": PublishedAccuracy("r224_in1k", 74.85, 224, _CPUBONE),
    "cpubone_s0": PublishedAccuracy("r224_in1k", 75.89, 224, _CPUBONE),
    "cpubone_b0_bfrobust": PublishedAccuracy("r224_in1k", 77.6, 224, _CPUBONE),
}
"""timm's name -> accuracy: the peers of the record."""

_OURS = "official README of EfficientViT"


def published_accuracy(label: str, image_size: tuple[int, int]) -> PublishedAccuracy | None:
    """What is published for a network by name at this size; None where there is nothing.

    Args:
        label: A variant's or timm's name, with or without prefix and `@FORM`.
        image_size: Height and width that its speed is measured with, in pixels.
    """
    name = label.removeprefix(TIMM_PREFIX).partition("@")[0]
    if name in VARIANTS:
        facts = PUBLISHED.get(name)
        found = None if facts is None else PublishedAccuracy("official", facts.top1, 224, _OURS)
    else:
        found = PEERS.get(name)
    return found if found is not None and image_size == (found.image_size, found.image_size) else None
