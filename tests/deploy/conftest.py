"""One network that hides nothing and its exported files, each written once: an export takes seconds to minutes."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
from collections.abc import Callable
from typing import Any

import pytest
from filelock import FileLock
from helpers import randomise

from effvit.deploy.export import Exported, export
from effvit.deploy.formats.table import FORMATS
from effvit.model.checkpoints import WeightsInfo
from effvit.model.factory import create_model
from effvit.model.network import EfficientViT
from effvit.preprocessing import Preprocessing

SIZE = (160, 272)
"""Maps of 10 x 17: windows are cut, padded in both directions, and masked."""
CLASS_NAMES = ("apple", "Käse", "米", 'a "quoted" name', "zucchini")

ExportOnce = Callable[..., tuple[Exported, str]]
"""(file_format, **arguments of `export`) -> the file, and all that was printed while it was written."""


@pytest.fixture(scope="session")
def network() -> EfficientViT:
    """Float64, distilled, in eval mode."""
    model = create_model("efficientvit_tiny", num_classes=len(CLASS_NAMES), distilled=True)
    randomise(model.double())
    return model.eval()


@pytest.fixture(scope="session")
def info() -> WeightsInfo:
    preprocessing = Preprocessing(interpolation="bilinear", crop_ratio=1.0)
    return WeightsInfo(class_names=CLASS_NAMES, preprocessing=preprocessing, provenance={"data": "a test"})


@pytest.fixture(scope="session")
def export_once(network: EfficientViT, info: WeightsInfo, tmp_path_factory: pytest.TempPathFactory) -> ExportOnce:
    """Once for all of pytest-xdist's workers too: what one has written, the others read."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent

    def once(file_format: str, **arguments: Any) -> tuple[Exported, str]:
        key = "-".join([file_format, *(f"{name}={value}" for name, value in sorted(arguments.items()))])
        place = folder / "exported" / key
        place.parent.mkdir(exist_ok=True)
        with FileLock(f"{place}.lock"):
            if not (kept := place.with_name(f"{key}.result")).exists():
                place.mkdir(exist_ok=True)
                printed = io.StringIO()
                with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
                    path = place / f"tiny{FORMATS[file_format].suffix}"
                    result = export(network, path, info=info, image_size=SIZE, file_format=file_format, **arguments)
                kept.write_bytes(pickle.dumps((result, printed.getvalue())))
            found: tuple[Exported, str] = pickle.loads(kept.read_bytes())  # what this file wrote
        return found

    return once


@pytest.fixture(scope="session")
def exported(export_once: ExportOnce) -> tuple[Exported, str]:
    """The plain ONNX file, and all that was printed while it was written."""
    return export_once("onnx")
