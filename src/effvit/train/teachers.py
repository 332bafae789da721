"""Networks to learn from: timm's, or ones that were trained here."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from timm.data import resolve_model_data_config  # type: ignore[attr-defined]
from torch import Tensor, nn

from effvit.errors import ConfigError, EffvitError, WeightsError, first_line
from effvit.model.factory import load
from effvit.model.foreign import timm_network, timm_settings
from effvit.model.hub import fetch
from effvit.model.variants import TIMM_PREFIX
from effvit.preprocessing import Preprocessing
from effvit.train.distillation_config import Distillation


class Teacher(nn.Module):
    """A finished network that takes the student's pictures, in eval mode and without gradients.

    Args:
        network: The network, on its device.
        own: The normalisation it was trained with.
        given: The normalisation of the pictures it will be handed; they are normalised anew for it.
        class_names: What its outputs are called, for the caller to compare; None if it does not say.
    """

    scale: Tensor
    shift: Tensor

    def __init__(
        self,
        network: nn.Module,
        *,
        own: Preprocessing,
        given: Preprocessing,
        class_names: tuple[str, ...] | None = None,
    ) -> None:
        super().__init__()
        self.network = network.eval().requires_grad_(False)
        self.class_names = class_names
        own_mean, own_std, mean, std = (
            torch.tensor(values, dtype=torch.float64).view(-1, 1, 1)  # (C,) -> (C, 1, 1)
            for values in (own.mean, own.std, given.mean, given.std)
        )
        like = next(network.parameters())
        self.register_buffer("scale", (std / own_std).to(like))
        self.register_buffer("shift", ((mean - own_mean) / own_std).to(like))

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Logits, (B, num_classes), of pictures normalised for the student, (B, C, H, W)."""
        logits: Tensor = self.network(images * self.scale + self.shift)
        return logits


def open_teacher(
    distillation: Distillation,
    num_classes: int,
    device: torch.device | str,
    *,
    preprocessing: Preprocessing,
) -> Teacher:
    """Open the network to learn from, and try it on a picture of the student's size.

    Args:
        distillation: Which: `timm:NAME` with timm's weights or those of a file, a run folder or a weights folder.
        num_classes: Classes of the student; the teacher must have as many.
        device: Where to put it.
        preprocessing: Size and normalisation of the student's pictures.

    Raises:
        ConfigError: If there is no such network, it has other classes or channels, or does not take that size.
        WeightsError: If its weights cannot be had or do not fit.
    """
    source = distillation.teacher
    if source.startswith(TIMM_PREFIX):
        teacher = _timm_teacher(source.removeprefix(TIMM_PREFIX), distillation.weights, num_classes, preprocessing)
    else:
        teacher = _own_teacher(source, preprocessing)
    teacher.to(device)
    _try(teacher, source, num_classes, device, preprocessing)
    return teacher


def with_absolute_paths(distillation: Distillation) -> Distillation:
    """The same with the teacher's folder and file of weights as absolute paths, if they are there.

    A run writes its settings down and may be continued from another folder, where a relative path means nothing.
    """
    return replace(distillation, teacher=_absolute(distillation.teacher), weights=_absolute(distillation.weights))


def _absolute(text: str) -> str:
    return str(Path(text).absolute()) if text and Path(text).exists() else text


def _own_teacher(source: str, preprocessing: Preprocessing) -> Teacher:
    if not Path(source).exists():
        hint = "" if Path(source).is_absolute() else f"; {source!r} is relative: begin where it was given"
        raise WeightsError(f"the teacher is gone: there is no {Path(source).absolute()}{hint}")
    network, info = load(source)
    return Teacher(network, own=info.preprocessing, given=preprocessing, class_names=info.class_names)


def _timm_teacher(name: str, weights: str, num_classes: int, preprocessing: Preprocessing) -> Teacher:
    known = timm_settings(name)
    if weights:
        network = timm_network(name, Path(weights), num_classes)
    elif known is None or known.hf_hub_id is None:
        raise WeightsError(f"timm has no weights of the teacher {name}; give a file as distillation.weights")
    else:
        network = timm_network(name, _fetch_weights(known.hf_hub_id), known.num_classes)
    settings = resolve_model_data_config(network)  # type: ignore[no-untyped-call]
    own = Preprocessing(mean=tuple(settings["mean"]), std=tuple(settings["std"]))
    return Teacher(network, own=own, given=preprocessing)


def _fetch_weights(repository: str) -> Path:
    try:
        return fetch(repository)[0]
    except WeightsError as error:
        raise WeightsError(f"{error}; for a teacher that is distillation.weights") from error


def _try(
    teacher: Teacher, source: str, num_classes: int, device: torch.device | str, preprocessing: Preprocessing
) -> None:
    """A teacher that cannot teach is found before the run begins, not at its first step."""
    height, width = preprocessing.image_size
    try:
        logits = teacher(torch.zeros(1, len(preprocessing.mean), height, width, device=device))
    except (RuntimeError, AssertionError, ValueError, EffvitError) as error:
        raise ConfigError(
            f"the teacher {source} does not take the student's pictures, {height} x {width}: {first_line(error)}"
        ) from error
    if logits.shape != (1, num_classes):
        raise ConfigError(
            f"the teacher {source} knows {logits.shape[-1]} classes, the pictures have {num_classes}: a teacher must "
            f"have been trained on the same classes; train one first and give its run folder"
        )
