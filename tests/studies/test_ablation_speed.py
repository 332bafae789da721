from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from effvit.analysis.ablations import ABLATIONS
from effvit.deploy.speed.records import CONTROL, Missing, Protocol, Record, Row
from effvit.model.config import EfficientViTConfig
from effvit.model.layers import ChannelNorm
from effvit.model.network import EfficientViT
from effvit.model.resizing import with_windows
from effvit.model.variants import VARIANTS
from effvit.studies import ablation_speed
from effvit.studies.ablation_speed import FOLDED_BASE, control, measure_speeds
from effvit.studies.ablation_widths import SpeedSettings
from effvit.timing import Spread, Timing

BASE = replace(with_windows(VARIANTS["efficientvit_tiny"], image_size=32), num_classes=3)


def configs(*keys: str) -> list[EfficientViTConfig]:
    return [ABLATIONS[key].config(BASE) for key in keys]


class Stopwatch:
    """Stands for `benchmark`: everybody's milliseconds are given, processor time is half of them."""

    def __init__(self, eager: dict[str, float], onnx: dict[str, float], missing: Sequence[str] = ()) -> None:
        self.ms = {"torch": eager, "onnxruntime": onnx}
        self.missing = missing
        self.networks: dict[str, list[nn.Module]] = {}

    def __call__(self, networks: Sequence[nn.Module], *, runtimes: Sequence[str] = ("torch",), **how: Any) -> Record:
        (runtime,) = runtimes
        self.networks[runtime] = list(networks)
        assert how["form"] == ("plain" if runtime == "torch" else "dynamo")
        names = [network.config.name for network in networks]
        rows = [self._row(name, runtime, self.ms[runtime][name]) for name in names if name not in self.missing]
        rows.append(self._row(CONTROL + names[0], runtime, 1.25 * self.ms[runtime][names[0]]))
        missing = tuple(
            Missing(model=name, runtime=runtime, precision="fp32", batch_size=4, reason="no such operator")
            for name in names
            if name in self.missing
        )
        protocol = Protocol(
            batch_sizes=(4,),
            image_size=(32, 32),
            device="cpu",
            num_threads=1,
            rounds=2,
            min_round_seconds=0,
            warmup_seconds=0,
        )
        return Record(protocol=protocol, environment={}, rows=tuple(rows), missing=missing)

    def _row(self, name: str, runtime: str, ms: float) -> Row:
        timing = Timing(samples_ms=(ms, 2 * ms), cpu_samples_ms=(ms / 2, ms), calls_per_round=1, stable=True)
        return Row(
            model=name,
            form="",
            runtime=runtime,
            precision="fp32",
            batch_size=4,
            image_size=(32, 32),
            num_params=1,
            timing=timing,
            relative=Spread(1, 1, 1),
            is_control=name.startswith(CONTROL),
        )


def name(key: str) -> str:
    return f"efficientvit_tiny-{key}"


def test_speeds_are_over_the_base_in_the_same_form(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    watch = Stopwatch(
        {name("1"): 8.0, name("9"): 4.0, name("10"): 16.0},
        {name("1"): 2.0, name("9"): 2.5, name("10"): 6.0, FOLDED_BASE: 3.0},
    )
    monkeypatch.setattr(ablation_speed, "benchmark", watch)
    speeds, records = measure_speeds(configs("1", "9", "10"), tmp_path, SpeedSettings(batch_size=4))
    assert {key: speed.over_base.median for key, speed in speeds.eager.items()} == pytest.approx(
        {name("1"): 1.0, name("9"): 2.0, name("10"): 0.5}
    )
    # LayerNorm has no deploy form, so it is held against the base without it: 3 over 6 and not 2 over 6.
    assert {key: speed.over_base.median for key, speed in speeds.onnx.items()} == pytest.approx(
        {name("1"): 1.0, name("9"): 0.8, name("10"): 0.5}
    )
    assert {key: speed.is_deploy_form for key, speed in speeds.onnx.items()} == {
        name("1"): True,
        name("9"): True,
        name("10"): False,
    }
    assert speeds.eager[name("1")].images_per_second == pytest.approx(4 / 6e-3)  # processor time: 4 and 8 ms
    assert speeds.missing == {}
    again = control(records["eager"], "processor")
    assert again is not None and again.median == pytest.approx(0.8)


def test_what_is_timed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    watch = Stopwatch({name("1"): 8.0, name("10"): 16.0}, {name("1"): 2.0, name("10"): 6.0, FOLDED_BASE: 3.0})
    monkeypatch.setattr(ablation_speed, "benchmark", watch)
    measure_speeds(configs("1", "10"), tmp_path, SpeedSettings())
    folded, layer_norm = watch.networks["torch"]
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    assert any(isinstance(module, ChannelNorm) for module in layer_norm.modules())
    base, _, plain = watch.networks["onnxruntime"]
    assert isinstance(base, EfficientViT) and not isinstance(plain, EfficientViT)  # so it is not rewritten
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(plain(x), base(x))


def test_a_measurement_is_kept_as_long_as_it_is_of_the_same_networks(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    watch = Stopwatch({name("1"): 8.0, name("9"): 4.0}, {name("1"): 2.0, name("9"): 2.5})
    monkeypatch.setattr(ablation_speed, "benchmark", watch)
    first = measure_speeds(configs("1", "9"), tmp_path, SpeedSettings())
    assert FOLDED_BASE not in [network.config.name for network in watch.networks["onnxruntime"]]  # nobody needs it
    watch.ms["torch"][name("9")] = 1.0
    assert measure_speeds(configs("1", "9"), tmp_path, SpeedSettings()) == first
    other, _ = measure_speeds(configs("1", "9"), tmp_path, SpeedSettings(batch_size=4))
    assert other.eager[name("9")].over_base.median == 8.0
    fewer, _ = measure_speeds(configs("1"), tmp_path, SpeedSettings(batch_size=4))
    assert list(fewer.eager) == [name("1")]


def test_what_cannot_be_measured_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    times = {name("1"): 8.0, name("9"): 4.0}
    monkeypatch.setattr(ablation_speed, "benchmark", Stopwatch(times, times, missing=[name("9")]))
    speeds, _ = measure_speeds(configs("1", "9"), tmp_path, SpeedSettings())
    assert list(speeds.eager) == list(speeds.onnx) == [name("1")]
    assert speeds.missing == {
        f"{name('9')} in torch": "no such operator",
        f"{name('9')} in onnxruntime": "no such operator",
    }


@pytest.mark.slow
def test_measured_for_real(tmp_path: Path) -> None:
    settings = SpeedSettings(batch_size=2, report_rounds=3, report_seconds=0.01)
    speeds, records = measure_speeds(configs("1", "5", "10"), tmp_path, settings)
    assert list(speeds.eager) == list(speeds.onnx) == [name("1"), name("5"), name("10")]
    assert speeds.missing == {}
    assert [speed.is_deploy_form for speed in speeds.onnx.values()] == [True, False, False]
    for found in (speeds.eager, speeds.onnx):
        assert found[name("1")].over_base.median == 1.0
        assert all(0.02 < speed.over_base.median < 50 for speed in found.values())
    assert len(list((tmp_path / "exported").glob("*.onnx"))) == 4
    assert control(records["onnx"], "processor") is not None
