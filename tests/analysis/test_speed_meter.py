"""Tests of effvit.analysis.speed_meter against networks of known cost, and of a search with it."""

from __future__ import annotations

import time

import pytest
import torch
from torch import Tensor, nn

from effvit.analysis.scaling import match_speed
from effvit.analysis.speed_meter import CONTROL, SpeedMeter
from effvit.errors import ConfigError


class Spinning(nn.Module):
    """Uses this much processor time, whatever else the machine does."""

    def __init__(self, milliseconds: float) -> None:
        super().__init__()
        self.seconds = milliseconds / 1e3

    def forward(self, images: Tensor) -> Tensor:
        assert not self.training
        end = time.process_time() + self.seconds
        while time.process_time() < end:
            pass
        return images


def test_the_meter_measures_relative_speed() -> None:
    meter = SpeedMeter(input_size=(3, 8, 8), batch_size=2, round_seconds=0.002, warmup_seconds=0.002)
    assert meter.clock == "processor"
    assert meter(Spinning(1), Spinning(2), 9).median == pytest.approx(2, rel=0.15)
    together = meter.together({"slow": Spinning(4), "fast": Spinning(1)}, Spinning(2), 9)
    assert list(together) == ["slow", "fast", CONTROL]
    expected = {"slow": 0.5, "fast": 2.0, CONTROL: 1.0}
    assert {label: speed.median for label, speed in together.items()} == pytest.approx(expected, rel=0.15)


def test_a_network_is_brought_to_its_speed() -> None:
    meter = SpeedMeter(input_size=(3, 8, 8), batch_size=2, round_seconds=0.002, warmup_seconds=0.002)
    match = match_speed(
        lambda width: Spinning(width / 16), range(8, 64), Spinning(2), measure=meter, speed=1.25, tolerance=0.1
    )
    assert match.width / 16 == pytest.approx(2 / 1.25, rel=0.15)


def test_the_form_that_is_prepared_is_what_runs() -> None:
    calls: list[tuple[int, ...]] = []

    class Told(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            calls.append(tuple(images.shape))
            assert torch.is_inference_mode_enabled()
            return images

    meter = SpeedMeter(input_size=(1, 4, 6), batch_size=5, prepare=lambda _: Told(), round_seconds=0, warmup_seconds=0)
    meter(nn.Identity(), nn.Identity(), 1)
    assert set(calls) == {(5, 1, 4, 6)}


@pytest.mark.parametrize(("rounds", "copies"), [(1, 1), (5, 1), (7, 2), (31, 8)])
def test_networks_are_copied_after_some_rounds(rounds: int, copies: int) -> None:
    """Where weights lie in memory changes a speed; the rounds are those asked for."""
    places: dict[int, int] = {}

    class Placed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1))

        def forward(self, images: Tensor) -> Tensor:
            kept.append(self.weight)  # so that no place is used twice
            places[self.weight.data_ptr()] = places.get(self.weight.data_ptr(), 0) + 1
            return images

    kept: list[Tensor] = []
    meter = SpeedMeter(input_size=(1, 4, 4), batch_size=1, round_seconds=0, warmup_seconds=0)
    meter(Placed(), Placed(), rounds)
    assert len(places) == 2 * copies
    num_warmups = min(places.values()) - rounds // copies
    assert sum(places.values()) == 2 * (rounds + copies * num_warmups)


def test_several_threads_are_timed_by_the_wall() -> None:
    assert SpeedMeter(input_size=(3, 8, 8), num_threads=2).clock == "wall"
    assert SpeedMeter(input_size=(3, 8, 8), device="cuda").clock == "wall"


def test_a_device_that_is_left_open_has_a_clock() -> None:
    expected = "wall" if torch.cuda.is_available() else "processor"
    assert SpeedMeter(input_size=(3, 8, 8), device="auto").clock == expected


def test_the_name_of_the_control_is_taken() -> None:
    with pytest.raises(ConfigError, match="no network may be called 'control'"):
        SpeedMeter(input_size=(3, 8, 8)).together({CONTROL: nn.Identity()}, nn.Identity(), 1)
