"""Tests of effvit.analysis.scaling: the search against invented machines."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from torch import nn

from effvit.analysis.scaling import MAX_CONFIRMATIONS, Match, Trial, match_speed
from effvit.errors import ConfigError
from effvit.timing import Spread


class Sized(nn.Module):
    """A network that is nothing but its width."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width


def machine(time_of: Callable[[float], float], *, noise: float = 0.0) -> Callable[..., Spread]:
    """An invented machine: the time of a width, and noise that more rounds average out."""
    generator = random.Random(0)

    def measure(network: nn.Module, baseline: nn.Module, rounds: int) -> Spread:
        ratio = time_of(float(baseline.width)) / time_of(float(network.width))  # type: ignore[arg-type]
        factor = 1 + noise * generator.gauss(0, 1) / rounds**0.5
        return Spread(ratio * factor, ratio * factor * (1 - 0.67 * noise), ratio * factor * (1 + 0.67 * noise))

    return measure


MACHINES: dict[str, Callable[[float], float]] = {
    "products": lambda width: width**2,
    "overhead": lambda width: 50_000 + width**2,
    "element-wise": lambda width: 10 + width,
    "likes multiples of 8": lambda width: (100 + width**2) * (1.0 if width % 8 == 0 else 1.04),
}


@pytest.mark.parametrize(
    ("name", "speed"),
    # Not faster than the overhead alone.
    [(name, speed) for name in MACHINES for speed in (0.6, 1.0, 1.25, 1.5) if (name, speed) != ("overhead", 1.5)],
)
def test_the_width_found_has_the_speed(name: str, speed: float) -> None:
    time_of = MACHINES[name]
    measure = machine(time_of)
    match = match_speed(Sized, range(4, 512), Sized(192), measure=measure, speed=speed)
    assert abs(time_of(192) / time_of(match.width) / speed - 1) <= 0.03
    assert match.achieved == pytest.approx(match.confirmed.speed.median / speed)
    assert len(match.trials) <= 14, "a search that measures nearly everything is none"


@pytest.mark.parametrize("seed_speed", [0.8, 1.1, 1.3, 1.45])
def test_noise_is_averaged_out(seed_speed: float) -> None:
    match = match_speed(
        Sized, range(16, 400, 2), Sized(192), measure=machine(lambda w: w**2, noise=0.05), speed=seed_speed
    )
    true_speed = (192 / match.width) ** 2
    assert abs(true_speed / seed_speed - 1) <= 0.06, "the measured speed may be off by what the noise leaves"
    assert match.confirmed.rounds == 31
    assert 0 < match.confirmed.error < 0.02


def test_a_start_that_fits_is_confirmed_at_once() -> None:
    match = match_speed(Sized, range(4, 512), Sized(192), measure=machine(lambda w: w**2), start=192)
    assert match.width == 192
    assert [trial.rounds for trial in match.trials] == [7, 31]


def test_every_measurement_is_told() -> None:
    told: list[Trial] = []
    match = match_speed(Sized, range(4, 512), Sized(192), measure=machine(lambda w: w**2), on_trial=told.append)
    assert tuple(told) == match.trials


@pytest.mark.parametrize(
    ("widths", "speed", "message"),
    [
        (
            range(128, 256),
            100.0,
            r"^it: cannot reach 100 times the baseline's speed: the narrowest .* width 128, has 2.2",
        ),
        (
            range(16, 64),
            1.0,
            r"^it: cannot be as slow as 1 times the baseline's speed: the widest .* width 63, has 9.29x",
        ),
        ([100, 150, 200, 250], 1.2, r"^it: no width has 1.2 times .* within 3 %; nearest: 150 .1.64x., 200 .0.922x.;"),
    ],
)
def test_no_match_is_one_clear_line(widths: range, speed: float, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        match_speed(Sized, widths, Sized(192), measure=machine(lambda w: w**2), speed=speed, label="it")
    assert "\n" not in str(caught.value)


def test_a_machine_of_pure_noise_ends_the_search() -> None:
    generator = random.Random(1)
    counted = 0

    def measure(network: nn.Module, baseline: nn.Module, rounds: int) -> Spread:
        nonlocal counted
        counted += 1
        value = generator.choice([0.5, 2.0])
        return Spread(value, value, value)

    with pytest.raises(ConfigError, match="nearest|cannot"):
        match_speed(Sized, range(1, 2000), Sized(192), measure=measure)
    assert counted <= 20 + MAX_CONFIRMATIONS


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"widths": []}, "no widths to try"),
        ({"widths": [0, 8]}, "widths must be positive, got 0"),
        ({"speed": 0.0}, "speed must be above 0, got 0.0"),
        ({"speed": float("nan")}, "speed must be above 0, got nan"),
        ({"tolerance": 1.0}, "tolerance must be above 0 and below 1, got 1.0"),
        ({"rounds": 0}, "rounds must be at least 1, got 0 and 31"),
    ],
)
def test_wrong_numbers_are_refused(change: dict[str, object], message: str) -> None:
    arguments: dict[str, object] = {"widths": [8, 16], "speed": 1.0, **change}
    with pytest.raises(ConfigError, match=message):
        match_speed(Sized, baseline=Sized(8), measure=machine(float), **arguments)  # type: ignore[arg-type]


def test_match_survives_json() -> None:
    match = match_speed(Sized, range(4, 512), Sized(192), measure=machine(lambda w: w**2, noise=0.02), speed=1.25)
    assert Match.from_dict(match.to_dict()) == match
