"""Records for people: the table says what the record says, the picture can be opened."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from effvit.deploy.benchmark import Protocol, Record, Row
from effvit.deploy.report import markdown_table, save_plot
from effvit.errors import RunError
from effvit.timing import Spread, Timing

TIMING = Timing(samples_ms=(9.0, 10.0, 12.0), cpu_samples_ms=(20.0, 20.0, 20.0), calls_per_round=3, stable=True)


def row(model: str, batch_size: int, **changes: object) -> Row:
    values = Row(
        model=model,
        form="rewritten",
        runtime="torch",
        batch_size=batch_size,
        image_size=(224, 224),
        num_params=2_349_436,
        timing=TIMING,
        relative=Spread(1.25, 1.2, 1.3),
        is_control=False,
    )
    return replace(values, **changes)  # type: ignore[arg-type]


@pytest.fixture
def record() -> Record:
    protocol = Protocol(
        batch_sizes=(1, 16),
        image_size=None,
        device="cpu",
        num_threads=2,
        rounds=3,
        min_round_seconds=0.2,
        warmup_seconds=1.0,
    )
    environment = {
        "cpu": "A Processor",
        "accelerator": "An Accelerator",
        "cores_usable": 2,
        "os": "Linux 6.1",
        "versions": {"torch": "2.15.0"},
        "commit": "0123456789abcdef",
        "commit_is_exact": False,
    }
    rows = [
        row("a", 1),
        row("control: a", 1, is_control=True),
        row("file", 16, num_params=None, runtime="onnxruntime"),
        row("slow", 16, timing=replace(TIMING, stable=False)),
    ]
    return Record(protocol=protocol, environment=environment, rows=tuple(rows))


def test_the_table_says_what_the_record_says(record: Record) -> None:
    conditions, empty, header, rule, *lines = markdown_table(record).splitlines()
    assert "A Processor" in conditions and "commit 0123456789 with changes" in conditions
    assert "2 threads" in conditions and "3 interleaved rounds" in conditions
    assert "Accelerator" not in conditions  # it took no part
    assert empty == ""
    assert len({line.count("|") for line in (header, rule, *lines)}) == 1
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    ours = ["1", "a", "rewritten, torch", "224x224", "2.35 M"]
    assert cells[0] == [*ours, "10.00 (9.50-11.00)", "20.00", "100", "1.250 (1.200-1.300)"]
    assert [line[1] for line in cells] == ["a", "control: a", "file", "slow (unstable)"]
    assert cells[2][4] == "" and cells[2][7] == "1,600"


def test_a_record_of_an_accelerator_names_it(record: Record) -> None:
    record = replace(record, protocol=replace(record.protocol, device="cuda", num_threads=1))
    conditions = markdown_table(record).splitlines()[0]
    assert "An Accelerator" in conditions and "1 thread," in conditions


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
