"""The scripts in `benchmarks/`: they compare equal things and keep what they find. Never how fast."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from types import ModuleType

import pytest
import torch
from benchmark_scripts import load

from effvit.deploy.speed.records import read_record
from effvit.deploy.speed.sources import find_entrant
from effvit.errors import EffvitError
from effvit.timing import paired_ratio


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return load("eager_vs_timm", monkeypatch)


@pytest.fixture
def targets(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The table of targets with one run of small networks, as long as `--quick`."""
    module = load("targets", monkeypatch)
    models = ("efficientvit_tiny", "mobilenetv3_small_050@plain", "mobilenetv3_small_050@channels_last")
    run = module.Run(models=models, runtimes=("torch",), batch_sizes=(1,))
    rivals = tuple((model, "torch", "fp32") for model in models[1:])
    common = {"run": "small", "batch_size": 1, "ours": (models[0], "torch", "fp32")}
    monkeypatch.setattr(module, "RUNS", {"small": run})
    monkeypatch.setattr(
        module,
        "TARGETS",
        (
            module.Target(text="one", rivals=rivals[:1], at_least=1e-9, **common),
            module.Target(text="fastest of two", rivals=rivals, at_least=1e9, **common),
            module.Target(text="not there", rivals=(("x", "torch", "fp32"),), at_least=1, **common),
        ),
    )
    return module


@pytest.mark.slow
def test_targets_are_measured_once_and_judged(
    targets: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["targets.py", "--rounds", "2", "--records", str(tmp_path)])
    assert targets.main() == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")][2:]
    assert [line.split("|")[-2].strip() for line in lines] == ["yes", "no", ""]
    text = (tmp_path / "small.json").read_text()
    record = read_record(tmp_path / "small.json")
    assert record.command == "python benchmarks/targets.py small --rounds 2" and str(tmp_path) not in text
    rows = {row.model: row for row in record.rows}
    ratio = paired_ratio(rows["mobilenetv3_small_050@plain"].timing, rows["efficientvit_tiny"].timing)
    assert f"{ratio.median:.3f}" in lines[0]
    rivals = [row.timing for name, row in rows.items() if name.startswith("mobilenet")]
    fastest = paired_ratio(min(rivals, key=lambda t: t.latency_ms), rows["efficientvit_tiny"].timing)
    assert f"{fastest.median:.3f}" in lines[1] and "not measured" in lines[2]

    monkeypatch.setattr(targets, "benchmark", None)  # would fail if it was called
    assert targets.main() == 0
    assert "taken from small.json" in capsys.readouterr().err


def test_the_targets_are_those_of_the_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    targets = load("targets", monkeypatch)
    for target in targets.TARGETS:
        run = targets.RUNS[target.run]
        for model, runtime, precision in (target.ours, *target.rivals):
            assert model in run.models and runtime in run.runtimes and precision in run.precisions
            find_entrant(model, image_size=(64, 64))
        assert target.batch_size in run.batch_sizes
        assert target.ours == (run.models[0], run.runtimes[0], run.precisions[0])  # whom the control is of
    assert {target.run for target in targets.TARGETS} == set(targets.RUNS)


def test_a_wrong_run_ends_the_script(
    targets: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["targets.py", "smoll"])
    with pytest.raises(SystemExit, match="2"):
        targets.main()
    assert "unknown runs smoll; known: small" in capsys.readouterr().err


@pytest.mark.slow
def test_peers_leave_a_report_per_runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    peers = load("peers", monkeypatch)
    monkeypatch.setattr(peers, "benchmark", partial(peers.benchmark, image_size=32))
    arguments = ["efficientvit_tiny", "mobilenetv3_small_050", "--runtimes", "torch", "--rounds", "1"]
    monkeypatch.setattr(sys, "argv", ["peers.py", *arguments, "--records", str(tmp_path)])
    assert peers.main() == 0
    record = read_record(tmp_path / "torch" / "record.json")
    assert record.command == (
        "python benchmarks/peers.py efficientvit_tiny mobilenetv3_small_050 --runtimes torch --rounds 1"
    )
    assert len(record.shares) == 4 and (tmp_path / "torch" / "page.html").is_file()
    assert set(peers.MODELS) >= {"efficientvit_m0", "efficientvit_m5", "cpubone_nano", "shvit_s4"}


