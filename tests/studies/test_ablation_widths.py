from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from effvit.analysis.ablations import find_ablations
from effvit.analysis.scaling import Match
from effvit.errors import ConfigError, RunError
from effvit.files import read_json
from effvit.model.resizing import with_windows
from effvit.model.variants import VARIANTS
from effvit.studies import ablation_widths
from effvit.studies.ablation_widths import SpeedSettings, build, find_widths
from effvit.timing import Spread

BASE = replace(with_windows(VARIANTS["efficientvit_tiny"], image_size=32), num_classes=3)
ROWS = find_ablations(["2", "8"])


def weight(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[nn.Module, nn.Module], float]], None]:
    """Puts a machine in place that is as fast as it is told to be."""

    def install(speed: Callable[[nn.Module, nn.Module], float]) -> None:
        class Meter:
            def __init__(self, **options: Any) -> None:
                assert options["input_size"] == (3, 32, 32)

            def __call__(self, network: nn.Module, baseline: nn.Module, rounds: int) -> Spread:
                value = speed(network, baseline)
                return Spread(value, value, value)

        monkeypatch.setattr(ablation_widths, "SpeedMeter", Meter)

    return install


def lighter_is_faster(network: nn.Module, baseline: nn.Module) -> float:
    return weight(baseline) / weight(network)


def never(network: nn.Module, baseline: nn.Module) -> float:
    raise AssertionError("what is kept is not measured again")


def test_widths_are_found_and_kept(machine: Any, tmp_path: Path) -> None:
    machine(lighter_is_faster)
    settings = SpeedSettings(tolerance=0.1)
    found = find_widths(ROWS, BASE, tmp_path, settings)
    assert list(found) == ["2", "8"]
    for row in ROWS[1:]:
        match = found[row.key]
        assert isinstance(match, Match)
        scaled = build(row.config(BASE, percent=match.width))
        assert abs(weight(build(BASE)) / weight(scaled) - 1) < 0.1
        assert (match.width > 100) == (row.key == "2")  # the Swin block is lighter, FFN ratio 4 heavier
    machine(never)
    told = []
    assert find_widths(ROWS, BASE, tmp_path, settings, on_row=lambda row, match: told.append(row.key)) == found
    assert told == ["2", "8"]
    more = find_ablations(["2", "8", "9"])
    machine(lighter_is_faster)
    assert list(find_widths(more, BASE, tmp_path, settings)) == ["2", "8", "9"]


def test_widths_of_other_settings_are_refused(machine: Any, tmp_path: Path) -> None:
    machine(lighter_is_faster)
    settings = SpeedSettings(tolerance=0.1)
    find_widths(ROWS, BASE, tmp_path, settings)
    for base, other in ((BASE, replace(settings, batch_size=1)), (replace(BASE, num_classes=4), settings)):
        with pytest.raises(RunError, match=r"2\.json was found with other settings: give another folder, or remove"):
            find_widths(ROWS, base, tmp_path, other)


def test_a_row_that_cannot_have_the_speed_is_told_and_tried_again(machine: Any, tmp_path: Path) -> None:
    machine(lambda network, baseline: 2.0)
    found = find_widths(ROWS, BASE, tmp_path, SpeedSettings())
    reason = found["2"]
    assert isinstance(reason, str)
    assert reason.startswith("no width has 1 times the baseline's speed within 6 %")
    assert list(tmp_path.iterdir()) == []
    machine(lighter_is_faster)
    assert isinstance(find_widths(ROWS, BASE, tmp_path, SpeedSettings(tolerance=0.1))["2"], Match)
    assert read_json(tmp_path / "2.json")["settings"]["speed"]["tolerance"] == 0.1


def test_a_built_network_is_always_the_same() -> None:
    state = torch.random.get_rng_state()
    first, second = build(BASE).state_dict(), build(BASE).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert torch.equal(state, torch.random.get_rng_state())


def test_settings_that_are_not_allowed() -> None:
    with pytest.raises(ConfigError, match="speed: batch_size must be at least 1, got 0; num_threads must be at least"):
        SpeedSettings(batch_size=0, num_threads=0)


def test_the_clock() -> None:
    assert SpeedSettings().clock_of("cpu") == "processor"
    assert SpeedSettings(num_threads=2).clock_of("cpu") == "wall"
    assert SpeedSettings().clock_of("cuda") == "wall"


def test_where_no_width_comes_near_the_papers_own_spread_will_do(machine: Any, tmp_path: Path) -> None:
    """Widths in steps: processors like some multiples, and between two of them there may be nothing."""

    def in_steps(step: float) -> Callable[[nn.Module, nn.Module], float]:
        return lambda network, baseline: 1 + step if weight(network) <= weight(baseline) else 0.5

    machine(in_steps(0.05))
    found = find_widths(find_ablations(["6"]), BASE, tmp_path / "near", SpeedSettings())
    assert isinstance(found["6"], Match) and found["6"].achieved == pytest.approx(1.05)
    machine(in_steps(0.08))
    found = find_widths(find_ablations(["6"]), BASE, tmp_path / "far", SpeedSettings())
    assert isinstance(found["6"], str) and "within 6 %" in found["6"]
