"""From what was asked for on the command line to what will be trained: settings, pictures, network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch

from effvit.cli.training_runs import on_known_device
from effvit.data.datasets import PictureData, find_data
from effvit.errors import ConfigError
from effvit.files import sha256
from effvit.model.checkpoints import WeightsFile
from effvit.model.factory import create_model, find_weights
from effvit.model.network import EfficientViT
from effvit.model.published import NUM_IMAGENET_CLASSES
from effvit.preprocessing import Preprocessing
from effvit.train.config import TrainConfig
from effvit.train.distributed import on_main
from effvit.train.recipes import find_recipe
from effvit.train.run_config import field_of, replace_fields
from effvit.train.teachers import with_absolute_paths
from effvit.train.tensorboard import import_tensorboard


@dataclass(frozen=True)
class TrainingPlan:
    """What a training run would do; nothing is written yet."""

    config: TrainConfig
    data: PictureData | None
    """The pictures; None where only the settings are wanted."""
    network: EfficientViT
    initial_weights: dict[str, Any] | None
    """Where the weights come from, for the record; None for random ones."""


def plan_training(
    data: Path | str | None,
    assignments: Sequence[str],
    *,
    weights: str | None,
    recipe: str | None = None,
    base: TrainConfig | None = None,
) -> TrainingPlan:
    """Resolve every setting, find the pictures, build the network.

    Args:
        data: The pictures, see `find_data`; None plans for ImageNet's 1000 classes without any.
        assignments: What is asked for, as `field=value`.
        weights: Where to start from, see `effvit.create_model`. Their preprocessing is kept, unless the recipe or
            an assignment has another.
        recipe: Name of a recipe that the other settings come from.
        base: Where they come from without a recipe; None for the defaults. On the best device.

    Raises:
        ConfigError: If a setting is not allowed, or the recipe starts from weights and there are none.
        DataError: If the pictures cannot be used.
        WeightsError: If the weights cannot be had or do not fit.
    """
    if recipe is not None:
        facts = find_recipe(recipe)
        base = facts.config()
        if facts.needs_weights and weights is None and data is not None:
            raise ConfigError(f"recipe {recipe} starts from weights: add --weights imagenet, a path or a Hub id")
    base = base or TrainConfig(device="auto")
    asked = replace_fields(base, assignments)
    source = None if weights is None else find_weights(weights, asked.model)
    if source is not None and source.config is not None:
        asked = replace_fields(_with_preprocessing_of(base, source), assignments)
        if base.model == TrainConfig().model and not any(field_of(text) == "model" for text in assignments):
            # Weights that say whose they are name the network where nobody else does.
            asked = replace(asked, model=source.config.name)
    config = on_known_device(asked)  # that it cannot be used is said before the pictures are looked for
    config = replace(config, distillation=with_absolute_paths(config.distillation))
    if config.tensorboard:
        import_tensorboard()
    pictures = None
    if data is not None:
        # One process looks for all: some sources are indexed or converted at their first use.
        pictures = on_main(lambda: find_data(data, val_fraction=config.val_fraction, seed=config.seed))
    torch.manual_seed(config.seed)  # the initial weights
    own = None if source is None else source.config
    network = create_model(
        own if own is not None and own.name == config.model else config.model,  # a pruned one has no name but its own
        weights=source,
        num_classes=NUM_IMAGENET_CLASSES if pictures is None else len(pictures.class_names),
        image_size=config.preprocessing.image_size,
        window=config.window or None,
        distilled=True if config.distillation.teacher else None,
        drop_path=config.drop_path,
    )
    _check_channels(network, config)
    return TrainingPlan(config, pictures, network, None if source is None else _origin(source))


def _with_preprocessing_of(base: TrainConfig, source: WeightsFile) -> TrainConfig:
    """The weights' preprocessing, except for what the base itself changes, such as a recipe's picture size."""
    default, own = Preprocessing(), base.preprocessing
    changed = {
        field.name: getattr(own, field.name)
        for field in fields(Preprocessing)
        if getattr(own, field.name) != getattr(default, field.name)
    }
    return replace(base, preprocessing=replace(source.info.preprocessing, **changed))


def _origin(source: WeightsFile) -> dict[str, Any]:
    return {**source.info.provenance, "file": source.path.name, "sha256": sha256(source.path)}


def _check_channels(network: EfficientViT, config: TrainConfig) -> None:
    channels, means = network.config.in_channels, config.preprocessing.mean
    if channels != len(means):
        raise ConfigError(f"preprocessing.mean and .std need one value for each of {channels} channels, got {means}")
