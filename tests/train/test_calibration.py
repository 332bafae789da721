from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from evaluations import calibrated_logits, from_logits
from sklearn.calibration import calibration_curve

from effvit.errors import DataError
from effvit.train.calibration import (
    adaptive_calibration_error,
    at_temperature,
    calibrate,
    expected_calibration_error,
    fit_temperature,
    reliability,
)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_temperature_is_found_again(temperature: float) -> None:
    logits, targets = calibrated_logits(20_000, 10)
    found = fit_temperature((logits * temperature).astype(np.float32), targets)
    assert found == pytest.approx(temperature, rel=0.03)


def test_temperature_is_the_least_loss() -> None:
    logits, targets = calibrated_logits(500, 7)
    evaluation = from_logits(logits * 2, targets)
    assert evaluation.logits is not None
    best = fit_temperature(evaluation.logits, targets)
    losses = [at_temperature(evaluation, best * factor).loss for factor in (0.99, 1.0, 1.01)]
    assert losses[1] < losses[0] and losses[1] < losses[2]


def test_temperature_changes_how_sure_and_never_what() -> None:
    logits, targets = calibrated_logits(300, 8)
    evaluation = from_logits(logits, targets)
    cooler = at_temperature(evaluation, 2.0)
    direct = from_logits(logits / 2, targets)
    assert np.array_equal(cooler.top_classes, evaluation.top_classes)
    np.testing.assert_allclose(cooler.top_probabilities, direct.top_probabilities, rtol=1e-5)
    np.testing.assert_allclose(cooler.losses, direct.losses, rtol=1e-5)


def test_calibration_lowers_the_error_of_an_overconfident_network() -> None:
    logits, targets = calibrated_logits(3000, 10)
    found = calibrate(from_logits(logits * 3, targets))
    assert found.ece_before > 0.15 and found.ece_after < 0.04
    assert found.loss_after < found.loss_before
    assert found.num_pictures == 3000


def test_value_after_is_of_pictures_that_were_not_fitted_on() -> None:
    """With few pictures and many classes a fit flatters itself: judged on its own pictures its loss is lower."""
    logits, targets = calibrated_logits(15, 10, seed=5)
    evaluation = from_logits(logits, targets)
    found = calibrate(evaluation)
    assert found.loss_after > at_temperature(evaluation, found.temperature).loss


def test_error_by_hand() -> None:
    # Two bins of equal width: (0.4 sure, both wrong) and (0.9 sure, 2 of 4 right).
    probabilities = np.array([0.4, 0.4, 0.9, 0.9, 0.9, 0.9])
    right = np.array([False, False, True, True, False, False])
    evaluation = from_logits(np.zeros((6, 3)), np.where(right, 0, 1))
    evaluation = replace(evaluation, top_probabilities=probabilities[:, None])
    assert np.array_equal(evaluation.right, right)
    assert expected_calibration_error(evaluation, num_bins=2) == pytest.approx((2 * 0.4 + 4 * 0.4) / 6)
    # Three bins of two pictures: 0.4 sure and none right; then both right; then none.
    assert adaptive_calibration_error(evaluation, num_bins=3) == pytest.approx((0.8 + 0.2 + 1.8) / 6)
    low, high = reliability(evaluation, num_bins=2)
    assert (low.num_pictures, low.accuracy, high.num_pictures, high.accuracy) == (2, 0, 4, 0.5)
    assert low.confidence == pytest.approx(0.4) and high.confidence == pytest.approx(0.9)


def test_bins_are_those_of_scikit_learn() -> None:
    logits, targets = calibrated_logits(1000, 5)
    evaluation = from_logits(logits, targets)
    accuracy, confidence = calibration_curve(evaluation.right, evaluation.predicted_probabilities, n_bins=15)
    filled = [entry for entry in reliability(evaluation) if entry.num_pictures]
    np.testing.assert_allclose([entry.accuracy for entry in filled], accuracy)
    np.testing.assert_allclose([entry.confidence for entry in filled], confidence)


def test_calibrated_network_has_a_small_error_and_a_sure_wrong_one_a_large() -> None:
    logits, targets = calibrated_logits(20_000, 10)
    assert expected_calibration_error(from_logits(logits, targets)) < 0.02
    wrong = (logits.argmax(axis=1) + 1) % 10
    assert expected_calibration_error(from_logits(logits * 100, wrong)) > 0.98


def test_what_cannot_be_calibrated_is_one_line() -> None:
    logits, targets = calibrated_logits(50, 4)
    evaluation = from_logits(logits, targets)
    with pytest.raises(DataError, match=r"no temperature between 0\.05 and 20\.0 .*top-1 100\.0%"):
        fit_temperature(logits.astype(np.float32), logits.argmax(axis=1))
    with pytest.raises(DataError, match="at least 10 pictures, got 5"):
        calibrate(from_logits(logits[:5], targets[:5]))
    with pytest.raises(DataError, match="keep_logits=True"):
        calibrate(replace(evaluation, logits=None))
