"""`effvit analyze prune` as a person uses it: a plan, pruned weights, and training that goes on from them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from command_line import one_line, result
from helpers import randomise

import effvit
from effvit.cli import analyze_prune
from effvit.cli.main import run
from effvit.cli.pruning_pictures import pictures_for
from effvit.data.datasets import find_data
from effvit.model.checkpoints import WeightsInfo
from effvit.model.pruned import read_pruned
from effvit.model.sources import find_model
from effvit.preprocessing import Preprocessing
from effvit.train.config import TrainConfig
from effvit.train.runs import RunFolder

FAST = ["--batches", "2", "--batch-size", "8", "--device", "cpu"]


@pytest.fixture(scope="module")
def weights(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A weights folder of a network for the photos' classes."""
    model = randomise(effvit.create_model("efficientvit_tiny", num_classes=3, image_size=64))
    names = tuple(sorted(folder.name for folder in photos.iterdir()))
    info = WeightsInfo(class_names=names, preprocessing=Preprocessing(image_size=(64, 64)))
    return effvit.save(tmp_path_factory.mktemp("tiny") / "weights", model, info)


def test_pruned_weights_are_trained_on(
    photos: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "pruned"
    prune = ["analyze", "prune", str(weights), str(photos), "--limit", "macs=70%", *FAST]
    record = result([*prune, "--output", str(out)], capsys)
    plan = record["plan"]
    assert plan["macs"]["pruned"] <= 0.7 * plan["macs"]["full"]
    assert record["scores"]["num_pictures"] == 16 and record["before_fine_tuning"]["full"]["num_pictures"] > 0
    assert {path.name for path in out.iterdir()} == {
        "record.json", "report.md", "ratios.png", "importance.png", "page.html", "weights",
    }  # fmt: skip
    pruned, info = effvit.load(out)
    assert json.loads(pruned.config.to_json()) == plan["network"]
    assert sum(p.numel() for p in pruned.parameters()) == plan["params"]["pruned"]
    assert info.provenance["limit"] == "macs=70%" and len(info.class_names or ()) == 3
    assert "`effvit train DATA --weights OUTPUT/weights`" in str(analyze_prune.prune.__doc__)
    train = ["train", str(photos), "--weights", str(out / "weights"), "--epochs", "1", "--device", "cpu", "--output"]
    assert run([*train, str(tmp_path / "run")]) == 0
    trained, _ = effvit.load(tmp_path / "run")
    assert trained.config == pruned.config
    assert RunFolder.open(tmp_path / "run").read_network() == pruned.config  # what --resume goes on with
    text = one_line([*train, str(tmp_path / "other"), "--model", "efficientvit_m0"], capsys)
    assert "holds weights of efficientvit_tiny_pruned, not of efficientvit_m0" in text


def test_a_plan_in_words_writes_nothing(
    photos: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert (
        run(["analyze", "prune", str(weights), str(photos), "--limit", "params=80%", "--parts", "qk,ffn", *FAST]) == 0
    )
    captured = capsys.readouterr()
    assert "The plan meets params=80%" in captured.out and "| stage 2, block 1, after" in captured.out
    assert "V channels" not in captured.out and "nothing was written; --output FOLDER" in captured.err
    assert list(tmp_path.iterdir()) == []


def test_what_a_run_held_out_stays_held_out(photos: Path, tmp_path: Path) -> None:
    """Whatever --seed is: the accuracy before and after must be of pictures that the network has not seen."""
    data = find_data(photos, seed=3, val_fraction=0.4)
    RunFolder.create(tmp_path / "run", TrainConfig(seed=3, val_fraction=0.4), data)
    assert data.val != find_data(photos).val
    for source in (tmp_path / "run", tmp_path / "run" / "weights-last"):
        assert pictures_for(str(photos), str(source), 0).val == data.val
    assert pictures_for(str(photos), "efficientvit_m0", 0).val == find_data(photos).val


@pytest.mark.slow
def test_a_limit_of_latency(photos: Path, weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """How fast it gets decides nothing here: only that both were timed and that the smallest is told if it must be."""
    arguments = ["analyze", "prune", str(weights), str(photos), "--limit", "latency=97%", *FAST]
    code = run([*arguments, "--json"])
    captured = capsys.readouterr()
    if code:
        assert "the limit latency=97% cannot be met" in captured.err
        return
    times = json.loads(captured.out)["plan"]["latency_ms"]
    assert 0 < times["pruned"] <= 0.97 * times["full"]


def test_a_network_of_timm(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By name, for the pictures' classes; the folder opens again."""
    name = "timm:deit_tiny_patch16_224"
    arguments = [
        "analyze",
        "prune",
        name,
        str(photos),
        "--limit",
        "params=80%",
        "--weights",
        "random",
        "--multiple",
        "64",
    ]
    record = result([*arguments, "--image-size", "32", *FAST, "--output", str(tmp_path / "deit")], capsys)
    assert any("weights are random" in line for line in (tmp_path / "deit" / "report.md").read_text().splitlines())
    found = find_model(tmp_path / "deit")
    assert sum(p.numel() for p in found.network.parameters()) == record["plan"]["params"]["pruned"]
    assert found.network(torch.zeros(1, 3, 32, 32)).shape == (1, 3)


def test_what_cannot_be_is_said_in_one_line(
    photos: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start, end = ["analyze", "prune"], [*FAST, "--limit", "macs=50%"]
    own = [*start, str(weights), str(photos), *FAST]
    assert "the limit macs=1% cannot be met: that is" in one_line([*own, "--limit", "macs=1%"], capsys)
    assert "limit must be like macs=70%" in one_line([*own, "--limit", "half"], capsys)
    assert "unknown part to prune 'v'" in one_line([*own, "--limit", "macs=50%", "--parts", "v"], capsys)
    assert "--order must be per_cost or plain" in one_line([*own, "--limit", "macs=50%", "--order", "x"], capsys)
    assert "--batches must be at least 1" in one_line([*own, "--limit", "macs=50%", "--batches", "0"], capsys)
    assert "efficientvit_tiny is a name without weights: add --weights" in one_line(
        [*start, "efficientvit_tiny", str(photos), *end], capsys
    )
    assert "unknown model 'efficientvit_m9'" in one_line([*start, "efficientvit_m9", str(photos), *end], capsys)
    (tmp_path / "empty").mkdir()
    assert "empty" in one_line([*start, str(weights), str(tmp_path / "empty"), *end], capsys)
    for name in ("ananas", "zebra"):
        (tmp_path / "others" / name).mkdir(parents=True)
        for index, path in enumerate(sorted(photos.rglob("*.jpg"))[:3]):
            (tmp_path / "others" / name / f"{index}.jpg").symlink_to(path)
    text = one_line([*start, str(weights), str(tmp_path / "others"), *end], capsys)
    assert "weights has 3 classes and the pictures 2 that do not fit them, such as 'ananas'" in text
    text = one_line([*start, "torchvision:squeezenet1_1", str(photos), *end, "--weights", "random"], capsys)
    assert "SqueezeNet has nothing to prune among qk" in text


FACTORIES = """
import timm, torch

def maps():
    return torch.nn.Sequential(timm.layers.Mlp(8, 16))

def vit():
    torch.manual_seed(0)
    return timm.create_model("vit_tiny_patch16_224", img_size=48, depth=2, embed_dim=24, num_heads=3, num_classes=3)
"""


@pytest.fixture
def factories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nets_to_prune.py").write_text(FACTORIES)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "nets_to_prune", raising=False)


@pytest.mark.usefixtures("factories")
def test_a_pruned_network_of_timms_parts_is_a_model_for_every_analysis(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Counted, looked at, pruned again: and what it is cut from stays one's own function."""
    once, twice = tmp_path / "once", tmp_path / "twice"
    end = [*FAST, "--image-size", "48", "--output"]
    result(["analyze", "prune", "nets_to_prune:vit", str(photos), "--limit", "params=90%", *end, str(once)], capsys)
    result(["analyze", "prune", str(once), str(photos), "--limit", "params=90%", *FAST, "--output", str(twice)], capsys)
    saved = read_pruned(twice)
    assert saved is not None and saved.source == "nets_to_prune:vit" and saved.image_size == (48, 48)
    sizes = [sum(p.numel() for p in find_model(place).network.parameters()) for place in ("nets_to_prune:vit", twice)]
    assert sizes[1] <= 0.81 * sizes[0]
    seen = result(["analyze", "heads", str(twice), "--data", str(photos), "--num-pictures", "2"], capsys)
    assert [block["num_heads"] for block in seen["models"][0]["blocks"]] == [3, 3]
    counted = result(["profile", str(twice), "--cost-only"], capsys)
    assert str(sizes[1]) in json.dumps(counted)


@pytest.mark.usefixtures("factories")
def test_a_network_that_is_no_classifier_is_said(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["analyze", "prune", "nets_to_prune:maps", str(photos), "--limit", "macs=80%", "--image-size", "8"]
    text = one_line([*arguments, *FAST], capsys)
    assert "nets_to_prune:maps must give a score for each class, (pictures, classes), to be scored, got shape" in text
