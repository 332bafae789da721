from __future__ import annotations

from statistics import NormalDist

import numpy as np
import pytest
from evaluations import calibrated_logits, from_logits
from sklearn.metrics import f1_score

from effvit.train.calibration import expected_calibration_error
from effvit.train.confidence import _bias_corrected, _CalibrationError, _MacroF1, confidence_intervals, wilson
from effvit.train.evaluation import Evaluation


def example(count: int, seed: int = 0, num_classes: int = 7) -> Evaluation:
    return from_logits(*calibrated_logits(count, num_classes, seed))


def test_intervals_hold_the_scores_and_are_the_same_every_time() -> None:
    evaluation = example(400)
    found = confidence_intervals(evaluation)
    assert list(found) == ["top1", "top5", "macro_f1", "ece"]
    scores = {
        "top1": evaluation.top1,
        "top5": evaluation.top5,
        "macro_f1": evaluation.average().f1,
        "ece": expected_calibration_error(evaluation),
    }
    for name, score in scores.items():
        assert score is not None and found[name].low < score < found[name].high
    assert confidence_intervals(evaluation) == found
    assert confidence_intervals(evaluation, seed=1) != found


def test_interval_of_top1_is_that_of_its_binomial_law() -> None:
    """For a share theory knows the answer; the width falls with the root of the number of pictures."""
    for count in (100, 1600):
        evaluation = example(count)
        interval = confidence_intervals(evaluation)["top1"]
        expected = 2 * 1.96 * np.sqrt(evaluation.top1 * (1 - evaluation.top1) / count)
        assert interval.high - interval.low == pytest.approx(expected, rel=0.1)


def test_scores_of_a_resample_are_those_of_its_pictures() -> None:
    """So few pictures that draws lack whole classes."""
    evaluation = example(12)
    draws = np.random.default_rng(0).integers(12, size=(20, 12))
    f1, ece = _MacroF1(evaluation)(draws), _CalibrationError(evaluation)(draws)
    for row, draw in enumerate(draws):
        targets, predicted = evaluation.targets[draw], evaluation.predicted[draw]
        present = np.unique(targets)
        assert f1[row] == pytest.approx(f1_score(targets, predicted, labels=present, average="macro", zero_division=0))
        assert evaluation.logits is not None
        again = from_logits(evaluation.logits[draw], targets)
        assert ece[row] == pytest.approx(expected_calibration_error(again))


def test_resamples_that_lie_too_high_move_the_interval_down() -> None:
    """Resamples around 0.5 of an estimate of 0 are too high by 0.5, and so was the estimate: truth is around -0.5."""
    quantiles = [NormalDist(0.5).inv_cdf((index + 0.5) / 50_000) for index in range(50_000)]
    found = _bias_corrected(np.array(quantiles), 0.0)
    assert found[:2] == pytest.approx((-0.5 - 1.96, -0.5 + 1.96), abs=0.01)


@pytest.mark.slow
def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    truth = example(200_000).top1
    macro = example(200_000).average().f1
    covered = {"top1": 0, "macro_f1": 0}
    for seed in range(200):
        found = confidence_intervals(example(150, seed=seed + 1), num_resamples=1000)
        covered["top1"] += found["top1"].low <= truth <= found["top1"].high
        covered["macro_f1"] += found["macro_f1"].low <= macro <= found["macro_f1"].high
    assert 0.9 <= covered["top1"] / 200 <= 0.99
    assert 0.88 <= covered["macro_f1"] / 200 <= 0.99


def test_no_mistakes_leave_room_for_some() -> None:
    logits, _ = calibrated_logits(20, 3)
    found = confidence_intervals(from_logits(logits, logits.argmax(axis=1)))
    assert found["top1"].method == "wilson"
    assert found["top1"].low == pytest.approx(0.8389, abs=1e-4) and found["top1"].high == 1
    assert "top5" not in found  # of three classes five are always right


def test_wilson_by_the_book() -> None:
    # Newcombe, Statistics in Medicine 17 (1998), p. 857: 81 of 263, 0 of 20.
    assert wilson(81, 263)[:2] == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert wilson(0, 20)[:2] == pytest.approx((0, 0.1611), abs=1e-4)


def test_classes_that_never_occur_change_nothing() -> None:
    logits, targets = calibrated_logits(200, 6)
    wide = np.full((200, 1000), -100.0)
    wide[:, :6] = logits
    narrow, padded = (confidence_intervals(from_logits(values, targets)) for values in (logits, wide))
    for name in ("top1", "macro_f1", "ece"):
        assert narrow[name][:2] == pytest.approx(padded[name][:2])
