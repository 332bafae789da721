"""Records survive being written and read; what is no record is said to be none."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from benchmark_records import full_record, record, row

from effvit.deploy.speed.records import Protocol, Record, read_record
from effvit.errors import RunError
from effvit.files import write_json
from effvit.timing import Timing


def test_a_record_is_what_it_was_after_json(tmp_path: Path) -> None:
    timing = Timing(
        samples_ms=(1.0, 2.0, 9.0),
        cpu_samples_ms=(1.0, 1.0, 1.0),
        calls_per_round=4,
        stable=False,
        samples_joules=(0.1, 0.2, 0.3),
        statistic="mean",
    )
    special = row("a", 7, timing=timing, peak_memory_mib=3.5, tried_ms={"x": 1.0}, failed={"y": "why"}, num_params=None)
    original = full_record()
    original = replace(
        original,
        rows=(*original.rows, special),
        protocol=replace(original.protocol, batch_sizes=(1, "max"), pinned_cores=(1,), image_size=(64, 96)),
    )
    write_json(tmp_path / "record.json", original.to_dict())
    assert read_record(tmp_path / "record.json") == original


def test_the_summary_in_json_is_that_of_the_samples() -> None:
    values = record(row("a", 2)).to_dict()["rows"][0]
    assert (values["latency_ms"], values["images_per_second"]) == (10.0, 200.0)
    assert values["relative"] == {"median": 1.25, "p25": 1.2, "p75": 1.3}
    # A summary that does not fit its samples is not believed.
    values["latency_ms"] = 1.0
    assert Record.from_dict({**record().to_dict(), "rows": [values]}).rows[0].timing.latency_ms == 10.0


def test_a_mean_stands_for_the_samples_where_that_is_asked_for() -> None:
    timing = replace(row("a", 1).timing, samples_ms=(1.0, 1.0, 10.0))
    assert timing.latency_ms == 1.0
    assert replace(timing, statistic="mean").latency_ms == 4.0


def test_fields_of_later_versions_are_passed_over() -> None:
    values = full_record().to_dict()
    values["protocol"]["from_the_future"] = 1
    values["rows"][0]["from_the_future"] = 1
    assert Record.from_dict(json.loads(json.dumps(values))) == full_record()
    assert Protocol.from_dict(values["protocol"]) == full_record().protocol


@pytest.mark.parametrize("values", [[], {}, {"rows": []}, {"protocol": {}, "environment": {}, "rows": [{}]}])
def test_what_is_no_record_is_one_line(values: object, tmp_path: Path) -> None:
    write_json(tmp_path / "other.json", values)
    with pytest.raises(RunError, match=r"^\S*other.json is not a record of effvit benchmark: \w+Error"):
        read_record(tmp_path / "other.json")
    with pytest.raises(RunError, match="cannot read"):
        read_record(tmp_path / "missing.json")
