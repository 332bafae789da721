"""Tests of effvit.analysis.width_search, and of the nearest width that it finds."""

from __future__ import annotations

import math

import pytest

from effvit.analysis.scaling import nearest_width
from effvit.analysis.width_search import search
from effvit.timing import Spread


@pytest.mark.parametrize("target", [8, 9, 40, 100, 333, 504])
@pytest.mark.parametrize("power", [0.2, 1.0, 2.0])
def test_the_search_ends_between_two_neighbours(target: int, power: float) -> None:
    widths = range(8, 505, 8)
    tried = search(lambda i: power * math.log(target / widths[i]), widths, None, enough=0.0)
    best = min(range(len(widths)), key=lambda i: abs(math.log(target / widths[i])))
    assert min(tried, key=lambda i: abs(tried[i])) == best
    assert len(tried) <= 9


def test_near_enough_ends_it() -> None:
    assert list(search(lambda i: 0.01, range(1, 100), 50, enough=0.02)) == [49]


def test_the_nearest_of_coarse_widths_is_found_however_far() -> None:
    def measure(network: object, baseline: object, rounds: int) -> Spread:
        return Spread(*[(100 / network) ** 2] * 3)  # type: ignore[operator]

    found = nearest_width(lambda width: width, [32, 64, 96, 128], 100, measure=measure, speed=1.6)  # type: ignore[arg-type, return-value]
    assert found == 96, "of 64 (2.44x) and 96 (1.09x), in ratio"
    assert nearest_width(lambda width: width, [32, 64], 100, measure=measure, speed=0.1) == 64  # type: ignore[arg-type, return-value]
