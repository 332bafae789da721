"""Benchmark records: who took part, under which conditions, and what is kept. Never how fast."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from effvit.deploy.export import Exported
from effvit.deploy.speed import candidates, contest, paper_protocol
from effvit.deploy.speed.benchmark import benchmark, benchmark_as_paper
from effvit.deploy.speed.forms import Form, Prepared
from effvit.deploy.speed.records import Record
from effvit.errors import ConfigError, ExportError
from effvit.timing import Timing

QUICK: dict[str, Any] = {"rounds": 2, "min_round_seconds": 0.0, "warmup_seconds": 0.0}


class Small(nn.Module):
    """Notes under which conditions it was called."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[int, int, bool]] = []

    def forward(self, x: Tensor) -> Tensor:
        self.calls.append((len(x), torch.get_num_threads(), torch.is_inference_mode_enabled()))
        return x.mean((2, 3))

    def __deepcopy__(self, memo: object) -> Small:
        return self


@pytest.fixture(scope="module")
def record(exported: tuple[Exported, str]) -> Record:
    """Ours twice, a rival and a file, at two batch sizes."""
    models = ["efficientvit_tiny", "mobilenetv3_small_050", "efficientvit_tiny", exported[0].path]
    return benchmark(
        models,
        batch_sizes=[1, 3],
        image_size=(160, 272),
        num_threads=1,
        num_breakdowns=4,
        command="a test",
        **QUICK,
    )


def test_every_model_and_the_control_have_a_row_per_batch_size(record: Record) -> None:
    names = [
        "efficientvit_tiny",
        "mobilenetv3_small_050",
        "efficientvit_tiny (2)",
        "tiny",
        "control: efficientvit_tiny",
    ]
    assert [(row.batch_size, row.model) for row in record.rows] == [(size, n) for size in (1, 3) for n in names]
    assert [row.is_control for row in record.rows] == ([False] * 4 + [True]) * 2
    assert not record.missing
    ours, rival, _, file, control = record.rows[:5]
    assert ours.form in ours.tried_ms and ours.form.startswith("rewritten") and ours.runtime == "torch"  # type: ignore[operator]
    assert set(rival.tried_ms or ()) == {"reparameterized by timm", "reparameterized by timm, channels last"}
    assert (file.form, file.runtime, file.precision, file.tried_ms) == ("exported file", "onnxruntime", "fp32", None)
    assert control.form == ours.form


def test_the_fastest_form_stands_for_a_model(record: Record) -> None:
    for row in record.rows:
        if row.tried_ms is not None:
            assert row.tried_ms[row.form] == min(row.tried_ms.values())


def test_rows_are_compared_to_the_first_of_their_batch_size(record: Record) -> None:
    for row in record.rows:
        first = next(other for other in record.rows if other.batch_size == row.batch_size)
        ratios = [a / b for a, b in zip(row.timing.samples_ms, first.timing.samples_ms, strict=True)]
        assert min(ratios) <= row.relative.p25 <= row.relative.median <= row.relative.p75 <= max(ratios)
        assert row.images_per_second == pytest.approx(row.batch_size / row.timing.latency_ms * 1000)
    assert record.rows[0].relative == (1, 1, 1)


def test_where_the_time_goes_is_told_for_what_can_tell(record: Record) -> None:
    assert [(s.batch_size, s.model, s.runtime) for s in record.shares] == [
        (row.batch_size, row.model, row.runtime) for row in record.rows if not row.is_control
    ]
    for shares in record.shares:
        assert sum(shares.shares.values()) == pytest.approx(1)


def test_the_record_is_plain_json_without_places(record: Record, exported: tuple[Exported, str]) -> None:
    text = json.dumps(record.to_dict())
    values = json.loads(text)
    assert str(exported[0].path.parent) not in text and str(Path.home()) not in text
    assert values["command"] == "a test"
    assert values["protocol"]["batch_sizes"] == [1, 3] and values["protocol"]["num_threads"] == 1
    assert values["protocol"]["energy"]
    assert values["environment"]["versions"]["torch"] == torch.__version__.split("+")[0]
    row = values["rows"][0]
    assert row["num_params"] > 0 and row["image_size"] == [160, 272] and len(row["samples_ms"]) == 2
    assert Record.from_dict(values) == record


