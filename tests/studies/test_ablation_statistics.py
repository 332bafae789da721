from __future__ import annotations

import math

import numpy as np
import pytest
from ablation_studies import a_study
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr

from effvit.studies.ablation_statistics import chance, compared, difference, rank_correlation


def test_differences_are_taken_seed_by_seed() -> None:
    study = a_study({"1": {0: 0.5, 1: 0.6, 2: None}, "5": {0: 0.4, 1: 0.55, 2: 0.9}})
    found = difference(study, study.versions[1])
    assert found is not None
    assert found.by_seed == pytest.approx({0: -10.0, 1: -5.0})
    assert found.mean == pytest.approx(-7.5)


def test_what_failed_is_not_compared() -> None:
    study = a_study({"1": {0: 0.5}, "5": {0: None}, "6": {0: 0.5}})
    assert [version.ablation.key for version, _ in compared(study)] == ["6"]
    assert chance(a_study({"1": {0: None}, "5": {0: 0.5}})) is None


def test_a_row_whose_scaled_widths_are_the_bases_counts_in_both() -> None:
    study = a_study({"1": {0: 0.5}, "11": {0: 0.6}}, {"11": (100, {0: 0.6})})
    assert [(version.rescaled, round(found.mean)) for version, found in compared(study)] == [(False, 10), (True, 10)]
    assert len(study.trained) == 2


def test_one_seed_tells_nothing_of_the_spread() -> None:
    limit = chance(a_study({"1": {0: 0.5}, "5": {0: 0.4}}, num_val=200))
    assert limit is not None and limit.seeds is None
    assert limit.sampling == pytest.approx(5.0)
    assert limit.limit == pytest.approx(9.8)


def test_a_few_pictures_all_right_are_no_certainty() -> None:
    limit = chance(a_study({"1": {0: 1.0}, "5": {0: 0.9}}, num_val=8))
    assert limit is not None
    assert limit.sampling == pytest.approx(100 * math.sqrt(2 * 0.9 * 0.1 / 8))  # as if one more were wrong, one right


def test_the_spread_between_seeds_comes_on_top() -> None:
    # Differences of 1 and 3 points: variance 2, of their mean 1.
    study = a_study({"1": {0: 0.5, 1: 0.5}, "5": {0: 0.51, 1: 0.53}, "6": {0: 0.49, 1: 0.47}}, num_val=200)
    limit = chance(study)
    assert limit is not None and limit.seeds == pytest.approx(1.0)
    assert limit.limit == pytest.approx(1.96 * math.sqrt(26))


def test_chance_goes_beyond_its_limit_once_in_twenty() -> None:
    generator, num_val, share = np.random.default_rng(0), 500, 0.3
    limit = chance(a_study({"1": {0: share}, "5": {0: 0.4}}, num_val=num_val))
    assert limit is not None
    right = generator.binomial(num_val, share, size=(2, 20_000)) / num_val  # two networks that are equally good
    beyond = np.abs(100 * (right[0] - right[1])) > limit.limit
    assert 0.04 < beyond.mean() < 0.06


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=3, max_size=12))
def test_rank_correlation_is_spearmans(pairs: list[tuple[int, int]]) -> None:
    first, second = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    found = rank_correlation(first, second)
    if len(set(first)) == 1 or len(set(second)) == 1:
        assert found is None
    else:
        assert found == pytest.approx(spearmanr(first, second).statistic)


def test_two_rows_have_no_order() -> None:
    assert rank_correlation([1.0, 2.0], [1.0, 2.0]) is None
