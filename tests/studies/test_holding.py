"""Two processes never train into one run folder."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from effvit.errors import RunError
from effvit.studies.holding import held

pytest.importorskip("fcntl", reason="this system has no such locks")


def test_a_place_is_held_until_the_end_of_the_block_or_of_the_process(tmp_path: Path) -> None:
    place = tmp_path / "row1-0"
    code = f"""
import sys
from pathlib import Path
from effvit.studies.holding import held
with held(Path({str(place)!r})):
    print("held", flush=True)
    sys.stdin.read()
"""
    other = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with other:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        with pytest.raises(RunError, match=r"row1-0 is being trained by another process; wait"), held(place):
            raise AssertionError("nothing may be done")
        with held(tmp_path / "row2-0"):
            other.kill()
            other.wait()
    with held(place):
        assert not place.exists()
    assert list(tmp_path.iterdir()) == []
