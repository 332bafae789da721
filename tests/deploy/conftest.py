"""One network that hides nothing and its exported files, each written once: an export takes seconds to minutes."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from typing import Any

import pytest
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
    made: dict[tuple[Any, ...], tuple[Exported, str]] = {}

    def once(file_format: str, **arguments: Any) -> tuple[Exported, str]:
        key = (file_format, *sorted(arguments.items()))
        if key not in made:
            path = tmp_path_factory.mktemp("exported") / f"tiny{FORMATS[file_format].suffix}"
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
                result = export(network, path, info=info, image_size=SIZE, file_format=file_format, **arguments)
            made[key] = result, printed.getvalue()
        return made[key]

    return once


@pytest.fixture(scope="session")
def exported(export_once: ExportOnce) -> tuple[Exported, str]:
    """The plain ONNX file, and all that was printed while it was written."""
    return export_once("onnx")
