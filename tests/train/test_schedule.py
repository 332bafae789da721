from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from effvit.errors import ConfigError, RunError
from effvit.train.config import TrainConfig
from effvit.train.optimizer import learning_rate_at
from effvit.train.schedule import check_drawing_path, learning_rates, write_schedule


@given(st.integers(1, 300), st.integers(1, 30), st.integers(2, 100), st.sampled_from(["step", "epoch"]))
def test_points_are_on_the_schedule_and_reach_both_ends(
    epochs: int, steps_per_epoch: int, num_points: int, unit: str
) -> None:
    config = TrainConfig(epochs=epochs, schedule_unit=unit)
    places, rates = learning_rates(config, steps_per_epoch, num_points=num_points)
    num_steps = epochs * steps_per_epoch
    assert len(places) == len(rates) == min(num_points, num_steps)
    assert places == sorted(places)
    steps = [round(place * steps_per_epoch) for place in places]
    assert (steps[0], steps[-1]) == (0, num_steps - 1)
    expected = [learning_rate_at(step, num_steps, config, steps_per_epoch=steps_per_epoch) for step in steps]
    assert rates == expected


@pytest.mark.parametrize("unit", ["step", "epoch"])
def test_drawing(unit: str, tmp_path: Path) -> None:
    config = TrainConfig(schedule_unit=unit, freeze_backbone_epochs=2)
    write_schedule(tmp_path / "schedule.png", config, steps_per_epoch=10)
    write_schedule(
        tmp_path / "plain.png", replace(config, warmup_share=0, freeze_backbone_epochs=0), steps_per_epoch=10
    )
    with Image.open(tmp_path / "schedule.png") as drawn, Image.open(tmp_path / "plain.png") as plain:
        assert drawn.tobytes() != plain.tobytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["plain.png", "schedule.png"]


@pytest.mark.parametrize("name", ["schedule", "schedule.txt", "run/"])
def test_only_pictures_are_drawn(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="must be a file ending in .png, .svg, .pdf"):
        write_schedule(tmp_path / name, TrainConfig(), 10)


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no folder .*nowhere"):
        check_drawing_path(tmp_path / "nowhere" / "schedule.png")


def test_a_folder_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "schedule.png").mkdir()
    with pytest.raises(RunError, match="cannot write .*schedule.png"):
        write_schedule(tmp_path / "schedule.png", TrainConfig(), 10)
