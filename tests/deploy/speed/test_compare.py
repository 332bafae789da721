"""Two records beside each other: what matches, what is noise, and what must not be compared."""

from __future__ import annotations

import json

import pytest
from benchmark_records import record, row, timing

from effvit.deploy.speed.compare import compare
from effvit.deploy.speed.records import CONTROL
from effvit.deploy.speed.report import comparison_table
from effvit.errors import ConfigError
from effvit.timing import Spread


def control(ratio: float) -> object:
    return row(f"{CONTROL}a", 1, relative=Spread(ratio, ratio, ratio))


def test_rows_are_matched_by_everything_that_names_them() -> None:
    before = record(row("a", 1), row("a", 16), row("a", 1, runtime="onnxruntime"), row("a", 1, precision="int8"))
    after = record(row("a", 1, precision="int8"), row("a", 1), row("b", 1), row("a", 16, image_size=(64, 64)))
    comparison = compare(before, after)
    assert [(c.model, c.precision, c.batch_size) for c in comparison.changes] == [("a", "fp32", 1), ("a", "int8", 1)]
    assert comparison.only_before == ("a, torch, fp32, batch 16, 224x224", "a, onnxruntime, fp32, batch 1, 224x224")
    assert comparison.only_after == ("b, torch, fp32, batch 1, 224x224", "a, torch, fp32, batch 16, 64x64")
    assert json.loads(json.dumps(comparison.to_dict()))["changes"][0]["ratio"]["median"] == 1


def test_the_ratio_is_after_over_before_within_what_quartiles_allow() -> None:
    before = record(row("a", 1, timing=timing(8, 10, 10, 10, 12)))
    after = record(row("a", 1, timing=timing(5, 5, 5, 5, 6)))
    (change,) = compare(before, after).changes
    assert change.ratio == pytest.approx((0.5, 0.5, 0.5))
    after = record(row("a", 1, timing=timing(4, 4, 5, 6, 6)))
    (change,) = compare(before, after).changes
    assert change.ratio == pytest.approx((0.5, 0.4, 0.6))
    assert change.is_beyond_noise


@pytest.mark.parametrize(("after_ms", "noise", "expected"), [(8.0, 1.0, True), (8.0, 1.3, False), (10.0, 1.0, False)])
def test_a_change_within_the_noise_of_a_control_is_none(after_ms: float, noise: float, expected: bool) -> None:
    before = record(row("a", 1, timing=timing(10, 10, 10)), control(1.0))
    after = record(row("a", 1, timing=timing(after_ms, after_ms, after_ms)), control(noise))
    for first, second in ((before, after), (after, before)):
        (change,) = compare(first, second).changes
        assert change.is_beyond_noise is expected


def test_quartiles_that_reach_across_one_are_noise() -> None:
    (change,) = compare(
        record(row("a", 1, timing=timing(5, 10, 15))), record(row("a", 1, timing=timing(4, 8, 12)))
    ).changes
    assert not change.is_beyond_noise


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_threads": 1}, "number of threads 2 and 1"),
        ({"device": "cuda"}, "device cpu and cuda"),
        ({"name": "paper"}, "protocol interleaved and paper"),
    ],
)
def test_other_conditions_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^these records cannot be compared: {message}$"):
        compare(record(row("a", 1)), record(row("a", 1), **changes))


def test_nothing_in_common_is_refused() -> None:
    with pytest.raises(ConfigError, match="share no row"):
        compare(record(row("a", 1)), record(row("b", 1)))
    with pytest.raises(ConfigError, match="share no row"):  # controls say nothing of another run
        compare(record(control(1.0)), record(control(1.0)))  # type: ignore[arg-type]


def test_another_machine_or_version_is_a_warning() -> None:
    after = record(row("a", 1), environment={"cpu": "Another", "versions": {"torch": "3.0"}}, pinned_cores=(1,))
    warnings = " ".join(compare(record(row("a", 1)), after).warnings)
    for part in ("measured apart", "cpu: A Processor and Another", "torch: 2.15.0 and 3.0", "pinned"):
        assert part in warnings
    assert len(compare(after, after).warnings) == 1


def test_the_table_says_it_in_words() -> None:
    before = record(*(row(name, 1, timing=timing(10, 10, 10)) for name in ("faster", "slower", "equal", "gone")))
    times = {"faster": 5.0, "slower": 20.0, "equal": 10.0, "new": 1.0}
    after = record(*(row(name, 1, timing=timing(ms, ms, ms)) for name, ms in times.items()))
    text = comparison_table(compare(before, after))
    lines = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("| 1 ")
    ]
    assert [(line[1], line[-1]) for line in lines] == [("faster", "faster"), ("slower", "slower"), ("equal", "noise")]
    assert lines[0][4:7] == ["10.00", "5.00", "0.500 (0.500-0.500)"]
    assert "- gone," in text and "- new," in text and text.startswith("note: ")
