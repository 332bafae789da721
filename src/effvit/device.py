"""From the name of a device to a device that is there."""

from __future__ import annotations

import torch

from effvit.errors import ConfigError


def find_device(name: str) -> torch.device:
    """Turn `cpu`, `cuda`, `cuda:1`, `mps` or `auto` into a device, and prove that it can be used.

    `auto` is the GPU if torch sees one, else the CPU.

    Raises:
        ConfigError: If there is no such device on this machine.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        usable = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
        if torch.backends.mps.is_available():
            usable.append("mps")
        raise ConfigError(f"device {name!r} cannot be used here; usable: {', '.join(usable)}") from error
    return device
