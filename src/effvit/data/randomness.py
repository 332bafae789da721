"""Seeds that depend on nothing but what they are for, and random generators that are put back after use."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def derive_seed(purpose: str, *numbers: int) -> int:
    """Mix a purpose and whole numbers, such as (seed, epoch, index), into one seed of 64 bits.

    Neighbouring numbers and other purposes give unrelated seeds, so that nothing random in a run
    repeats anything else.
    """
    entropy = [*purpose.encode(), *numbers]
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0])


@contextmanager
def generators_restored(device: torch.device | None = None) -> Iterator[None]:
    """Put the global generators of Python, NumPy and torch back to where they were, after the block.

    Args:
        device: Whose generator of torch is put back too, beside the CPU's; None for the CPU's alone.
    """
    python_state, numpy_state = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[device] if _is_cuda(device) else []):
        try:
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)


def seed_generators(seed: int, device: torch.device | None = None) -> None:
    """Seed the global generators of Python, NumPy and torch.

    timm and torchvision draw from all three, and have no other way to be given a seed.

    Args:
        seed: In 0..2**64-1.
        device: Where torch will draw, beside the CPU; None for the CPU alone.
    """
    random.seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)
    torch.default_generator.manual_seed(seed)  # not torch.manual_seed, which resets the generators of all GPUs
    if _is_cuda(device):
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)


@contextmanager
def seeded(seed: int, device: torch.device | None = None) -> Iterator[None]:
    """`seed_generators` for the block, and `generators_restored` after it."""
    with generators_restored(device):
        seed_generators(seed, device)
        yield


def _is_cuda(device: torch.device | None) -> bool:
    return device is not None and device.type == "cuda"