def test_published_accuracy_is_for_names_at_their_size_alone(record: Record) -> None:
    assert all(row.top1 is None for row in record.rows)  # measured at another size
    named = benchmark(["mobilenetv3_small_100@plain"], batch_sizes=[1], num_threads=1, **QUICK)
    assert [row.top1 for row in named.rows] == [67.656] * 2


def test_models_run_under_the_stated_conditions() -> None:
    model = Small()
    before = torch.get_num_threads()
    result = benchmark([model], batch_sizes=[5], image_size=8, num_threads=1, **QUICK)
    assert set(model.calls) == {(5, 1, True)}
    assert torch.get_num_threads() == before
    cores = result.protocol.pinned_cores
    assert cores is None or len(cores) == 1
    loose = benchmark([model], batch_sizes=[5], image_size=8, num_threads=2, pin=False, **QUICK)
    assert loose.protocol.pinned_cores is None and loose.environment["torch_threads"] == 2


def fake_timings(monkeypatch: pytest.MonkeyPatch, **latencies_ms: float) -> list[list[str]]:
    """Replace the stopwatch; returns what it is asked to measure."""
    measured: list[list[str]] = []

    def measure(calls: Mapping[str, Callable[[], object]], **options: Any) -> dict[str, Timing]:
        measured.append(list(calls))
        if options.get("on_round"):
            options["on_round"](options["rounds"], options["rounds"])
        values = {name: next((ms for part, ms in latencies_ms.items() if part in name), 1.0) for name in calls}
        return {
            name: Timing(samples_ms=(ms,), cpu_samples_ms=(ms,), calls_per_round=1, stable=True)
            for name, ms in values.items()
        }

    monkeypatch.setattr(contest, "measure", measure)
    return measured


def test_all_candidates_of_a_batch_size_are_in_one_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    measured = fake_timings(monkeypatch)
    progress: list[tuple[int, int]] = []
    steps: list[str] = []
    benchmark(
        [Small(), nn.Flatten()],
        batch_sizes=[1, 2],
        image_size=8,
        form="contiguous",
        on_round=lambda *p: progress.append(p),
        on_step=steps.append,
        **QUICK,
    )
    assert measured == [["Small in torch, fp32", "Flatten in torch, fp32", "control: "]] * 2
    assert progress == [(2, 4), (4, 4)]
    assert len(steps) == 4 and steps[0] == "prepare Small in torch, fp32, batch 1"


def test_a_slower_form_does_not_stand_for_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_timings(monkeypatch, channels=0.5)
    result = benchmark([nn.Flatten()], batch_sizes=[1], image_size=8, **QUICK)
    assert result.rows[0].form == "as it is, channels last"
    fake_timings(monkeypatch, channels=2.0)
    result = benchmark([nn.Flatten()], batch_sizes=[1], image_size=8, **QUICK)
    assert result.rows[0].form == "as it is"


class Picky(nn.Module):
    """Takes one picture at a time."""

    def forward(self, x: Tensor) -> Tensor:
        if len(x) > 1:
            raise ValueError("one at a time\nsecond line")
        return x.mean((2, 3))


def test_what_cannot_be_measured_is_listed_and_the_others_go_on() -> None:
    models = [Picky(), Small(), "efficientvit_tiny@channels_last"]
    result = benchmark(models, batch_sizes=[1, 2], image_size=32, precisions=["fp32", "int8"], **QUICK)
    assert [(row.model, row.batch_size) for row in result.rows] == [
        ("Picky", 1),
        ("Small", 1),
        ("control: Picky", 1),
        ("Small", 2),
        ("control: Small", 2),
    ]
    reasons = {(m.model, m.precision, m.batch_size): m.reason for m in result.missing}
    assert reasons["Picky", "fp32", 2] == "one at a time"
    assert "no form 'channels_last' in torch" in reasons["efficientvit_tiny@channels_last", "fp32", None]
    assert "torch computes in fp32, fp16, bf16, not in int8" in reasons["Small", "int8", None]
    assert len(reasons) == 5