def test_the_eager_benchmark_keeps_a_record(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "record.json"
    cases = [script.Case("forward", False, 1), script.Case("forward + backward", True, 2)]
    monkeypatch.setattr(script, "CASES", cases)
    command = ["eager_vs_timm.py", "m0", "--quick", "--threads", "1", "--output", str(output)]
    monkeypatch.setattr("sys.argv", command)
    assert script.main() == 0
    text = output.read_text()
    record = json.loads(text)
    assert str(tmp_path) not in text
    assert record["command"] == "python benchmarks/eager_vs_timm.py m0 --threads 1 --quick"
    assert [(row["case"], row["batch_size"]) for row in record["rows"]] == [("forward", 1), ("forward + backward", 2)]
    for row in record["rows"]:
        assert list(row["timings"]) == ["ours", "timm", "ours again"]
        ratios = [t / o for t, o in zip(*(row["timings"][k]["samples_ms"] for k in ("timm", "ours")), strict=True)]
        assert min(ratios) <= row["timm_over_ours"]["median"] <= max(ratios)
    table = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert len(table) == 2 + len(record["rows"])


def test_both_networks_are_trained_alike(script: ModuleType) -> None:
    pair = script.same_networks("efficientvit_m0")
    images, targets = torch.randn(2, 3, 64, 64), torch.arange(2)
    for model in pair.values():
        script._training_step(model, images, targets)()
        assert all(parameter.grad is not None for parameter in model.parameters())


def test_networks_that_differ_are_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    networks = load("same_networks", monkeypatch)
    weights = networks.foreign_state_dict

    def wrong(*arguments: object) -> dict[str, torch.Tensor]:
        return {name: value * 1.1 if "head" in name else value for name, value in weights(*arguments).items()}

    monkeypatch.setattr(networks, "foreign_state_dict", wrong)
    with pytest.raises(EffvitError, match="efficientvit_m0: ours and timm's are not the same network: largest error"):
        networks.same_networks("efficientvit_m0")


def test_a_wrong_name_ends_the_script(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["eager_vs_timm.py", "m6"])
    with pytest.raises(SystemExit, match="2"):
        script.main()
    assert "unknown models m6; known: m0, m1" in capsys.readouterr().err


@pytest.mark.slow
def test_pruning_is_measured_end_to_end_and_goes_on(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Trained, cut, trained on beside its control; what is finished is not trained again."""
    pruning = load("pruning", monkeypatch)
    for part, chosen in (("train", slice(0, 4)), ("val", slice(4, 6))):
        for folder in photos.iterdir():
            (tmp_path / "photos" / part / folder.name).mkdir(parents=True)
            for path in sorted(folder.iterdir())[chosen]:
                (tmp_path / "photos" / part / folder.name / path.name).symlink_to(path)
    arguments = ["--data", str(tmp_path / "photos"), "--folder", str(tmp_path / "work"), "--quick", "--scratch"]
    monkeypatch.setattr(sys, "argv", ["pruning.py", *arguments])
    assert pruning.main() == 0
    lines = [line.split("|")[1:-1] for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    macs = {line[0].strip(): float(line[2]) for line in lines if len(line) == 6 and line[1].strip() == "0"}
    assert list(macs) == ["full", "pruned", "scratch, shape of pruned", "control"]
    assert macs["pruned"] == macs["scratch, shape of pruned"] <= 0.7 * macs["full"] == 0.7 * macs["control"]

    monkeypatch.setattr(pruning, "prune_model", None)  # would fail if it was called
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "work").rglob("*.safetensors")}
    assert pruning.main() == 0
    assert {path: path.stat().st_mtime_ns for path in written} == written
    monkeypatch.setattr(sys, "argv", ["pruning.py", *arguments, "--limit", "macs=60%"])
    with pytest.raises(EffvitError, match="per_cost in seed0 was pruned with other settings; give another --folder"):
        pruning.main()
