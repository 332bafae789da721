from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from timm.loss import LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from torch import Tensor, nn

from effvit.data.augmentation import Augmentation
from effvit.data.mixing import Mixer
from effvit.train.config import TrainConfig
from effvit.train.distillation_config import Distillation
from effvit.train.losses import label_loss, make_criterion, teacher_loss

B, C = 6, 4
COUNTS = [40, 30, 20, 10]
NO_PICTURES = torch.empty(0)


@pytest.fixture
def logits() -> Tensor:
    return torch.randn(B, C, dtype=torch.float64) * 3


@pytest.fixture
def indices() -> Tensor:
    return torch.tensor([0, 1, 2, 3, 3, 0])


@pytest.fixture
def soft() -> Tensor:
    return torch.softmax(torch.randn(B, C, dtype=torch.float64), dim=1)


class Oracle(nn.Module):
    """A teacher that says what it was told to, and remembers what it was shown."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = logits.requires_grad_()
        self.seen: Tensor | None = None

    def forward(self, images: Tensor) -> Tensor:
        self.seen = images
        return self.logits * 1.0


def test_indices_give_timms_smoothed_loss(logits: Tensor, indices: Tensor) -> None:
    criterion = make_criterion(TrainConfig(label_smoothing=0.1), COUNTS)
    expected = LabelSmoothingCrossEntropy(0.1)(logits, indices)
    torch.testing.assert_close(criterion(logits, indices, NO_PICTURES).mean(), expected)


def test_probabilities_give_timms_soft_loss_and_are_not_smoothed_again(logits: Tensor, soft: Tensor) -> None:
    criterion = make_criterion(TrainConfig(label_smoothing=0.1), COUNTS)
    torch.testing.assert_close(criterion(logits, soft, NO_PICTURES).mean(), SoftTargetCrossEntropy()(logits, soft))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_indices_are_smoothed_as_an_unmixed_batch_of_timm_is(smoothing: float, logits: Tensor, indices: Tensor) -> None:
    """Whether a run mixes or not, the same smoothing means the same loss."""
    mixer = Mixer(Augmentation(mixup=1.0, mix_probability=1e-12), C, smoothing)
    _, targets = mixer(torch.zeros(B, 3, 8, 8), indices, seed=0)
    criterion = make_criterion(TrainConfig(label_smoothing=smoothing), COUNTS)
    torch.testing.assert_close(
        criterion(logits, targets, NO_PICTURES), criterion(logits, indices, NO_PICTURES), rtol=1e-6, atol=1e-6
    )


@pytest.mark.parametrize("kind", ["none", "inverse", "effective"])
def test_a_batch_is_the_sum_of_its_parts(kind: str, logits: Tensor, soft: Tensor) -> None:
    criterion = make_criterion(TrainConfig(class_weights=kind), COUNTS)
    whole = criterion(logits, soft, NO_PICTURES)
    parts = [criterion(logits[part], soft[part], NO_PICTURES) for part in (slice(0, 2), slice(2, 5), slice(5, 6))]
    assert whole.shape == (B,)
    torch.testing.assert_close(torch.cat(parts), whole)


def test_weights_are_torchs_and_apply_to_each_class_of_a_mixed_target(logits: Tensor, soft: Tensor) -> None:
    weights = torch.tensor([0.5, 1.0, 2.0, 4.0], dtype=torch.float64)
    by_hand = -(soft * weights * logits.log_softmax(1)).sum(1)
    torch.testing.assert_close(label_loss(logits, soft, weights=weights), by_hand)
    for smoothing in (0.0, 0.2):
        hard = F.one_hot(torch.tensor([0, 1, 2, 3, 3, 0]), C).double() * (1 - smoothing) + smoothing / C
        mixed = label_loss(logits, hard, weights=weights)
        plain = label_loss(logits, torch.tensor([0, 1, 2, 3, 3, 0]), weights=weights, label_smoothing=smoothing)
        torch.testing.assert_close(mixed, plain)


def test_rare_classes_weigh_more(indices: Tensor) -> None:
    uniform = torch.zeros(B, C)
    losses = make_criterion(TrainConfig(class_weights="inverse", label_smoothing=0), COUNTS)(
        uniform, indices, NO_PICTURES
    )
    assert losses[3] == pytest.approx(4 * losses[0])  # 10 pictures against 40
    plain = make_criterion(TrainConfig(label_smoothing=0), COUNTS)(uniform, indices, NO_PICTURES)
    assert plain.tolist() == pytest.approx([math.log(C)] * B)


def official(
    logits: tuple[Tensor, Tensor], teacher: Tensor, targets: Tensor, distillation: Distillation
) -> tuple[Tensor, Tensor]:
    """The two parts of DeiT's loss, as its equations 2 and 3 say, mean over the pictures."""
    from_labels = torch.stack([-(t * z.log_softmax(0)).sum() for t, z in zip(targets, logits[0], strict=True)]).mean()
    t = distillation.temperature
    taught = []
    for student, wise in zip(logits[1], teacher, strict=True):
        if distillation.kind == "hard":
            taught.append(-student.log_softmax(0)[wise.argmax()])
        else:
            p, q = (wise / t).softmax(0), (student / t).softmax(0)
            taught.append(t * t * (p * (p.log() - q.log())).sum())
    return from_labels, torch.stack(taught).mean()


