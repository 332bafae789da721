"""From the name of a device to a device that is there."""

from __future__ import annotations

import torch

from effvit.errors import ConfigError


def find_device(name: str) -> torch.device:
    """Turn `cpu`, `cuda`, `cuda:1` or `mps` into a device, and prove that it can be used.

    Raises:
        ConfigError: If there is no such device on this machine.
    """
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        usable = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
        if torch.backends.mps.is_available():
            usable.append("mps")
        raise ConfigError(f"device {name!r} cannot be used here; usable: {', '.join(usable)}") from error
    return device
