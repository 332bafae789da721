from __future__ import annotations

from pathlib import Path

import pytest
from photos import unpack_photos


@pytest.fixture(scope="session")
def photos(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of ten photos; read only."""
    return unpack_photos(data_dir, tmp_path_factory.mktemp("photos"), num_classes=3, per_class=10)
