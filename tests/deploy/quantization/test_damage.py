"""The record of a quantisation, its error, and the choice of layers left in float."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from effvit.deploy.quantization.damage import (
    MIN_PICTURES,
    LayerDamage,
    Quantization,
    agreement,
    by_damage,
    calibration_arrays,
    choose_float_layers,
    logits_error,
)
from effvit.errors import ConfigError, DataError


def layer(name: str, damage: float | None, mac_share: float = 0.01) -> LayerDamage:
    return LayerDamage(name=name, operator="Conv", damage=damage, mac_share=mac_share)


LAYERS = (layer("a", 0.4), layer("b", 0.3, 0.02), layer("c", 0.2), layer("d", 0.1, 0.5), layer("e", 0.0))


def remaining(names: tuple[str, ...]) -> float:
    """Error if the squares of damages simply add up."""
    return math.sqrt(sum((one.damage or 0) ** 2 for one in LAYERS if one.name not in names))


def test_the_error_is_relative_and_blind_to_what_no_decision_depends_on() -> None:
    reference = np.array([[3.0, -1.0, 1.0], [5.0, 5.0, 2.0]])
    assert logits_error(reference, reference) == 0
    assert logits_error(reference, reference + 0.1) == pytest.approx(0.1 / math.sqrt(14 / 6))
    assert logits_error(10 * reference, 10 * reference + 1) == pytest.approx(logits_error(reference, reference + 0.1))
    assert logits_error(reference + 100, reference + 100.1) == pytest.approx(logits_error(reference, reference + 0.1))


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_what_is_no_number_is_infinitely_wrong(broken: float) -> None:
    assert logits_error(np.array([[1.0, 2.0]]), np.array([[1.0, broken]])) == math.inf
    assert logits_error(np.array([[2.0, 2.0]]), np.array([[2.0, 2.5]])) == math.inf  # the reference says nothing


def test_agreement_counts_first_classes() -> None:
    assert agreement(np.array([[1, 2], [2, 1], [0, 3]]), np.array([[1, 2], [1, 2], [2, 3]])) == pytest.approx(2 / 3)


def test_nothing_more_than_needed_stays_in_float() -> None:
    """For every limit: within it, and with one layer less it would not be."""
    for limit in (0.5, 0.35, 0.25, 0.15):
        chosen = choose_float_layers(LAYERS, remaining(()), remaining, max_error=limit, max_float_macs=1.0)
        assert remaining(chosen) <= limit < remaining(chosen[:-1])
    assert choose_float_layers(LAYERS, 0.1, remaining, max_error=0.2)[:1] == ("a",)


def test_more_damage_and_less_time_go_first() -> None:
    chosen = choose_float_layers(LAYERS, remaining(()), remaining, max_error=0.0, max_float_macs=1.0)
    assert chosen == ("a", "b", "c", "d")  # e does none
    slow, quick = layer("slow", 0.2, 0.3), layer("quick", 0.2, 0.001)
    assert choose_float_layers((slow, quick), 0.28, lambda names: 0.2 if names else 0.28, max_error=0.2) == ("quick",)


def test_the_share_of_multiplications_is_kept() -> None:
    chosen = choose_float_layers(LAYERS, remaining(()), remaining, max_error=0.0, max_float_macs=0.025)
    assert chosen == ("a", "c")  # b would go beyond, d alone is


def test_what_does_not_help_is_not_left_in_float() -> None:
    """The error is not of the layers: a limit out of reach costs no speed."""
    assert choose_float_layers(LAYERS, 0.5, lambda _: 0.5, max_error=0.1) == ()
    little = choose_float_layers(LAYERS, 0.5, lambda names: 0.4 - 0.001 * len(names), max_error=0.1)
    assert little == ("a",)


def test_layers_are_listed_by_damage() -> None:
    listed = by_damage([layer("none", None), layer("small", 0.0), layer("big", 0.3), layer("unknown", None)])
    assert [one.name for one in listed] == ["big", "small", "none", "unknown"]


def test_the_record_is_plain_json() -> None:
    record = Quantization(
        runtime="onnxruntime",
        num_pictures=16,
        method="min-max",
        method_errors={"min-max": 0.3},
        layers=(layer("a", 0.1),),
        float_layers=(layer("head", 0.2),),
        max_error=0.2,
        error_before=0.3,
        error=0.21,
        agreement=0.97,
    )
    values = json.loads(json.dumps(record.to_dict()))
    assert values["float_layers"] == [{"name": "head", "operator": "Conv", "damage": 0.2, "mac_share": 0.01}]
    assert values["within_limit"] is False
    assert "left in float: head" in str(record) and "\n" not in str(record)


def test_pictures_are_checked_before_any_work() -> None:
    shape = (None, 3, 32, 64)
    with pytest.raises(DataError, match=f"needs at least {MIN_PICTURES} pictures, got 2"):
        calibration_arrays([torch.zeros(2, 3, 32, 64)], shape, "file")
    with pytest.raises(DataError, match="got 0"):
        calibration_arrays([], shape, "file")
    with pytest.raises(ConfigError, match=r"file takes pictures of shape \(any, 3, 32, 64\), .* \(8, 3, 64, 32\)"):
        calibration_arrays([torch.zeros(8, 3, 64, 32)], shape, "file")


def test_a_fixed_batch_is_fed_as_it_is() -> None:
    pictures = torch.arange(20.0).reshape(20, 1, 1, 1)
    arrays = calibration_arrays(list(pictures.split(8)), (3, 1, 1, 1), "file")
    assert [len(array) for array in arrays] == [3] * 6
    assert np.concatenate(arrays).ravel().tolist() == list(range(18))
    assert [len(array) for array in calibration_arrays(list(pictures.split(8)), (None, 1, 1, 1), "file")] == [8, 8, 4]
