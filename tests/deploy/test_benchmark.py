"""Benchmark records: who took part, under which conditions, and what is kept. Never how fast."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from effvit.deploy import benchmark as module
from effvit.deploy.benchmark import Record, benchmark
from effvit.deploy.export import Exported
from effvit.errors import ConfigError
from effvit.timing import Timing

QUICK: dict[str, Any] = {"rounds": 2, "min_round_seconds": 0.0, "warmup_seconds": 0.0}


class Small(nn.Module):
    """Notes under which conditions it was called."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[int, int, bool]] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls.append((len(x), torch.get_num_threads(), torch.is_inference_mode_enabled()))
        return x.mean((2, 3))

    def __deepcopy__(self, memo: object) -> Small:
        return self


@pytest.fixture(scope="module")
def record(exported: tuple[Exported, str]) -> Record:
    """Ours twice, a rival and a file, at two batch sizes."""
    models = ["efficientvit_tiny", "mobilenetv3_small_050", "efficientvit_tiny", exported[0].path]
    return benchmark(models, batch_sizes=[1, 3], image_size=(160, 272), num_threads=1, command="a test", **QUICK)


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
    forms = [(row.form, row.runtime) for row in record.rows[:4]]
    assert forms[0] == forms[2] == ("rewritten", "torch")
    assert forms[1] == ("reparameterized by timm", "torch")
    assert forms[3] == ("exported file", "onnxruntime")


def test_rows_are_compared_to_the_first_of_their_batch_size(record: Record) -> None:
    for row in record.rows:
        first = next(other for other in record.rows if other.batch_size == row.batch_size)
        ratios = [a / b for a, b in zip(row.timing.samples_ms, first.timing.samples_ms, strict=True)]
        assert min(ratios) <= row.relative.p25 <= row.relative.median <= row.relative.p75 <= max(ratios)
        assert row.images_per_second == pytest.approx(row.batch_size / row.timing.latency_ms * 1000)
    assert record.rows[0].relative == (1, 1, 1)


def test_the_record_is_plain_json_without_places(record: Record, exported: tuple[Exported, str]) -> None:
    text = json.dumps(record.to_dict())
    values = json.loads(text)
    assert str(exported[0].path.parent) not in text and str(Path.home()) not in text
    assert values["command"] == "a test"
    assert values["protocol"]["batch_sizes"] == [1, 3] and values["protocol"]["num_threads"] == 1
    assert values["environment"]["versions"]["torch"] == torch.__version__.split("+")[0]
    row = values["rows"][0]
    assert row["num_params"] > 0 and row["image_size"] == [160, 272] and len(row["samples_ms"]) == 2


def test_models_run_under_the_stated_conditions() -> None:
    model = Small()
    before = torch.get_num_threads()
    benchmark([model], batch_sizes=[5], image_size=8, num_threads=1, **QUICK)
    assert set(model.calls) == {(5, 1, True)}
    assert torch.get_num_threads() == before


def test_all_candidates_of_a_batch_size_are_in_one_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[list[str]] = []

    def measure(calls: Mapping[str, Callable[[], object]], **options: Any) -> dict[str, Timing]:
        measured.append(list(calls))
        options["on_round"](options["rounds"], options["rounds"])
        one = Timing(samples_ms=(1.0,), cpu_samples_ms=(1.0,), calls_per_round=1, stable=True)
        return dict.fromkeys(calls, one)

    monkeypatch.setattr(module, "measure", measure)
    progress: list[tuple[int, int]] = []
    benchmark(
        [Small(), nn.Flatten()], batch_sizes=[1, 2], image_size=8, on_round=lambda *p: progress.append(p), **QUICK
    )
    assert measured == [["Small in torch", "Flatten in torch", "control: Small in torch"]] * 2
    assert progress == [(2, 4), (4, 4)]


def test_all_faults_of_a_request_are_named_at_once() -> None:
    with pytest.raises(ConfigError, match=r"benchmark: no models; no runtimes; batch sizes .* got \[1, 0\]"):
        benchmark([], batch_sizes=[1, 0], runtimes=[])
    with pytest.raises(ConfigError, match="image size must be positive, got 0"):
        benchmark(["efficientvit_tiny"], image_size=0)
    with pytest.raises(ConfigError, match="rounds must be at least 1, got 0"):
        benchmark([Small()], image_size=8, rounds=0)
