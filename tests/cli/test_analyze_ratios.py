"""The verb `effvit analyze ratios`: what it refuses, and what it says before it measures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from effvit.cli import analyze_ratios
from effvit.errors import ConfigError


@pytest.fixture
def app() -> typer.Typer:
    app = typer.Typer()
    app.callback()(lambda: None)
    analyze_ratios.register(app)
    return app


def run(app: typer.Typer, *arguments: str) -> str:
    result = CliRunner().invoke(app, ["ratios", *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_a_dry_run_lists_the_networks_and_measures_nothing(app: typer.Typer) -> None:
    arguments = ("efficientvit_tiny", "--dry-run", "--image-size", "64", "--shares", "0,100", "--speed", "1.25,1.5")
    rows = json.loads(run(app, *arguments, "--json"))
    assert [(row["speed"], row["num_attention"]) for row in rows] == [
        (speed, count) for speed in (1.25, 1.5) for count in (0, 12)
    ]
    assert all(row["num_macs"] > 0 and row["num_params"] > 0 for row in rows)
    assert "AAAAAAAAAAAA" in run(app, *arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["deit_tiny"], "ratios need --output DIR"),
        (["vgg", "--dry-run"], "unknown family 'vgg'"),
        (
            ["deit_tiny", "--dry-run", "--shares", "0,x"],
            "--shares must be numbers from 0 up .* got '0,x'",
        ),
        (
            ["deit_tiny", "--dry-run", "--shares", "0,120"],
            "^--shares must be different percentages from 0 to 100, got '0,120'$",
        ),
        (
            ["deit_tiny", "--dry-run", "--shares", "50,50"],
            "^--shares must be different percentages from 0 to 100, got '50,50'$",
        ),
        (["deit_tiny", "--dry-run", "--speed", "0"], "speeds must be above 0"),
        (["deit_tiny", "--dry-run", "--width", "20"], "must be a multiple of 8, got 20"),
        (["deit_tiny", "swin_tiny", "--dry-run", "--width", "48"], "widths must be as many as families, 2"),
        (["deit_tiny", "--dry-run", "--seeds", "0,0"], "--seeds must be different whole numbers"),
        (["deit_tiny", "--dry-run", "--tolerance", "0"], "--tolerance must be above 0 and below 100 percent, got 0"),
        (["deit_tiny", "--dry-run", "--image-size", "70"], "height and width must be multiples of 8"),
        (["deit_tiny", "--dry-run", "--epochs", "2", "--set", "epochs=3"], "epochs is given by a flag and by --set"),
        (["deit_tiny", "--dry-run", "--set", "window=4"], "--set window has no effect here: FAMILY decides it"),
        (["deit_tiny", "--dry-run", "--set", "seed=1"], "--set seed has no effect here: --seeds decides it"),
        (["deit_tiny", "--dry-run", "--recipe", "imagenet_distilled"], "a study trains on labels alone"),
    ],
)
def test_what_it_refuses_is_one_line(app: typer.Typer, arguments: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        run(app, *arguments)
    assert "\n" not in str(caught.value)


def test_pictures_that_are_not_there_leave_nothing_behind(app: typer.Typer, tmp_path: Path) -> None:
    from effvit.errors import DataError

    with pytest.raises(DataError):
        run(app, "deit_tiny", "--data", str(tmp_path / "none"), "--image-size", "64", "--output", str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()
