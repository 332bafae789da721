from __future__ import annotations

from pathlib import Path

import pytest

from effvit.errors import RunError
from effvit.files import write_json
from effvit.studies.kept import as_json, read_kept, read_same

SETTINGS = {"sizes": (32, 64), "speed": 1.25}


def test_what_was_found_with_the_same_settings_is_taken(tmp_path: Path) -> None:
    path, asked = tmp_path / "found.json", as_json(SETTINGS)
    assert read_kept(path, asked) is None and read_same(path, asked) is None
    write_json(path, {"settings": SETTINGS, "width": 8})
    assert read_kept(path, asked) == read_same(path, asked) == {"settings": asked, "width": 8}


def test_what_was_found_with_others_is_refused_or_made_anew(tmp_path: Path) -> None:
    path, other = tmp_path / "found.json", as_json({**SETTINGS, "speed": 1.5})
    write_json(path, {"settings": SETTINGS})
    with pytest.raises(RunError, match=r"found.json was found with other settings: give another folder, or remove"):
        read_kept(path, other)
    assert read_same(path, other) is None
    path.write_text("{")
    for read in (read_kept, read_same):
        with pytest.raises(RunError, match=r"found.json is not valid JSON"):
            read(path, other)
