from __future__ import annotations

import pytest
import torch

from effvit.device import find_device
from effvit.errors import ConfigError


def test_cpu_is_always_there() -> None:
    assert find_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("name", ["gpu", "", "cuda:99", "meta:x"])
def test_device_that_is_not_there_lists_those_that_are(name: str) -> None:
    with pytest.raises(ConfigError, match=f"device '{name}' cannot be used here; usable: cpu"):
        find_device(name)


def test_auto_is_a_device_that_is_there() -> None:
    assert find_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
