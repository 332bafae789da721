"""The scripts in `benchmarks/`: they compare equal things and keep what they find. Never how fast."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest
import torch

from effvit.errors import EffvitError

SCRIPTS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("eager_vs_timm", SCRIPTS / "eager_vs_timm.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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
    pair = script._same_networks("efficientvit_m0")
    images, targets = torch.randn(2, 3, 64, 64), torch.arange(2)
    for model in pair.values():
        script._training_step(model, images, targets)()
        assert all(parameter.grad is not None for parameter in model.parameters())


def test_networks_that_differ_are_not_timed(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = script.foreign_state_dict

    def wrong(*arguments: object) -> dict[str, torch.Tensor]:
        return {name: value * 1.1 if "head" in name else value for name, value in weights(*arguments).items()}

    monkeypatch.setattr(script, "foreign_state_dict", wrong)
    with pytest.raises(EffvitError, match="efficientvit_m0: ours and timm's are not the same network: largest error"):
        script._same_networks("efficientvit_m0")


def test_a_wrong_name_ends_the_script(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["eager_vs_timm.py", "m6"])
    with pytest.raises(SystemExit, match="2"):
        script.main()
    assert "unknown models m6; known: m0, m1" in capsys.readouterr().err
