"""Evaluations made from logits, for tests of what follows from them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from effvit.data.samples import Sample
from effvit.train.evaluation import TOP_K, Evaluation


def from_logits(logits: np.ndarray, targets: np.ndarray) -> Evaluation:
    """What `evaluate(..., keep_logits=True)` gives for a network with these outputs."""
    logs = torch.from_numpy(np.asarray(logits, dtype=np.float64)).log_softmax(1)
    values, classes = logs.sort(dim=1, descending=True, stable=True)
    return Evaluation(
        class_names=tuple(f"class {index}" for index in range(logits.shape[1])),
        samples=tuple(Sample(Path(f"{index}.jpg"), int(target)) for index, target in enumerate(targets)),
        top_classes=classes[:, :TOP_K].numpy(),
        top_probabilities=values[:, :TOP_K].exp().numpy(),
        losses=-logs.numpy()[np.arange(len(targets)), targets],
        logits=np.asarray(logits, dtype=np.float32),
    )


def calibrated_logits(count: int, num_classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits whose softmax is the very chance of each class, and classes drawn with these chances."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(size=(count, num_classes)) * 2
    # The largest of logits plus Gumbel noise is a draw from their softmax.
    targets = (logits + generator.gumbel(size=logits.shape)).argmax(axis=1)
    return logits, targets
