"""Whole sets of settings for training detectors, each a function whose docstring says where they come from."""

from __future__ import annotations

from collections.abc import Callable

from effvit.detection.train_config import DetectionConfig
from effvit.errors import ConfigError, unknown_name


def coco_1x() -> DetectionConfig:
    """The paper's (appendix) and its code's: COCO, 12 epochs, pictures of 1333 x 800, from ImageNet weights.

    AdamW 1e-4, weight decay 0.05 on all but the attention bias tables, 500 steps of warm-up from a thousandth of the
    rate, a tenth of it after epochs 8 and 11, batches of 16, mirrored half of the time, statistics of batch
    normalisation as they came, no moving average.

    Expected (Table 5): EfficientViT-M4 as RetinaNet 32.7 AP, as Mask R-CNN 32.8 box and 31.0 mask AP, on COCO's
    val2017. Cost: not measured here; it wants a GPU.

        torchrun --nproc-per-node 8 -m effvit detect train --data annotations/instances_train2017.json \\
            --images train2017 --val annotations/instances_val2017.json --val-images val2017 \\
            --model efficientvit_m4 --weights imagenet --recipe coco_1x [--task masks]
    """
    return DetectionConfig(
        recipe="coco_1x",
        model="efficientvit_m4",
        device="auto",
        epochs=12,
        batch_size=16,
        learning_rate=1e-4,
        weight_decay=0.05,
        warmup_steps=500,
        warmup_learning_rate=1e-7,
        schedule="milestones",
        milestones=(8, 11),
        freeze_norm=True,
        ema_decay=0.0,
        min_size=800,
        max_size=1333,
        scales=(1.0,),
        flip=0.5,
        color_jitter=0.0,
    )


def small() -> DetectionConfig:
    """Some hundred pictures of one's own, from random or pretrained weights, on a CPU or a small GPU: the defaults.

    The short side at 320 pixels, drawn from 0.75 to 1.25 times that; 60 epochs of a cosine from 5e-4; a moving average
    of the weights; colours varied a little. Batch normalisation learns its statistics, which a backbone without
    pretrained weights needs and batches of 16 can give; with pretrained weights and smaller batches,
    `--set freeze_norm=true` as in the paper.

    Expected: docs/detection.md has what came of 205 photos of blood cells in 40 minutes on one core.

        effvit detect train --data train.json --images photos --model efficientvit_m0
    """
    return DetectionConfig(recipe="small", device="auto")


RECIPES: dict[str, Callable[[], DetectionConfig]] = {"coco_1x": coco_1x, "small": small}
"""The recipes by name."""


def detection_recipe(name: str) -> DetectionConfig:
    """The settings of a recipe.

    Raises:
        ConfigError: If there is none of this name; lists them.
    """
    if name not in RECIPES:
        raise ConfigError(unknown_name("recipe of detection", name, RECIPES))
    return RECIPES[name]()
