"""Tests of effvit.analysis.ratios.spread."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from effvit.analysis.ratios.spread import count_for, multiples, spread_evenly
from effvit.errors import ConfigError


@given(st.integers(1, 60).flatmap(lambda layers: st.tuples(st.just(layers), st.integers(0, layers))))
def test_the_number_is_met_and_every_stretch_has_its_part(numbers: tuple[int, int]) -> None:
    num_layers, num_attention = numbers
    row = spread_evenly(num_layers, num_attention)
    assert len(row) == num_layers and sum(row) == num_attention
    for start in range(num_layers):
        for end in range(start + 1, num_layers + 1):
            expected = (end - start) * num_attention / num_layers
            assert abs(sum(row[start:end]) - expected) < 1, "no stretch has one too many or too few"


def test_the_usual_networks_are_among_them() -> None:
    assert spread_evenly(6, 3) == (True, False) * 3, "a transformer: attention, then feed-forward"
    assert spread_evenly(9, 3) == (False, True, False) * 3, "the sandwich"


@pytest.mark.parametrize("num_attention", [-1, 7])
def test_no_more_attention_than_layers(num_attention: int) -> None:
    with pytest.raises(ConfigError, match=f"of 6 layers 0 to 6 can be attention, got {num_attention}"):
        spread_evenly(6, num_attention)


def test_counts_are_the_nearest() -> None:
    assert [count_for(share, 24) for share in (0, 0.2, 0.4, 0.5, 0.6, 0.8, 1)] == [0, 5, 10, 12, 14, 19, 24]
    with pytest.raises(ConfigError, match=r"a share of attention must be in 0..1, got 20"):
        count_for(20, 24)


@given(st.lists(st.floats(8, 500), min_size=1, max_size=40))
def test_multiples_add_up_to_what_they_stand_for(exact: list[float]) -> None:
    rounded = multiples(exact, 8)
    assert all(number % 8 == 0 and number >= 8 for number in rounded)
    for end in range(1, len(exact) + 1):
        assert abs(sum(rounded[:end]) - sum(exact[:end])) <= 8


def test_multiples_leave_multiples_alone() -> None:
    assert multiples([64, 768, 8], 8) == [64, 768, 8]
    assert multiples([163] * 5, 8) == [160, 168, 160, 168, 160]
