"""From a weights file to named tensors and back, alone or with their description, never running what it contains."""

from __future__ import annotations

import argparse
import json
import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from effvit.errors import RunError, WeightsError, first_line
from effvit.files import atomic_path, make_output_folder, write_json

CONFIG_FILE = "config.json"
"""Name of the description in a folder of ours."""
WEIGHTS_FILE = "model.safetensors"
"""Name of the weights in a folder of ours, and in timm's repositories."""


def weights_file_in(folder: Path) -> Path:
    """The weights file of a weights folder or a run folder; WeightsError if there is none."""
    for candidate in (folder / WEIGHTS_FILE, folder / "weights" / WEIGHTS_FILE, folder / "pytorch_model.bin"):
        if candidate.is_file():
            return candidate
    raise WeightsError(f"no weights in folder {folder}: neither {WEIGHTS_FILE} nor weights/{WEIGHTS_FILE}")


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file by name, unwrapped from `model` or `state_dict`; nothing in it is run as code.

    Raises:
        WeightsError: If it is damaged, or holds more than weights.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        # The official training script stores its command line, an argparse.Namespace: plain attributes.
        with warnings.catch_warnings(), torch.serialization.safe_globals([argparse.Namespace]):
            warnings.simplefilter("ignore")  # torch wonders aloud about files that it then refuses
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # Not in torch's words: they advise to switch the safety off.
        raise WeightsError(f"{path} is refused: it is no checkpoint, or holds code, which is never run") from error
    except Exception as error:  # a damaged file makes torch's reader stumble anywhere
        raise WeightsError(f"cannot read weights from {path}: {first_line(error)}") from error
    for key in ("model", "state_dict"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict):
        raise WeightsError(f"{path} holds a {type(content).__name__}, not a state dict")
    return {str(name).removeprefix("module."): v for name, v in content.items() if isinstance(v, Tensor)}


def write_tensors(path: Path, state: dict[str, Tensor]) -> None:
    """Write a safetensors file, or for any other ending a torch checkpoint `{"model": ...}`; atomically.

    Raises:
        RunError: If the place cannot be written, or is full.
    """
    with atomic_path(path) as temporary:
        if path.suffix != ".safetensors":
            torch.save({"model": state}, temporary)
            return
        try:
            save_file({name: value.contiguous() for name, value in state.items()}, temporary, metadata={"format": "pt"})
        except SafetensorError as error:  # a full disk is one, and no OSError
            raise RunError(f"cannot write {path}: {first_line(error)}") from error


def write_weights_folder(folder: Path | str, description: Mapping[str, Any], state: dict[str, Tensor]) -> Path:
    """Write weights and what they are as a folder of ours, each file atomically; returns the folder.

    Raises:
        WeightsError: If the description, of which provenance is what a caller gives, is no plain JSON.
        RunError: If the folder cannot be written.
    """
    try:
        json.dumps(description)
    except (TypeError, ValueError) as error:
        raise WeightsError(f"provenance must be plain JSON values: {error}") from error
    folder = make_output_folder(folder)
    write_tensors(folder / WEIGHTS_FILE, state)
    write_json(folder / CONFIG_FILE, description)
    return folder
