"""A report is written where it was asked for, and over nothing of anybody else's."""

from __future__ import annotations

from pathlib import Path

import pytest

from effvit.cli.analysis_output import report_folder
from effvit.errors import ConfigError
from effvit.files import write_json


def test_a_folder_is_made_and_may_be_used_again(tmp_path: Path) -> None:
    with report_folder(tmp_path / "new") as folder:
        assert folder is not None
        write_json(folder / "record.json", {"analysis": "profile"})
        (folder / "page.html").touch()
    with report_folder(tmp_path / "new") as folder:
        assert folder == tmp_path / "new"
    with report_folder(None, models=["x"], data="y") as nothing:
        assert nothing is None


def test_work_that_fails_leaves_no_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError, match="division"), report_folder(tmp_path / "new"):
        _ = 1 / 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["report.md", "page.html", "weights", "record.json"])
def test_somebody_elses_files_stay(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("{}")
    with pytest.raises(ConfigError, match=rf"^--output .* holds {name}, which no report"), report_folder(tmp_path):
        raise AssertionError("nothing may be done")
    assert (tmp_path / name).read_text() == "{}"


def test_models_runs_and_pictures_are_no_place_for_a_report(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text("{}")
    for place, asked, message in (
        (
            "model",
            {"models": ["timm:resnet18", str(tmp_path / "model")]},
            r"^--output .*model is the model's own folder",
        ),
        ("run", {}, r"^--output .*run is a run folder"),
        ("photos", {"data": str(tmp_path / "photos")}, r"^--output .*photos lies among the pictures of "),
        ("photos/out", {"data": str(tmp_path / "photos")}, r"^--output .*out lies among the pictures of "),
    ):
        (tmp_path / place).mkdir(parents=True, exist_ok=True)
        with pytest.raises(ConfigError, match=message), report_folder(tmp_path / place, **asked):  # type: ignore[arg-type]
            raise AssertionError("nothing may be done")
