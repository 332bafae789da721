"""Training that keeps fewer activations and computes them again for the gradient."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def checkpointed(layer: nn.Module, x: Tensor) -> Tensor:
    """Run a layer without keeping its activations; the second run must not count in BatchNorm's statistics."""

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _frozen_statistics(layer)

    return checkpoint(layer, x, use_reentrant=False, context_fn=contexts)  # type: ignore[no-any-return]


@contextmanager
def _frozen_statistics(module: nn.Module) -> Iterator[None]:
    """BatchNorm goes on using the batch's statistics and stops recording them."""
    norms = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    try:
        for norm in norms:
            norm.momentum = 0.0
            norm.num_batches_tracked = None
        yield
    finally:
        for norm, (momentum, count) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count
