"""Whole sets of settings that are known to work, or are the paper's: one function each.

The docstring of a recipe is all that is known about it, in labelled parts; `effvit recipes` prints them.
No recipe chooses the network: that is `--model`.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass, replace

from effvit.data.augmentation import Augmentation
from effvit.errors import ConfigError, unknown_name
from effvit.preprocessing import Preprocessing
from effvit.train.config import TrainConfig
from effvit.train.distillation_config import Distillation


def imagenet() -> TrainConfig:
    """ImageNet-1k from scratch, every value of the paper.

    Source: arXiv:2305.07027, Sec. 4.1, and the defaults of the official code. The rate is 1e-3 x batch / 512, its ends
        are not scaled; RandAugment takes the place of the colour jitter of 0.4, which is given but never used.
    Cost: M5 takes about 30 hours on 8 V100 (official README): 240 GPU hours, 445 pictures/s on each. Not stated for the
        other networks.
    Expected: top-1 63.2 (M0), 68.4 (M1), 70.8 (M2), 73.4 (M3), 74.3 (M4), 77.1 (M5), at 224 pixels (Table 2).
    Command: torchrun --nproc-per-node 8 -m effvit train imagenet/ --recipe imagenet --model efficientvit_m5
    """
    return TrainConfig(
        recipe="imagenet",
        epochs=300,
        batch_size=2048,
        learning_rate=1e-3,
        base_batch_size=512,
        warmup_share=5 / 300,
        warmup_learning_rate=1e-6,
        min_learning_rate=1e-5,
        schedule_unit="epoch",
        weight_decay=0.025,
        label_smoothing=0.1,
        clip_grad=0.02,
        drop_path=0.0,
        ema_decay=0.99996,
        precision="float32",
        num_workers=10,
        device="auto",
        augmentation=Augmentation(
            crop_scale=(0.08, 1.0),
            color_jitter=0.4,
            rand_augment="rand-m9-mstd0.5-inc1",
            random_erasing=0.25,
            erasing_mode="pixel",
            repeats=3,
            mixup=0.8,
            cutmix=1.0,
            mix_probability=1.0,
            mix_switch=0.5,
        ),
        preprocessing=Preprocessing(image_size=(224, 224), interpolation="bicubic", crop_ratio=224 / 256),
    )


def imagenet_distilled() -> TrainConfig:
    """ImageNet-1k from scratch with a teacher: the recipe imagenet, longer, two heads.

    Source: arXiv:2305.07027, Table 7, and the official code: RegNetY-16GF with the weights of arXiv:2012.12877, half of
        the loss, temperature 1, 1000 epochs. Whether the table used the soft or the hard kind is not published; hard
        is the better one in arXiv:2012.12877, and soft is --set distillation.kind=soft.
    Cost: for M5 at least the 100 hours on 8 V100 that 1000 epochs take at the rate of the recipe imagenet; the teacher
        comes on top, with 16 billion multiply-adds a picture where a step of M5 takes 1.6. Not stated.
    Expected: not known here; the paper's Table 7 is not among the numbers that could be confirmed.
    Command: torchrun --nproc-per-node 8 -m effvit train imagenet/ --recipe imagenet_distilled --model efficientvit_m5
    """
    teacher = Distillation(teacher="timm:regnety_160.deit_in1k", kind="hard", alpha=0.5, temperature=1.0)
    return replace(imagenet(), recipe="imagenet_distilled", epochs=1000, warmup_share=5 / 1000, distillation=teacher)


def transfer() -> TrainConfig:
    """The paper's long fine-tuning on CIFAR, Cars, Flowers and Pets, from ImageNet weights.

    Source: arXiv:2305.07027, Table 4: 300 epochs, batch 256, rate 1e-3, weight decay 1e-8, the rest as for ImageNet.
        The rate is taken as it stands. With few steps the average of the weights lags far behind (0.99996 looks back
        25,000 steps, Flowers' 2,040 pictures make 2,400): both are evaluated, and the better is kept.
    Cost: CIFAR's 50,000 pictures x 300 epochs are 1/26 of the recipe imagenet: about 9 V100 hours for M5 at its rate.
    Expected: top-1 of M5: CIFAR-10 98.0, CIFAR-100 86.4, Flowers 97.1, Pets 92.0 (Table 4, by a third party's summary);
        Cars below the paper's convolutional rivals.
    Command: effvit train cifar10:data/ --recipe transfer --model efficientvit_m5 --weights imagenet
    """
    return replace(
        imagenet(),
        recipe="transfer",
        batch_size=256,
        learning_rate=1e-3,
        base_batch_size=0,
        weight_decay=1e-8,
    )


def high_resolution() -> TrainConfig:
    """Fine-tuning of ImageNet weights on ImageNet-1k at 384 pixels.

    Source: the paper's settings are unpublished; these are of SHViT, a sibling from the same code base: 30 epochs,
        batch 256, rate 4e-5 as it stands, down to 2e-7, warm-up from 2e-8, weight decay 1e-8, the rest as for
        ImageNet; its warm-up is taken to be the code base's 5 epochs. Windows of 12 need no padding (7 pads maps of 24
        and 12 tokens to 28 and 14) and span half the first map, as 7 does at 224: each bias table is only stretched.
    Cost: about 9 hours on 8 V100 for M5, if time grows with the pixels (2.9 times) from the 30 hours of 300 epochs.
    Expected: top-1 of M5 79.8 (by a third party's summary, with the paper's own settings).
    Command: torchrun --nproc-per-node 8 -m effvit train imagenet/ --recipe high_resolution --model efficientvit_m5
        --weights imagenet
    """
    return replace(
        imagenet(),
        recipe="high_resolution",
        epochs=30,
        batch_size=256,
        learning_rate=4e-5,
        base_batch_size=0,
        min_learning_rate=2e-7,
        warmup_learning_rate=2e-8,
        warmup_share=5 / 30,
        weight_decay=1e-8,
        window=12,
        preprocessing=Preprocessing(image_size=(384, 384), interpolation="bicubic", crop_ratio=224 / 256),
    )


def high_resolution_512() -> TrainConfig:
    """Fine-tuning of ImageNet weights on ImageNet-1k at 512 pixels.

    Source: as the recipe high_resolution. Windows of 8 leave no padding; 16 would too and span half the first map, as 7
        does at 224, at four times the attention's arithmetic: --set window=16. Which is better is not known.
    Cost: about 16 hours on 8 V100 for M5, if time grows with the pixels (5.2 times) from the 30 hours of 300 epochs.
    Expected: top-1 of M5 80.8 (by a third party's summary, with the paper's own settings).
    Command: torchrun --nproc-per-node 8 -m effvit train imagenet/ --recipe high_resolution_512 --model efficientvit_m5
        --weights imagenet
    """
    base = high_resolution()
    preprocessing = replace(base.preprocessing, image_size=(512, 512))
    return replace(base, recipe="high_resolution_512", window=8, preprocessing=preprocessing)


def finetune() -> TrainConfig:
    """A good network from a few thousand photos of your own, starting from pretrained weights.

    Source: not the paper's; the usual practice for small pretrained networks. Layers near the input, which know edges
        and textures already, learn slower; only the new head learns in the first epoch, so that its first, random
        gradients spoil nothing; the average of the weights forgets its beginning soon. Clipping and mixing, which cost
        a short run much (recipe scratch_small), are left out. Not tried here: no pretrained weights were at hand.
    Cost: 30 passes over the photos. `--dry-run` measures what that takes on your machine.
    Expected: not known: it depends on the photos, and the paper has no such run.
    Command: effvit train photos/ --recipe finetune --weights imagenet
    """
    return TrainConfig(
        recipe="finetune",
        epochs=30,
        batch_size=64,
        learning_rate=2e-3,
        warmup_share=0.1,
        layer_decay=0.8,
        weight_decay=0.05,
        clip_grad=0.0,
        ema_decay=0.998,
        ema_warmup=True,
        freeze_backbone_epochs=1,
        num_workers=4,
        device="auto",
        augmentation=Augmentation(
            crop_scale=(0.3, 1.0),
            rand_augment="rand-m7-mstd0.5-inc1",
            random_erasing=0.1,
        ),
    )


def scratch_small() -> TrainConfig:
    """A small network from a few thousand photos, without pretrained weights, on a processor.

    Source: chosen by experiment with M0 on 2,640 grocery photos of 81 classes, 20 epochs, one seed (docs/learning.md):
        on held-out training photos adaptive clipping cost 5 points, mixing another 5, RandAugment 10. A window of 8
        takes the first map of 128 pixels (8 x 8) whole, where one of 7 pads it to 14 x 14: no difference in accuracy
        that could be seen, and a step in three quarters of the time. A GPU has time for more: --image-size 224
        --set window=7.
    Cost: 60 passes over the photos; `--dry-run` measures what that takes on your machine.
    Expected: see docs/learning.md for what a shorter run reaches on those photos; not known for others.
    Command: effvit train photos/ --recipe scratch_small
    """
    return TrainConfig(
        recipe="scratch_small",
        epochs=60,
        batch_size=64,
        learning_rate=4e-3,
        warmup_share=0.1,
        clip_grad=0.0,
        ema_decay=0.99,
        ema_warmup=True,
        channels_last=True,
        window=8,
        num_workers=2,
        device="auto",
        augmentation=Augmentation(crop_scale=(0.35, 1.0), color_jitter=0.3),
        preprocessing=Preprocessing(image_size=(128, 128)),
    )


RECIPES: dict[str, Callable[[], TrainConfig]] = {
    function.__name__: function
    for function in (
        imagenet,
        imagenet_distilled,
        transfer,
        high_resolution,
        high_resolution_512,
        finetune,
        scratch_small,
    )
}
"""Every recipe by its name."""

_PART = re.compile(r"^(Source|Cost|Expected|Command): (.*?)(?=^\S|\Z)", re.DOTALL | re.MULTILINE)
"""A labelled part of a recipe's docstring: the lines below its label are indented."""

_START_FROM_WEIGHTS = (transfer, high_resolution, high_resolution_512, finetune)


@dataclass(frozen=True)
class RecipeFacts:
    """What is known about a recipe, for people."""

    name: str
    summary: str
    """What it is for, in one line."""
    source: str
    """Where its values come from."""
    cost: str
    """Time it takes, and where that number comes from."""
    expected: str
    """Accuracy, where one is published or measured."""
    command: str
    """How it is run."""
    needs_weights: bool
    """Whether it starts from pretrained weights."""
    distilled: bool
    """Whether the network must have a second head, for a teacher."""

    def config(self) -> TrainConfig:
        """The settings."""
        return RECIPES[self.name]()


def recipe(name: str) -> TrainConfig:
    """The settings of a recipe, on the best device (`auto`).

    Raises:
        ConfigError: If there is none of that name; says the nearest.
    """
    return find_recipe(name).config()


def find_recipe(name: str) -> RecipeFacts:
    """What is known about a recipe.

    Raises:
        ConfigError: If there is none of that name; says the nearest.
    """
    if name not in RECIPES:
        raise ConfigError(unknown_name("recipe", name, RECIPES))
    function = RECIPES[name]
    summary, _, rest = (inspect.getdoc(function) or "").partition("\n")
    parts = dict(_PART.findall(rest))
    source, cost, expected, command = (
        " ".join(parts.get(label, "").split()) for label in ("Source", "Cost", "Expected", "Command")
    )
    return RecipeFacts(
        name=name,
        summary=summary,
        source=source,
        cost=cost,
        expected=expected,
        command=command,
        needs_weights=function in _START_FROM_WEIGHTS,
        distilled=bool(function().distillation.teacher),
    )


def all_recipes() -> list[RecipeFacts]:
    """What is known about every recipe, in the order of the table."""
    return [find_recipe(name) for name in RECIPES]
