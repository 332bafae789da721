"""What several test files share: where the real data is, and networks whose numbers hide nothing."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings
from matplotlib.figure import Figure
from photos import unpack_photos
from PIL import Image

# These machines are shared: how long an example takes decides nothing.
settings.register_profile("effvit", deadline=None)
settings.load_profile("effvit")

# Two test processes share two cores: threads beyond one each only wait for each other.
torch.set_num_threads(1)

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder of real photos, weights and reference outputs; skips where there is none."""
    folder = Path(os.environ.get("EFFVIT_TEST_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no test data: set EFFVIT_TEST_DATA to its folder (looked in {folder})")
    return folder


@pytest.fixture(scope="session")
def photos(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of ten real photos; read only."""
    return unpack_photos(data_dir, tmp_path_factory.mktemp("photos"), num_classes=3, per_class=10)


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every PNG that matplotlib would draw is a black dot, for tests of something else.

    A figure takes a third of a second, a run has one after each epoch, an evaluation has six. Each is drawn for
    real in the tests of its own module, and one of each kind in those of the verb that writes it.
    """
    draw = Figure.savefig

    def savefig(figure: Figure, place: Any, **options: Any) -> None:
        if options.get("format", "png") == "png":
            Image.new("RGB", (8, 8)).save(place, format="png")
        else:
            draw(figure, place, **options)

    monkeypatch.setattr(Figure, "savefig", savefig)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
