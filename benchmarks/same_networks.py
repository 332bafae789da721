"""Ours and timm's network with the same weights, for the benchmarks that set one against the other."""

from __future__ import annotations

import timm
import torch
from torch import nn

from effvit import create_model
from effvit.deploy.verify import verify
from effvit.errors import EffvitError
from effvit.model.checkpoints import foreign_state_dict

IMAGE_SIZE = 224
OURS, TIMM, CONTROL = "ours", "timm", "ours again"


def same_networks(name: str) -> dict[str, nn.Module]:
    """Ours and timm's with the same weights, every branch switched on; refuses to go on if they differ.

    Args:
        name: Of the network, the same in both libraries.

    Returns:
        The two networks under `OURS` and `TIMM`, in eval mode.

    Raises:
        EffvitError: If the two do not give the same answer.
    """
    ours = create_model(name)
    for module in ours.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)  # 0 at the end of fresh branches would hide what they compute
    rival = timm.create_model(name)
    rival.load_state_dict(foreign_state_dict(ours, "timm"))
    comparison = verify(ours.eval(), rival.eval(), [torch.randn(2, 3, IMAGE_SIZE, IMAGE_SIZE)])
    if not comparison.passed:
        raise EffvitError(f"{name}: ours and timm's are not the same network: {comparison}")
    return {OURS: ours, TIMM: rival}
