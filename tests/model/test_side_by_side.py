"""Several networks by name: each once, each under a label of its own."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from torch import nn

import effvit
from effvit.errors import ConfigError
from effvit.model.checkpoints import WeightsInfo
from effvit.model.side_by_side import find_models


def test_models_side_by_side_have_labels_of_their_own(tmp_path: Path) -> None:
    for place in ("a", "b"):
        effvit.save(tmp_path / place / "run", effvit.create_model("efficientvit_tiny", image_size=64), WeightsInfo())
    found = find_models([tmp_path / "a" / "run", tmp_path / "b" / "run", "efficientvit_tiny"])
    assert [model.label for model in found] == ["run", "run (2)", "efficientvit_tiny"]
    assert find_models(found) == found
    network = nn.Conv2d(3, 1, 1)
    for twice, name in (
        (["efficientvit_tiny"] * 2, "efficientvit_tiny"),
        ([tmp_path / "a" / "run", f"{tmp_path}/b/../a/run"], f"{tmp_path}/b/../a/run"),
        ([network] * 2, "Conv2d"),
        ([found[0]] * 2, "run"),
    ):
        with pytest.raises(ConfigError, match=f"^a model can take part once only, got twice: {re.escape(name)}$"):
            find_models(twice)
    with pytest.raises(ConfigError, match="^at least one model is needed, got none$"):
        find_models([])
