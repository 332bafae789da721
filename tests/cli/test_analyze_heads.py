"""`effvit analyze heads` as a person types it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import one_line, result
from helpers import randomise, write_photos

import effvit
from effvit.cli.analyze_heads import find_pictures, weights_for
from effvit.cli.main import run
from effvit.errors import DataError
from effvit.model.checkpoints import WeightsInfo, save
from effvit.preprocessing import Preprocessing

HEADS = ["analyze", "heads"]
FACTORIES = """
import effvit, timm, torch

def vit():
    torch.manual_seed(1)
    return timm.create_model("vit_tiny_patch16_224", img_size=48, depth=2, embed_dim=24, num_heads=3, num_classes=3)

def small():
    return effvit.create_model("efficientvit_tiny", image_size=64)

def broken():
    network = small()
    for parameter in network.parameters():
        torch.nn.init.constant_(parameter, float("nan"))
    return network

def one_channel():
    return effvit.create_model("efficientvit_tiny", in_channels=1)
"""


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return write_photos(tmp_path / "photos", classes=("a", "b"), count=4)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    network = effvit.create_model("efficientvit_tiny", num_classes=3, image_size=64)
    info = WeightsInfo(class_names=("a", "b", "c"), preprocessing=Preprocessing(image_size=(64, 64)))
    return save(tmp_path / "trained", randomise(network), info)  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def factories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nets_for_heads.py").write_text(FACTORIES)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "nets_for_heads", raising=False)
    monkeypatch.chdir(tmp_path)


def test_several_models_with_splits(photos: Path, weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [str(weights), "nets_for_heads:vit", "--data", str(photos), "--splits", "--num-pictures", "3"]
    arguments += ["--image-size", "48"]
    models = result([*HEADS, *arguments], capsys)["models"]
    assert [(model["model"], model["variant"], model["weights"]) for model in models] == [
        ("trained", "", "trained"),
        ("trained", "head splits, no cascade", "trained"),
        ("nets_for_heads:vit", "", "given"),
        ("nets_for_heads:vit", "head splits", "given"),
    ]
    assert all(model["num_pictures"] == 3 for model in models)
    assert [len(model["blocks"]) for model in models] == [4, 4, 2, 2]
    assert all(0 < block["similarity"] <= 1 for model in models for block in model["blocks"] if block["num_windows"])
    again = result([*HEADS, *arguments, "--batch-size", "2"], capsys)["models"]
    for model, other in zip(models, again, strict=True):
        for block, same in zip(model["blocks"], other["blocks"], strict=True):
            assert same["similarity"] == pytest.approx(block["similarity"], abs=1e-6)


def test_maps_and_a_page(photos: Path, weights: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    arguments = [str(weights), "--data", str(photos), "--num-pictures", "2", "--maps", "--blocks", "1"]
    assert run([*HEADS, *arguments, "--output", "out"]) == 0
    text = capsys.readouterr().out
    assert "| block | place" in text and "Fig. 4" in text
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert written == {"record.json", "report.md", "page.html", "similarity.png", "maps.png"}
    record = json.loads((tmp_path / "out" / "record.json").read_text())
    assert record["analysis"] == "heads" and record["models"][0]["num_pictures"] == 2
    assert str(tmp_path) not in (tmp_path / "out" / "report.md").read_text().replace(str(photos), "")


def test_random_weights_are_asked_for_and_said(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["efficientvit_tiny", "--data", str(photos), "--image-size", "64"]
    assert "efficientvit_tiny is a name without weights: add --weights pretrained or a file" in one_line(
        [*HEADS, *arguments], capsys
    )
    first = result([*HEADS, *arguments, "--weights", "random"], capsys)["models"]
    assert first == result([*HEADS, *arguments, "--weights", "random"], capsys)["models"]
    assert first[0]["weights"] == "random"
    assert run([*HEADS, *arguments, "--weights", "random"]) == 0
    assert "RANDOM" in capsys.readouterr().out


def test_folders_and_functions_keep_their_weights_beside_names(
    photos: Path, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = ["--data", str(photos), "--weights", "random", "--num-pictures", "1", "--image-size", "64"]
    named = [str(weights), "nets_for_heads:small", "efficientvit_tiny", "efficientvit_tiny"]
    models = result([*HEADS, *named, *shown], capsys)["models"]
    assert [model["weights"] for model in models] == ["trained", "given", "random", "random"]
    assert [model["model"] for model in models][::3] == ["trained", "efficientvit_tiny (2)"]
    assert "weights random cannot be given for" in one_line([*HEADS, str(weights), *shown], capsys)


def test_names_of_other_libraries_get_the_weights(weights: Path) -> None:
    names = ["timm:deit_tiny_patch16_224", "torchvision:vit_b_16", "vit_tiny_patch16_224"]
    models = [*names, str(weights), "nets_for_heads:vit"]
    assert [weights_for(source, "pretrained", models) for source in models] == [*["pretrained"] * 3, None, None]


def test_an_unreadable_picture_is_counted(photos: Path, weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (photos / "a" / "0.png").write_bytes(b"no picture")
    record = result([*HEADS, str(weights), "--data", str(photos)], capsys)
    assert record["models"][0]["num_pictures"] == 7
    assert record["notes"] == ["1 of 8 pictures could not be read and were left out."]
    alone = str(photos / "a" / "0.png")
    told = one_line([*HEADS, str(weights), "--data", alone], capsys)
    assert "no pictures to look at: " in told and alone in told
    message = one_line([*HEADS, str(weights), "--data", str(photos), "--maps", "--output", "out"], capsys)
    assert "picture 1, whose maps are to be drawn: cannot read picture" in message
    (photos / "b" / "0.png").write_bytes(b"")
    assert "at least 2 of 8 pictures cannot be read" in one_line([*HEADS, str(weights), "--data", str(photos)], capsys)


def test_bad_input_is_one_line(photos: Path, weights: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    shown = [str(weights), "--data", str(photos)]
    drawn = [*shown, "--maps", "--output", "out"]
    for arguments, message in (
        ([*shown, "--maps"], "--maps draws pictures: say where to with --output"),
        ([*shown, "--blocks", "1"], "--blocks says of which blocks --maps draws maps; add --maps"),
        ([*drawn, "--blocks", "5"], "there is no block 5: 4 blocks with attention"),
        ([*drawn, "--blocks", "x"], "--blocks must be positive whole numbers"),
        ([*drawn, "--picture", "9"], "there is no picture 9: 8 pictures in all"),
        ([*shown, "--num-pictures", "0"], "--num-pictures must be at least 1"),
        (["efficientvit_tyni", "--data", str(photos)], "unknown model 'efficientvit_tyni'"),
        (["timm:resnet10t", "--weights", "random", "--data", str(photos)], "ResNet has no attention"),
        (["nets_for_heads:one_channel", *shown[1:]], "takes pictures of 1 channels, and photos have 3"),
        (["nets_for_heads:vit", *shown[1:]], "does not run on pictures of 3 x 224 x 224: Input height (224)"),
        (["nets_for_heads:vit", *drawn[1:]], "does not run on pictures"),
        ([str(weights), "--data", "nowhere"], "nowhere"),
        ([str(weights)], "--data"),
    ):
        assert message in one_line([*HEADS, *arguments], capsys)
    assert not (tmp_path / "out").exists()


def test_pictures_of_every_kind_of_source(photos: Path, tmp_path: Path) -> None:
    assert [sample.name for sample in find_pictures(str(photos), 4)] == [
        str(photos / name) for name in ("a/0.png", "a/2.png", "b/0.png", "b/2.png")
    ]
    assert len(find_pictures(str(photos), 99)) == 8
    plain = photos / "a"
    assert [sample.path.name for sample in find_pictures(str(plain), 2)] == ["0.png", "2.png"]
    assert [sample.path for sample in find_pictures(str(plain / "1.png"), 64)] == [plain / "1.png"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no pictures in .*empty"):
        find_pictures(str(tmp_path / "empty"), 1)
    with pytest.raises(DataError, match="nowhere"):
        find_pictures(str(tmp_path / "nowhere"), 1)


def test_weights_that_are_no_numbers_are_one_line(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [
        "nets_for_heads:broken",
        "--data",
        str(photos),
        "--image-size",
        "64",
        "--output",
        str(tmp_path / "out"),
    ]
    message = one_line([*HEADS, *arguments], capsys)
    assert message.startswith("error: the attention maps of stages.0.0.attention.body")
    assert message.endswith("are not finite: look at the weights\n") and not (tmp_path / "out").exists()
