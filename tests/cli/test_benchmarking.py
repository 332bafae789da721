"""`effvit benchmark` as people type it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from benchmark_records import record, row, timing

from effvit.cli import options
from effvit.cli.main import run
from effvit.deploy.speed import benchmark as module
from effvit.deploy.speed.records import Record
from effvit.files import write_json

QUICK = ["--rounds", "2", "--seconds", "0", "--threads", "1", "--image-size", "32"]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, list[str], dict[str, Any]]]:
    """What the command asks of the library, which measures nothing."""
    calls: list[tuple[str, list[str], dict[str, Any]]] = []
    for name in ("benchmark", "benchmark_as_paper"):

        def answer(models: list[str], name: str = name, **arguments: Any) -> Record:
            calls.append((name, models, arguments))
            return record(row("a", 1))

        monkeypatch.setattr(module, name, answer)
    return calls


@pytest.mark.parametrize(
    "arguments",
    [
        "a b --batch 1,16 --runtimes torch,onnxruntime --precisions fp32,int8",
        "a b --batch 1 16 --runtimes torch onnxruntime --precisions fp32 int8",
        "--batch 1 16 a --runtimes torch onnxruntime b --precisions fp32 int8",
        "--runtimes torch onnxruntime --precisions fp32 int8 --batch 1 16 a b",
        "a b --batch 1,16 --runtimes torch,onnxruntime --precisions fp32 int8 --json",
    ],
)
def test_lists_are_written_with_commas_or_spaces(
    arguments: str, asked: list[tuple[str, list[str], dict[str, Any]]]
) -> None:
    assert run(["benchmark", *arguments.split()]) == 0
    ((name, models, given),) = asked
    assert (name, models) == ("benchmark", ["a", "b"])
    assert (given["batch_sizes"], given["runtimes"]) == ([1, 16], ["torch", "onnxruntime"])
    assert given["precisions"] == ["fp32", "int8"]


def test_flags_that_are_left_out_are_left_to_the_library(asked: list[tuple[str, list[str], dict[str, Any]]]) -> None:
    assert run(["benchmark", "a", "--batch", "max", "64"]) == 0
    given = asked[0][2]
    assert given["batch_sizes"] == ["max", 64]
    assert not {"num_threads", "rounds", "min_round_seconds", "precisions"} & set(given)
    assert given["pin"] is True and given["num_breakdowns"] == 0


def test_the_papers_protocol_takes_no_numbers(
    asked: list[tuple[str, list[str], dict[str, Any]]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["benchmark", "a", "--protocol", "paper"]) == 0
    assert asked[0][0] == "benchmark_as_paper"
    for flag in ("--batch", "--threads", "--rounds", "--seconds"):
        assert run(["benchmark", "a", "--protocol", "paper", flag, "1"]) == 2
        assert "--protocol paper fixes batch sizes, threads, precision and rounds" in capsys.readouterr().err
    assert len(asked) == 1


def test_measured_for_real(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "speed"
    arguments = ["benchmark", "efficientvit_tiny", "mobilenetv3_small_050@plain", "--batch", "1", *QUICK]
    assert run([*arguments, "--output", str(output), "--json"]) == 0
    captured = capsys.readouterr()
    values = json.loads(captured.out)
    assert [row["is_control"] for row in values["rows"]] == [False, False, True]
    assert json.loads((output / "record.json").read_text()) == values
    assert {path.name for path in output.iterdir()} == {"record.json", "table.md", "plot.png", "page.html"}
    assert len(values["shares"]) == 2
    assert "prepare efficientvit_tiny in torch" in captured.err and "page.html are in" in captured.err


def test_two_records_beside_each_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = []
    for name, milliseconds in (("before", 10.0), ("after", 5.0)):
        paths.append(str(tmp_path / f"{name}.json"))
        write_json(paths[-1], record(row("a", 1, timing=timing(*[milliseconds] * 3))).to_dict())
    assert run(["benchmark", "--compare", *paths]) == 0
    assert "0.500 (0.500-0.500) | faster" in capsys.readouterr().out
    assert run(["benchmark", "--compare", *paths, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["changes"][0]["ratio"]["median"] == 0.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--compare none.json none.json", "cannot read none.json"),
        ("a --compare x.json y.json", "--compare measures nothing: give models or two records, not both (got a)"),
        ("a --protocol papre", "unknown protocol 'papre' (did you mean 'paper'?)"),
        ("efficientvit_tiny --precisions int4", "unknown precision 'int4'"),
        ("efficientvit_tiny --forms bset", "unknown form 'bset'"),
        ("efficientvit_tiny@bset", "unknown form 'bset'"),
        ("efficientvit_tiny --batch max", "batch size max needs a CUDA device, got cpu"),
        ("efficientvit_tiny --batch 1,x", "got '1,x'"),
        ("efficientvit_tiny --batch ,", "batch sizes must be at least 1, got []"),
        ("efficientvit_tiny --runtimes cuda-graph", "nothing could be measured; efficientvit_tiny in cuda-graph"),
        ("efficientvit_tiny --seconds -1", "min_round_seconds must be 0 or more, got -1.0"),
        ("efficientvit_tiny --runtimes ,", "no runtimes"),
    ],
)
def test_mistakes_are_one_line(
    arguments: str, message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["benchmark", *arguments.split(), "--device", "cpu", "--image-size", "32"]) == 2
    captured = capsys.readouterr()
    lines = [line for line in captured.err.splitlines() if not line.startswith("prepare ")]
    assert captured.out == "" and len(lines) == 1 and message in lines[0]


def test_only_what_can_be_a_value_joins_a_list() -> None:
    values = [
        ("--batch", "1"),
        ("--batch", "max"),
        ("--runtimes", "torch"),
        ("--precisions", "int8"),
        ("--image-size", "64"),
    ]
    others = [("--batch", "m0"), ("--runtimes", "efficientvit_m0"), ("--precisions", "torch"), ("--batch", "-1")]
    assert all(options._is_value(*pair, 0) for pair in values)
    assert not any(options._is_value(*pair, 0) for pair in others)


def test_a_size_may_be_two_words(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """The third number is no part of it: it is a file that is not there."""
    assert run(["predict", str(tmp_path), "--image-size", "64", "96", "128"]) == 2
    assert options._is_value("--image-size", "96", 0) and not options._is_value("--image-size", "128", 1)
    assert options.parse_size("64,96") == (64, 96) == options.parse_size("64x96")
