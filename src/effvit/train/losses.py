"""The loss of a step: labels, smoothed or mixed, weighted by class, and a teacher's word beside them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from effvit.data.datasets import PictureData
from effvit.errors import ConfigError
from effvit.train.class_balance import class_weights, count_classes
from effvit.train.config import TrainConfig
from effvit.train.distillation_config import Distillation
from effvit.train.learner import MicroBatch, StepLoss
from effvit.train.teachers import open_teacher

Criterion = Callable[[Tensor | tuple[Tensor, ...], Tensor, Tensor], Tensor]
"""(output of the network, targets, pictures) -> loss of each picture, (B,). The output is (B, num_classes), or one such
tensor for each of two heads; targets are class indices (B,) or probabilities (B, num_classes); the pictures, normalised
and as the network saw them, (B, 3, H, W), are for the teacher."""


def classifier_loss(criterion: Criterion) -> StepLoss:
    """What a step of a classifier makes small: its criterion's losses, added up over the pictures."""

    def loss_sum(network: nn.Module, batch: MicroBatch) -> Tensor:
        return criterion(network(batch.images), batch.targets, batch.images).sum()

    return loss_sum


def criterion_of_run(config: TrainConfig, data: PictureData, device: torch.device) -> Criterion:
    """The loss of a run on its pictures, with its teacher opened if it has one.

    Raises:
        ConfigError: If the teacher cannot teach this: it knows other classes, or takes other pictures.
        WeightsError: If the teacher cannot be had.
    """
    teacher = None
    if config.distillation.teacher:
        teacher = open_teacher(config.distillation, len(data.class_names), device, preprocessing=config.preprocessing)
        if teacher.class_names is not None and teacher.class_names != data.class_names:
            raise ConfigError(f"the teacher {config.distillation.teacher} knows other classes than the pictures have")
    return make_criterion(config, count_classes(data.train, len(data.class_names)), teacher)


def make_criterion(config: TrainConfig, class_counts: Sequence[int], teacher: nn.Module | None = None) -> Criterion:
    """The loss of a training run.

    Losses are given for each picture, and a step divides their sum by its number of pictures: so two processes
    or micro-batches add up to exactly one batch, class weights or not (see `class_weights`).

    Args:
        config: Label smoothing, class weights, distillation.
        class_counts: Training pictures of each class.
        teacher: From `open_teacher`; None to learn from the labels alone, with two heads the mean of both losses.

    Returns:
        A function of output, targets and pictures. Smoothing is for class indices: probabilities come smoothed
        from the mixing, as in timm.
    """
    weights = class_weights(config.class_weights, class_counts)

    def from_labels(logits: Tensor, targets: Tensor) -> Tensor:
        return label_loss(logits, targets, weights=weights, label_smoothing=config.label_smoothing)

    def without_teacher(output: Tensor | tuple[Tensor, ...], targets: Tensor, images: Tensor) -> Tensor:
        return torch.stack([from_labels(logits, targets) for logits in _heads(output)]).mean(0)

    if teacher is None:
        return without_teacher

    def with_teacher(output: Tensor | tuple[Tensor, ...], targets: Tensor, images: Tensor) -> Tensor:
        heads, alpha = _heads(output), config.distillation.alpha
        with torch.no_grad():
            teacher_logits = teacher(images)
        taught = teacher_loss(heads[-1], teacher_logits, config.distillation)
        return (1 - alpha) * from_labels(heads[0], targets) + alpha * taught

    return with_teacher


def label_loss(
    logits: Tensor, targets: Tensor, *, weights: Tensor | None = None, label_smoothing: float = 0.0
) -> Tensor:
    """Cross entropy of each picture, (B,): minus the sum over classes of target x weight x log-probability.

    Args:
        logits: (B, num_classes).
        targets: Class indices (B,), or probabilities (B, num_classes).
        weights: Of the classes, (num_classes,).
        label_smoothing: Mass taken from the true class and spread over all; for indices only.
    """
    logits = _at_least_float32(logits)
    if targets.dim() == 2:
        targets, label_smoothing = targets.to(logits.dtype), 0.0
    weights = None if weights is None else weights.to(logits)
    return F.cross_entropy(logits, targets, weight=weights, reduction="none", label_smoothing=label_smoothing)


def teacher_loss(logits: Tensor, teacher_logits: Tensor, distillation: Distillation) -> Tensor:
    """How far each picture's logits are from the teacher's, (B,).

    Args:
        logits: Of the head that learns from the teacher, (B, num_classes).
        teacher_logits: (B, num_classes).
        distillation: soft: KL divergence of the probabilities at its temperature, times its square; hard: cross
            entropy with the teacher's first class.

    Source: arXiv:2012.12877, Eq. 2 and 3. The official code divides the KL divergence by the number of classes too, so
    that with 1000 of them next to nothing is learnt from a soft teacher; here it is a picture's, as in the equation.
    """
    logits, teacher_logits = _at_least_float32(logits), _at_least_float32(teacher_logits)
    if distillation.kind == "hard":
        return F.cross_entropy(logits, teacher_logits.argmax(1), reduction="none")
    temperature = distillation.temperature
    divergence = F.kl_div(
        F.log_softmax(logits / temperature, dim=1),
        F.log_softmax(teacher_logits / temperature, dim=1),
        reduction="none",
        log_target=True,
    )
    return divergence.sum(1) * temperature**2


def _heads(output: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return output if isinstance(output, tuple) else (output,)


def _at_least_float32(logits: Tensor) -> Tensor:
    """Half precision is enough for a network, not for the sum of a thousand exponentials."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
