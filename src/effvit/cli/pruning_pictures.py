"""The pictures that a network is scored and tried on when it is pruned, numbered as it numbers its classes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import timm
import torch
from torch import Tensor

from effvit.cli.published import imagenet_description
from effvit.cli.render import say
from effvit.data.datasets import find_data
from effvit.data.loaders import PictureLoader, UnreadableCount
from effvit.data.order import Order
from effvit.data.samples import PictureData, Sample
from effvit.data.transforms import eval_transform, normalize
from effvit.errors import ConfigError, DataError
from effvit.model.published import NUM_IMAGENET_CLASSES
from effvit.model.sources import PRETRAINED, RANDOM, FoundModel
from effvit.model.variants import TIMM_PREFIX, TORCHVISION_PREFIX, VARIANTS
from effvit.train.runs import RunFolder


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """How scores are found."""

    num_batches: int
    batch_size: int
    seed: int
    num_workers: int
    device: str


def pictures_for(data: str, source: str, seed: int) -> PictureData:
    """Pictures, those that a run held out held out here: what it was trained on would tell nothing."""
    for folder in (Path(source), Path(source).parent):  # the run, or one of its folders of weights
        if (folder / "run.json").is_file():
            config = RunFolder.open(folder).read_config()
            return find_data(data, val_fraction=config.val_fraction, seed=config.seed)
    return find_data(data, seed=seed)


def takes_classes(source: str, weights: str | None) -> bool:
    """Whether a network by this name is made anew, for as many classes as the pictures have."""
    if Path(source).is_dir():
        return False
    name = source.removeprefix(TIMM_PREFIX).removeprefix("timm/").partition(".")[0]
    is_timm = source not in VARIANTS and timm.is_model(name)
    if weights is None or weights == RANDOM:
        return is_timm or source in VARIANTS or source.startswith(TORCHVISION_PREFIX)
    return is_timm and weights != PRETRAINED


def names_of(found: FoundModel, pictures: PictureData, device: str) -> tuple[str, ...]:
    """What the network's outputs are called, in the words of the pictures.

    Raises:
        ConfigError: If it is no classifier.
        DataError: If it has other classes than the pictures.
    """
    with torch.no_grad():
        outputs = found.network(torch.zeros(1, *found.input_size, device=device))
    if not isinstance(outputs, Tensor) or outputs.dim() != 2:
        what = f"shape {tuple(outputs.shape)}" if isinstance(outputs, Tensor) else f"a {type(outputs).__name__}"
        raise ConfigError(
            f"{found.label} must give a score for each class, (pictures, classes), to be scored, got {what}"
        )
    number = outputs.shape[-1]
    namings = [] if found.class_names is None else [found.class_names]
    if found.class_names is None and len(pictures.class_names) == number:
        namings.append(pictures.class_names)
    if number == NUM_IMAGENET_CLASSES:
        described = imagenet_description(found.preprocessing)
        namings += [described.class_names, *(names for _, names in described.namings)]
    for names in namings:
        if set(pictures.class_names) <= set(names) and len(names) == number:
            return tuple(names)
    example = next((name for name in pictures.class_names if not namings or name not in namings[0]), "")
    raise DataError(
        f"{found.label} has {number} classes and the pictures {len(pictures.class_names)} that do not fit them"
        + (f", such as {example!r}" if example else "")
    )


def renumbered(samples: Sequence[Sample], names: Sequence[str], outputs: Sequence[str]) -> list[Sample]:
    """Samples whose targets point into the network's outputs."""
    position = [outputs.index(name) for name in names]
    return [sample._replace(target=position[sample.target]) for sample in samples]


def shuffled(samples: list[Sample], scoring: Scoring) -> list[Sample]:
    """As many pictures as the batches take, drawn over all classes."""
    generator = torch.Generator().manual_seed(scoring.seed)
    chosen = torch.randperm(len(samples), generator=generator)[: scoring.num_batches * scoring.batch_size]
    return [samples[position] for position in chosen.tolist()]


def batches(samples: Sequence[Sample], found: FoundModel, scoring: Scoring) -> Iterator[tuple[Tensor, Tensor]]:
    """Normalised pictures and their targets, in order, on the device; what cannot be read is said at the end."""
    loader = PictureLoader(
        samples,
        eval_transform(found.preprocessing),
        batch_size=scoring.batch_size,
        order=Order.IN_ORDER,
        num_workers=scoring.num_workers,
    )
    unreadable = UnreadableCount(len(samples))
    for batch in loader.batches():
        unreadable.add(batch.unreadable)
        if len(batch.targets):
            images = normalize(batch.images.to(scoring.device), found.preprocessing)
            yield images, batch.targets.to(scoring.device)
    for reason in unreadable.reasons:
        say(f"unreadable: {reason}")
