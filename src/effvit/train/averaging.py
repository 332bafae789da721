"""The moving average of a network's weights, which is often the better network."""

from __future__ import annotations

from timm.utils.model_ema import ModelEmaV3
from torch import nn

from effvit.train.run_config import RunConfig


def make_average(model: nn.Module, config: RunConfig) -> ModelEmaV3:
    """Start the average with a copy of the network's weights.

    Buffers are averaged like weights (counters are copied), so that the statistics of batch normalisation
    belong to the averaged weights.

    Args:
        model: The network, on its device, before it is wrapped or compiled.
        config: `ema_decay`, and `ema_warmup`: with it the decay of step n is at most 1 - (1 + n)^(-2/3), so that
            the initial weights are forgotten soon.

    Returns:
        timm's average; the averaged network, in eval mode, is its `module`.
    """
    return ModelEmaV3(model, decay=config.ema_decay, use_warmup=config.ema_warmup)


def update_average(average: ModelEmaV3, model: nn.Module, step: int) -> None:
    """Take the weights after a step into the average.

    Args:
        average: From `make_average`.
        model: The network.
        step: Step of the whole run that was just taken, from 0; counts for the warm-up only. Without one the decay
            is the same from the first step on, as in the paper's code.
    """
    # timm drops the initial weights at the first step that it is told of.
    average.update(model, step=step + 1 if average.use_warmup else None)
