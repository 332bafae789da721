"""What stands still while the rest of a network is trained: statistics of norms, everything but the head."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from effvit.errors import ConfigError


def set_training(model: nn.Module, *, freeze_backbone: bool = False, freeze_norm: bool = False) -> None:
    """Put a network in training mode, except for what is frozen.

    A frozen backbone takes no gradient and keeps its statistics; the head learns alone. Frozen norms
    normalise with the statistics they came with, as detection and small batches want; their weights learn on.

    Args:
        model: Any classifier.
        freeze_backbone: Whether all but the head stands still.
        freeze_norm: Whether batch normalisation keeps its statistics.

    Raises:
        ConfigError: If the network does not say which part is its head.
    """
    model.train()
    heads = head_modules(model) if freeze_backbone else []
    in_head = {parameter for head in heads for parameter in head.parameters()}
    for parameter in model.parameters():
        parameter.requires_grad_(not freeze_backbone or parameter in in_head)
    if freeze_backbone:
        model.eval()
        # A network with two heads gives both in training mode only; nothing but this flag is set.
        model.training = True
        for head in heads:
            head.train()
    if freeze_norm:
        for module in model.modules():
            if isinstance(module, _BatchNorm):
                module.eval()


def head_modules(model: nn.Module) -> list[nn.Module]:
    """The classifier of one of our networks or of timm's; two where there are two heads.

    Raises:
        ConfigError: If the network has no `get_classifier`.
    """
    get_classifier = getattr(model, "get_classifier", None)
    if not callable(get_classifier):
        raise ConfigError(f"a {type(model).__name__} does not say which part is its head, so no other can be frozen")
    found = get_classifier()
    return list(found) if isinstance(found, tuple) else [found]
