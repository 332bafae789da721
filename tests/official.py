"""Checkpoints as the official code writes them, with the weights that `data/reference` fixes by name and shape."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import torch


def reference_values(data_dir: Path) -> ModuleType:
    """The module that fixes every weight by its official name and shape, and every input."""
    spec = importlib.util.spec_from_file_location("reference_values", data_dir / "reference" / "values.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write_official(path: Path, data_dir: Path, values: ModuleType, key: str) -> Path:
    """Write the checkpoint of one of the networks in `official_state_dicts.json`; returns the path."""
    names = json.loads((data_dir / "reference" / "official_state_dicts.json").read_text())
    state = {}
    for name, shape in names[key].items():
        if name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(0)
        elif name.endswith("attention_bias_idxs"):
            state[name] = torch.zeros(shape, dtype=torch.long)
        else:
            state[name] = torch.from_numpy(values.value(name, tuple(shape)))
    torch.save({"model": state}, path)
    return path
