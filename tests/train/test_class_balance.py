from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.utils.class_weight import compute_class_weight

from effvit.data.samples import Sample
from effvit.train.class_balance import class_weights, count_classes

counts = st.lists(st.integers(1, 5000), min_size=1, max_size=50)


def weights(kind: str, class_counts: list[int]) -> list[float]:
    found = class_weights(kind, class_counts)
    assert found is not None
    return found.tolist()


@given(counts)
def test_inverse_frequency_is_scikit_learns(class_counts: list[int]) -> None:
    targets = np.repeat(np.arange(len(class_counts)), class_counts)
    expected = compute_class_weight("balanced", classes=np.arange(len(class_counts)), y=targets)
    assert weights("inverse", class_counts) == pytest.approx(expected.tolist())


@given(counts, st.sampled_from(["inverse", "effective"]))
def test_mean_over_the_pictures_is_one(class_counts: list[int], kind: str) -> None:
    assert np.average(weights(kind, class_counts), weights=class_counts) == pytest.approx(1)


@given(counts)
def test_effective_number_is_milder_and_keeps_the_order(class_counts: list[int]) -> None:
    inverse, effective = weights("inverse", class_counts), weights("effective", class_counts)
    assert max(effective) / min(effective) <= max(inverse) / min(inverse) * (1 + 1e-9)
    by_count = [weight for _, weight in sorted(zip(class_counts, effective, strict=True))]
    assert all(rare >= common * (1 - 1e-9) for rare, common in itertools.pairwise(by_count))


def test_effective_number_by_hand() -> None:
    """Median 10, so b = 0.9: 1, 6.513 and 9.948 effective pictures of 1, 10 and 50."""
    effective = np.array([1.0, (1 - 0.9**10) / 0.1, (1 - 0.9**50) / 0.1])
    expected = 1 / effective
    expected /= np.average(expected, weights=[1, 10, 50])
    assert weights("effective", [1, 10, 50]) == pytest.approx(expected.tolist())


@pytest.mark.parametrize("kind", ["inverse", "effective"])
def test_equal_classes_have_equal_weights(kind: str) -> None:
    assert weights(kind, [7, 7, 7]) == pytest.approx([1, 1, 1])


@pytest.mark.parametrize("kind", ["inverse", "effective"])
def test_a_class_without_pictures_weighs_nothing(kind: str) -> None:
    with_empty, without = weights(kind, [5, 0, 10]), weights(kind, [5, 10])
    assert with_empty[1] == 0
    assert [with_empty[0], with_empty[2]] == pytest.approx(without)


def test_none() -> None:
    assert class_weights("none", [1, 2]) is None


def test_counts() -> None:
    samples = [Sample(Path("x"), target) for target in (2, 0, 2, 2)]
    assert count_classes(samples, 4) == [1, 0, 3, 0]
