from __future__ import annotations

import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from timm.data.mixup import Mixup
from timm.data.random_erasing import RandomErasing

from effvit.data.augmentation import ERASING_MODES, Augmentation
from effvit.data.mixing import Eraser, Mixer
from effvit.data.randomness import derive_seed, seeded
from effvit.errors import ConfigError

KINDS = {
    "mixup": Augmentation(mixup=0.8),
    "cutmix": Augmentation(cutmix=1.0),
    "both": Augmentation(mixup=0.8, cutmix=1.0, mix_switch=0.4, mix_probability=0.7),
}


def pictures(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(count)
    return torch.randn(count, 3, 16, 12, generator=generator), torch.randint(5, (count,), generator=generator)


def global_states() -> tuple[object, ...]:
    name, keys, *rest = np.random.get_state()
    return random.getstate(), name, keys.tolist(), *rest, torch.get_rng_state().tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_mixing_is_timms(kind: str) -> None:
    augmentation = KINDS[kind]
    theirs = Mixup(
        mixup_alpha=augmentation.mixup, cutmix_alpha=augmentation.cutmix, prob=augmentation.mix_probability,
        switch_prob=augmentation.mix_switch, label_smoothing=0.1, num_classes=5,
    )  # fmt: skip
    images, targets = pictures(6)
    changed = 0
    for seed in range(12):
        mine, soft = Mixer(augmentation, 5, 0.1)(images.clone(), targets, seed)
        with seeded(derive_seed("mixing", seed)):
            other, other_soft = theirs(images.clone(), targets)
        assert torch.equal(mine, other) and torch.equal(soft, other_soft)
        changed += not torch.equal(mine, images)
    assert changed > 5


@pytest.mark.parametrize("kind", KINDS)
@given(count=st.integers(1, 7), seed=st.integers(0, 2**63 - 1))
def test_any_batch_is_mixed_into_probabilities(kind: str, count: int, seed: int) -> None:
    images, targets = pictures(count)
    mixer = Mixer(KINDS[kind], 5, 0.1)
    mixed, soft = mixer(images.clone(), targets, seed)
    again, soft_again = mixer(images.clone(), targets, seed)
    assert torch.equal(mixed, again) and torch.equal(soft, soft_again)
    assert soft.shape == (count, 5) and soft.min() >= 0
    torch.testing.assert_close(soft.sum(dim=1), torch.ones(count))
    if count % 2:  # the picture in the middle has itself for a partner
        middle = count // 2
        torch.testing.assert_close(mixed[middle], images[middle])
        torch.testing.assert_close(soft[middle], 0.9 * F.one_hot(targets[middle], 5) + 0.02)


def test_cutmix_alone_trains() -> None:
    """The official code gives its soft targets to a loss for class indices, and crashes."""
    images, targets = pictures(4)
    mixed, soft = Mixer(KINDS["cutmix"], 5, 0.1)(images, targets, 0)
    head = torch.nn.Linear(mixed[0].numel(), 5)
    loss = F.cross_entropy(head(mixed.flatten(1)), soft)
    loss.backward()
    assert loss.isfinite() and head.weight.grad is not None


def test_mixing_and_erasing_leave_the_global_generators_alone() -> None:
    before = global_states()
    images, targets = pictures(4)
    Mixer(KINDS["both"], 5, 0.0)(images, targets, 1)
    Eraser(Augmentation(random_erasing=1.0))(images, 1)
    assert global_states() == before


@pytest.mark.parametrize("mode", ERASING_MODES)
def test_erasing_is_timms(mode: str) -> None:
    augmentation = Augmentation(random_erasing=0.5, erasing_mode=mode)
    images, _ = pictures(16)
    mine = Eraser(augmentation)(images.clone(), 3)
    with seeded(derive_seed("erasing", 3)):
        other = RandomErasing(0.5, mode=mode, device="cpu")(images.clone())
    assert torch.equal(mine, other)
    changed = (mine != images).any(dim=1)
    assert 3 <= changed.any(dim=(1, 2)).sum() <= 13
    assert 0.02 < changed[changed.any(dim=(1, 2))].float().mean() < 0.34
    assert not torch.equal(mine, Eraser(augmentation)(images.clone(), 4))


def test_nothing_to_do_is_an_error() -> None:
    with pytest.raises(ConfigError, match="needs mixup or cutmix above 0"):
        Mixer(Augmentation(), 5, 0.1)
    with pytest.raises(ConfigError, match="needs random_erasing above 0"):
        Eraser(Augmentation())
