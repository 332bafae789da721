"""The benchmark of loading, `benchmarks/loading.py`: it compares equal things and keeps what it finds."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from benchmark_scripts import load

from effvit.errors import EffvitError


# timm's data set leaves its files to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_the_loading_benchmark_keeps_a_record(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    loading = load("loading", monkeypatch)
    shop = loading.PHOTO_SETS[0]._replace(sizes=(48,))
    monkeypatch.setattr(loading, "PHOTO_SETS", (shop,))
    output = tmp_path / "record.json"
    monkeypatch.setattr("sys.argv", ["loading.py", "--quick", "--data", str(data_dir), "--output", str(output)])
    assert loading.main() == 0
    text = output.read_text()
    record = json.loads(text)
    assert str(tmp_path) not in text and str(data_dir) not in text
    assert record["command"] == "python benchmarks/loading.py --rounds 2 --quick"
    cases = [(row["recipe"], row["num_workers"]) for row in record["rows"]]
    assert cases == [(recipe, workers) for recipe in loading.RECIPES for workers in (0, 1)]
    for row in record["rows"]:
        ratios = [t / o for t, o in zip(*(row["timings"][k]["samples_ms"] for k in ("timm", "ours")), strict=True)]
        assert min(ratios) <= row["timm_over_ours"]["median"] <= max(ratios)
        assert row["pictures_per_second"]["ours"] > 0
    table = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert len(table) == 2 + len(record["rows"])


def test_loaders_that_give_other_pictures_are_not_timed(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loading = load("loading", monkeypatch)
    loading.PHOTO_SETS[0].write(data_dir, tmp_path / "photos", 8)
    loading._check_same_pictures(tmp_path, 48)
    recipe = dataclasses.replace(loading.RECIPES["crop, flip, jitter"], crop_scale=(0.5, 1.0))
    monkeypatch.setitem(loading.RECIPES, "crop, flip, jitter", recipe)
    with pytest.raises(EffvitError, match=r"not the same picture: mean difference .* of 255 \(allowed: 4\) at 48 px"):
        loading._check_same_pictures(tmp_path, 48)