def test_nothing_at_all_is_an_error() -> None:
    with pytest.raises(ExportError, match="nothing could be measured; Picky in torch: one at a time"):
        benchmark([Picky()], batch_sizes=[2], image_size=8, **QUICK)
    with pytest.raises(ExportError, match="nothing could be measured; Small in cuda-graph: .* needs a CUDA device"):
        benchmark([Small()], runtimes=["cuda-graph"], image_size=8, **QUICK)


def test_the_papers_protocol_is_the_papers(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []

    def measure_as_paper(calls: Mapping[str, Callable[[], object]], **options: Any) -> dict[str, Timing]:
        asked.append(options)
        return paper_protocol.measure_as_paper(calls, warmup_seconds=0, measured_seconds=0)

    monkeypatch.setattr(contest, "measure_as_paper", measure_as_paper)
    result = benchmark_as_paper(["efficientvit_tiny@tokens"], image_size=32)
    assert [(row.runtime, row.precision, row.batch_size) for row in result.rows] == [("trace", "fp32", 16)] * 2
    assert asked[0]["warmup_seconds"] == 10 and asked[0]["measured_seconds"] == 60
    assert (result.protocol.name, result.protocol.num_threads) == ("paper", 1)
    assert result.rows[0].timing.statistic == "mean"
    assert result.protocol.energy == "not measured"


def test_a_batch_that_does_not_fit_is_halved_in_the_papers_protocol(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        contest, "measure_as_paper", lambda calls, **_: paper_protocol.measure_as_paper(calls, **NO_TIME)
    )

    def prepare(images: Tensor) -> Prepared:
        if len(images) > 4:
            raise torch.OutOfMemoryError("out of memory")
        return Prepared(call=lambda: images.sum())

    form = Form(name="contiguous", text="x", prepare=prepare)
    monkeypatch.setattr(candidates, "torch_forms", lambda *_, **__: [form])
    result = benchmark_as_paper(["efficientvit_tiny"], image_size=32)
    assert [row.batch_size for row in result.rows] == [4, 4]
    with pytest.raises(ExportError, match="out of memory"):
        benchmark(["efficientvit_tiny"], batch_sizes=[16], image_size=32, **QUICK)


NO_TIME = {"warmup_seconds": 0, "measured_seconds": 0}


def test_all_faults_of_a_request_are_named_at_once() -> None:
    with pytest.raises(ConfigError, match=r"benchmark: no models; no runtimes; no precisions; batch .* got \[1, 0\]"):
        benchmark([], batch_sizes=[1, 0], runtimes=[], precisions=[])
    with pytest.raises(ConfigError, match="image size must be positive, got 0"):
        benchmark(["efficientvit_tiny"], image_size=0)
    with pytest.raises(ConfigError, match="rounds must be at least 1, got 0"):
        benchmark([Small()], image_size=8, rounds=0)
    with pytest.raises(ConfigError, match="batch size max needs a CUDA device, got cpu"):
        benchmark([Small()], image_size=8, batch_sizes=["max"])
    with pytest.raises(ConfigError, match="unknown runtime 'tensorrt'; known: torch, compile, cuda-graph"):
        benchmark([Small()], runtimes=["tensorrt"])
    with pytest.raises(ConfigError, match=r"unknown precision 'int4' \(did .*\); known: fp32, fp16, bf16"):
        benchmark([Small()], precisions=["int4"])
    with pytest.raises(ConfigError, match="unknown form 'bset'"):
        benchmark([Small()], form="bset")
