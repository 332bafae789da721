"""Records for people: the table says what the record says, the picture can be opened."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from benchmark_records import TIMING, row
from benchmark_records import record as make_record
from PIL import Image

from effvit.deploy.speed.records import Missing, Record
from effvit.deploy.speed.report import markdown_table, save_plot
from effvit.errors import RunError


@pytest.fixture
def record() -> Record:
    rows = [
        row("a", 1, top1=63.296, peak_memory_mib=12.4),
        row("control: a", 1),
        row("file", 16, num_params=None, runtime="onnxruntime"),
        row("slow", 16, timing=replace(TIMING, stable=False)),
    ]
    return make_record(*rows)


def test_the_table_says_what_the_record_says(record: Record) -> None:
    conditions, empty, header, rule, *lines = markdown_table(record).splitlines()
    assert "A Processor" in conditions and "commit 0123456789 with changes" in conditions
    assert "2 threads;" in conditions and "3 interleaved rounds" in conditions
    assert "Accelerator" not in conditions  # it took no part
    assert empty == ""
    assert len({line.count("|") for line in (header, rule, *lines)}) == 1
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    ours = ["1", "a", "torch", "fp32", "rewritten", "224x224", "2.35 M", "63.3"]
    assert cells[0] == [*ours, "10.00 (9.50-11.00)", "20.00", "100", "12", "1.250 (1.200-1.300)"]
    assert [line[1] for line in cells] == ["a", "control: a", "file", "slow (unstable)"]
    assert cells[2][6] == "" and cells[2][10] == "1,600"


def test_what_is_missing_is_said_below_the_table(record: Record) -> None:
    missing = (
        Missing(model="a", runtime="openvino", precision="int8", batch_size=16, reason="why"),
        Missing(model="b", runtime="compile", precision="fp32", batch_size=None, reason="therefore"),
    )
    lines = markdown_table(replace(record, missing=missing)).splitlines()
    assert lines[-4:] == [
        "Not measured:",
        "",
        "- a in openvino, int8, batch 16: why",
        "- b in compile, fp32: therefore",
    ]


def test_the_papers_protocol_and_pinning_are_named() -> None:
    paper = make_record(row("a", 16), name="paper", min_round_seconds=60.0, warmup_seconds=10.0, pinned_cores=(3,))
    conditions = markdown_table(paper).splitlines()[0]
    assert "the paper's protocol: means over 60 s after 10 s of warm-up" in conditions and ", pinned;" in conditions


def test_a_record_of_an_accelerator_names_it(record: Record) -> None:
    record = replace(record, protocol=replace(record.protocol, device="cuda", num_threads=1))
    conditions = markdown_table(record).splitlines()[0]
    assert "An Accelerator" in conditions and "1 thread;" in conditions


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_the_picture_can_be_opened(record: Record, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"speed.{suffix}"
    save_plot(record, path)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    if suffix == "png":
        with Image.open(path) as image:
            assert image.width > image.height > 100
            assert len(image.convert("RGB").getcolors(1 << 20) or []) > 2
    else:
        assert "images per second" in path.read_text()


def test_a_place_that_cannot_be_written_is_named(record: Record, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"cannot write .*speed\.png"):
        save_plot(record, tmp_path / "missing" / "speed.png")
