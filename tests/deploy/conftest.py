"""One network that hides nothing and its one exported file: an export takes seconds to minutes."""

from __future__ import annotations

import contextlib
import io

import pytest
from helpers import randomise

from effvit.deploy.export import Exported, export
from effvit.model.checkpoints import WeightsInfo
from effvit.model.factory import create_model
from effvit.model.network import EfficientViT
from effvit.preprocessing import Preprocessing

SIZE = (160, 272)
"""Maps of 10 x 17: windows are cut, padded in both directions, and masked."""
CLASS_NAMES = ("apple", "Käse", "米", 'a "quoted" name', "zucchini")


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
def exported(
    network: EfficientViT, info: WeightsInfo, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Exported, str]:
    """The file, and all that was printed while it was written."""
    path = tmp_path_factory.mktemp("exported") / "tiny.onnx"
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        result = export(network, path, info=info, image_size=SIZE)
    return result, printed.getvalue()