@pytest.mark.parametrize("kind", ["soft", "hard"])
@pytest.mark.parametrize("num_heads", [1, 2])
@pytest.mark.parametrize("alpha", [0.0, 0.5, 0.9, 1.0])
def test_distillation_is_deits(kind: str, num_heads: int, alpha: float, logits: Tensor, soft: Tensor) -> None:
    distillation = Distillation(teacher="x", kind=kind, alpha=alpha, temperature=2.5)
    teacher = Oracle(torch.randn(B, C, dtype=torch.float64) * 2)
    second = torch.randn(B, C, dtype=torch.float64) if num_heads == 2 else logits
    output = (logits, second) if num_heads == 2 else logits
    pictures = torch.randn(B, 3, 8, 8)
    criterion = make_criterion(TrainConfig(distillation=distillation, label_smoothing=0), COUNTS, teacher)
    from_labels, taught = official((logits, second), teacher.logits, soft, distillation)
    loss = criterion(output, soft, pictures)
    assert loss.shape == (B,)
    torch.testing.assert_close(loss.mean(), (1 - alpha) * from_labels + alpha * taught)
    assert teacher.seen is pictures


def test_the_official_soft_loss_is_ours_over_the_number_of_classes(logits: Tensor) -> None:
    wise, temperature = torch.randn(B, C, dtype=torch.float64), 3.0
    theirs = F.kl_div(
        F.log_softmax(logits / temperature, 1), F.log_softmax(wise / temperature, 1), reduction="sum", log_target=True
    )
    theirs = theirs * temperature**2 / logits.numel()
    ours = teacher_loss(logits, wise, Distillation(kind="soft", temperature=temperature)).mean()
    torch.testing.assert_close(ours / C, theirs)


def test_class_weights_are_for_the_labels_only(logits: Tensor, indices: Tensor) -> None:
    distillation = Distillation(teacher="x", alpha=1.0)
    teacher = Oracle(torch.randn(B, C, dtype=torch.float64))
    plain = TrainConfig(distillation=distillation)
    weighted = replace(plain, class_weights="inverse")
    losses = [make_criterion(config, COUNTS, teacher)(logits, indices, NO_PICTURES) for config in (plain, weighted)]
    torch.testing.assert_close(losses[0], losses[1])


def test_only_the_student_learns(logits: Tensor, indices: Tensor) -> None:
    teacher = Oracle(torch.randn(B, C, dtype=torch.float64))
    criterion = make_criterion(TrainConfig(distillation=Distillation(teacher="x")), COUNTS, teacher)
    heads = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    criterion(heads, indices, NO_PICTURES).sum().backward()
    assert teacher.logits.grad is None
    assert all(head.grad is not None and head.grad.abs().sum() > 0 for head in heads)


def test_two_heads_without_a_teacher_learn_alike(logits: Tensor, indices: Tensor) -> None:
    criterion = make_criterion(TrainConfig(), COUNTS)
    other = logits.flip(1)
    both = criterion((logits, other), indices, NO_PICTURES)
    expected = (criterion(logits, indices, NO_PICTURES) + criterion(other, indices, NO_PICTURES)) / 2
    torch.testing.assert_close(both, expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_are_summed_in_single(dtype: torch.dtype, logits: Tensor, indices: Tensor) -> None:
    halves = logits.to(dtype)
    teacher = Oracle(halves.flip(1))
    criterion = make_criterion(TrainConfig(distillation=Distillation(teacher="x")), COUNTS, teacher)
    loss = criterion(halves, indices, NO_PICTURES)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, criterion(halves.float(), indices, NO_PICTURES))
