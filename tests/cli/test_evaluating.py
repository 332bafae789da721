"""`effvit eval` and `predict` on every kind of model, with the same preprocessing for all."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torchvision
from command_line import one_line, result
from helpers import randomise
from timm.data import create_transform, resolve_model_data_config

import effvit
from effvit.cli.classifiers import Classifier
from effvit.cli.evaluation_jobs import find_labelled
from effvit.cli.main import run
from effvit.cli.published import describe
from effvit.data.pictures import read_picture
from effvit.data.transforms import eval_transform, normalize
from effvit.model.checkpoints import WeightsInfo, save, save_foreign
from effvit.preprocessing import Preprocessing

pytestmark = pytest.mark.usefixtures("undrawn")

SQUEEZENET = "torchvision:squeezenet1_1"


@pytest.fixture(scope="module")
def squeezenet(data_dir: Path) -> list[str]:
    """A published network and its published weights."""
    return [SQUEEZENET, "--weights", str(data_dir / "weights" / "squeezenet1_1_imagenet_fp16.safetensors")]


@pytest.fixture(scope="module")
def imagenet_folders(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The 100 photos as ImageNet lies on disks: a folder for each synset."""
    root = tmp_path_factory.mktemp("imagenet") / "val"
    folder = data_dir / "imagenet_sample"
    with (folder / "labels.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            (root / row["synset"]).mkdir(parents=True, exist_ok=True)
            (root / row["synset"] / row["file"]).symlink_to(folder / "images" / row["file"])
    return root


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A weights folder of a network that says something different of every picture."""
    network = effvit.create_model("efficientvit_tiny", num_classes=3, image_size=32)
    info = WeightsInfo(class_names=("a", "b", "c"), preprocessing=Preprocessing(image_size=(32, 32)))
    return save(tmp_path / "weights", randomise(network), info)  # type: ignore[arg-type]


@pytest.fixture
def labelled(weights: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """Photos labelled with what that network says of them, every fifth wrongly: a network that is often right."""
    root = tmp_path / "labelled"
    for index, row in enumerate(result(["predict", str(weights), str(photos)], capsys)):
        name = row["classes"][1 if index % 5 == 0 else 0]["name"]
        (root / name).mkdir(parents=True, exist_ok=True)
        (root / name / f"{index}.jpg").symlink_to(row["path"])
    return root


def is_as_published(summary: dict[str, Any]) -> None:
    """65 and 85 of 100, by torchvision's own preset (README of the data)."""
    assert summary["num_pictures"] == 100
    assert summary["top1"] == pytest.approx(0.65, abs=0.02)
    assert summary["top5"] == pytest.approx(0.85, abs=0.02)
    assert summary["macro_f1"] == pytest.approx(summary["top1"], abs=0.15)  # over the 100 classes that are there


def test_published_network_reaches_its_published_accuracy(
    squeezenet: list[str], imagenet_folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["eval", SQUEEZENET, str(imagenet_folders), *squeezenet[1:], "--output", str(tmp_path / "out")]
    is_as_published(result(arguments, capsys))
    with (tmp_path / "out" / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows[0]["true"] == "tench" and len(rows) == 100


def test_folders_and_lists_are_read_by_synset_name_and_number(
    data_dir: Path, imagenet_folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = data_dir / "imagenet_sample" / "labels.csv"
    numbered = tmp_path / "numbers.csv"
    with labels.open(newline="") as source, numbered.open("w", newline="") as target:
        rows = list(csv.DictReader(source))
        paths = [(labels.parent / "images" / row["file"], row["index"]) for row in rows]
        csv.writer(target).writerows([("path", "label"), *paths])
    description = describe("timm:mobilenetv3_small_100")
    classifier = Classifier(
        predict=lambda images: images,
        class_names=description.class_names,
        preprocessing=description.preprocessing,
        device="cpu",
        namings=description.namings,
    )
    by_number = tmp_path / "by-number"
    for row in rows:
        (by_number / row["index"]).mkdir(parents=True)
        (by_number / row["index"] / row["file"]).symlink_to(labels.parent / "images" / row["file"])
    expected = {row["file"]: int(row["index"]) for row in rows}
    for place, naming in ((imagenet_folders, "synsets"), (by_number, "class numbers"), (numbered, ""), (labels, "")):
        samples = find_labelled(str(place), classifier)
        assert {sample.path.name: sample.target for sample in samples} == expected
        assert naming in capsys.readouterr().err  # a reading that is not by name is said


@pytest.mark.slow
def test_file_of_another_tool_is_evaluated_like_its_network(
    squeezenet: list[str], imagenet_folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from effvit.cli.published import open_published

    network = open_published(SQUEEZENET, squeezenet[2]).eval()
    file = tmp_path / "squeezenet.onnx"
    batch = torch.export.Dim("batch", min=1, max=512)
    example = torch.randn(2, 3, 224, 224)
    torch.onnx.export(network, (example,), file, dynamo=True, dynamic_shapes=({0: batch},), verbose=False)
    line = one_line(["eval", str(file), str(imagenet_folders), "--output", str(tmp_path / "no")], capsys)
    assert "does not name its classes" in line and "--like" in line
    common = [str(imagenet_folders), "--output", str(tmp_path / "out")]
    of_file = result(["eval", str(file), "--like", SQUEEZENET, *common], capsys)
    of_network = result(["eval", SQUEEZENET, *squeezenet[1:], *common], capsys)
    is_as_published(of_file)
    assert of_file["top1"] == of_network["top1"] and of_file["loss"] == pytest.approx(of_network["loss"], rel=1e-4)


@pytest.mark.parametrize("name", ["mobilenetv3_small_100", "efficientvit_m5", "resnet50.a1_in1k", "tf_efficientnet_b0"])
def test_timm_networks_are_fed_what_timm_feeds_them(name: str, photos: Path) -> None:
    ours = describe(f"timm:{name}").preprocessing
    config = resolve_model_data_config(timm.create_model(name), use_test_size=True)
    theirs = create_transform(**config, is_training=False)
    picture = read_picture(next(photos.rglob("*.jpg")))
    mine = normalize(eval_transform(ours)(picture)[None], ours)[0]
    torch.testing.assert_close(mine, theirs(picture), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["squeezenet1_1", "resnet50", "mobilenet_v3_small", "efficientnet_b3"])
def test_torchvision_networks_are_fed_what_torchvision_feeds_them(name: str, photos: Path) -> None:
    for own_weights in (True, False):
        choices = torchvision.models.get_model_weights(name)
        theirs = (next(iter(choices)) if own_weights else choices.DEFAULT).transforms()
        ours = describe(f"torchvision:{name}", own_weights=own_weights).preprocessing
        picture = read_picture(next(photos.rglob("*.jpg")))
        mine = normalize(eval_transform(ours)(picture)[None], ours)[0]
        torch.testing.assert_close(mine, theirs(picture), rtol=0, atol=1e-5)


def test_network_of_ours_by_name_is_read_as_imagenets(
    imagenet_folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As `effvit eval efficientvit_m0 imagenet/val --weights imagenet`, with random weights and no download."""
    some = tmp_path / "val"
    some.mkdir()
    for folder in sorted(imagenet_folders.iterdir())[:5]:
        (some / folder.name).symlink_to(folder)
    path = save_foreign(tmp_path / "official.pth", effvit.create_model("efficientvit_tiny"), "official")
    arguments = ["eval", "efficientvit_tiny", str(some), "--weights", str(path), "--image-size", "64"]
    summary = result([*arguments, "--output", str(tmp_path / "out")], capsys)
    assert summary["num_pictures"] == 5
    assert [row["name"] for row in summary["per_class"] if row["num_pictures"]][:2] == ["tench", "brambling"]


def test_names_of_imagenets_classes_are_all_different() -> None:
    names = describe("timm:mobilenetv3_small_100").class_names
    assert len(set(names)) == 1000 and names[134] == "crane (n02012849)" and names[517] == "crane (n03126707)"
    categories = torchvision.models.SqueezeNet1_1_Weights.IMAGENET1K_V1.meta["categories"]
    same = np.mean(
        [name.split(" (")[0].lower() == other.lower() for name, other in zip(names, categories, strict=True)]
    )
    assert same > 0.9  # the libraries word some differently, and agree on the order


def test_temperature_travels_with_the_weights(
    weights: Path, labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures = ["predict", str(weights), str(labelled), "--top-k", "3"]
    before = result(pictures, capsys)
    evaluation = ["eval", str(weights), str(labelled), "--calibrate", "--output"]
    assert run([*evaluation, str(tmp_path / "eval")]) == 0
    said = capsys.readouterr().err
    temperature = effvit.load(weights)[1].temperature
    assert abs(temperature - 1) > 0.05 and f"temperature {temperature:.3f}" in said
    fitted = json.loads((tmp_path / "eval" / "summary.json").read_text())["calibrated"]
    assert fitted["temperature"] == temperature and fitted["data"] == str(labelled)
    assert effvit.load(weights)[1].provenance["calibration"] == fitted

    after = result(pictures, capsys)
    for old, new in zip(before, after, strict=True):
        assert [entry["name"] for entry in old["classes"]] == [entry["name"] for entry in new["classes"]]
        powers = np.array([entry["probability"] for entry in old["classes"]]) ** (1 / temperature)
        assert [entry["probability"] for entry in new["classes"]] == pytest.approx(powers / powers.sum(), abs=1e-5)

    again = result([*evaluation, str(tmp_path / "again")], capsys)
    assert again["temperature"] == temperature  # what these scores were computed with
    assert again["calibrated"]["temperature"] == pytest.approx(temperature, rel=1e-4)  # fitted anew, not on top
    assert again["loss"] < json.loads((tmp_path / "eval" / "summary.json").read_text())["loss"]


@pytest.mark.slow
def test_temperature_travels_into_the_exported_file(
    weights: Path, labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["eval", str(weights), str(labelled), "--calibrate", "--output", str(tmp_path / "eval")]) == 0
    assert run(["export", str(weights), "--output", str(tmp_path / "net.onnx")]) == 0
    of_network, of_file = (
        result(["predict", str(source), str(labelled)], capsys) for source in (weights, tmp_path / "net.onnx")
    )
    for ours, theirs in zip(of_network, of_file, strict=True):
        for one, other in zip(ours["classes"], theirs["classes"], strict=True):
            assert one["name"] == other["name"] and one["probability"] == pytest.approx(other["probability"], abs=1e-4)


def test_results_go_into_no_folder_that_holds_something_else(
    weights: Path, labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(labelled.rglob("*"))
    line = one_line(["eval", str(weights), str(labelled), "--output", str(labelled)], capsys)
    assert "labelled is not empty and has no summary.json of an earlier evaluation" in line
    assert sorted(labelled.rglob("*")) == before
    (tmp_path / "out").mkdir()
    for _ in range(2):  # an empty folder, then that of an earlier evaluation
        result(["eval", str(weights), str(labelled), "--output", str(tmp_path / "out")], capsys)


def test_results_folder_is_called_after_the_list(
    weights: Path, labelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures = sorted(labelled.rglob("*.jpg"))
    rows = "".join(f"{picture},{picture.parent.name}\n" for picture in pictures)
    (tmp_path / "labels.csv").write_text(f"path,label\n{rows}")
    monkeypatch.chdir(tmp_path)
    result(["eval", str(weights), "labels.csv"], capsys)
    assert (tmp_path / "eval-labels" / "summary.json").is_file()


def test_names_cannot_command_the_terminal(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = ("red\x1b[31m", "turn\u202e", "two\nlines")
    network = randomise(effvit.create_model("efficientvit_tiny", num_classes=3, image_size=32))
    info = WeightsInfo(class_names=names, preprocessing=Preprocessing(image_size=(32, 32)))
    weights = save(tmp_path / "weights", network, info)  # type: ignore[arg-type]
    for name, picture in zip(names, photos.rglob("*.jpg"), strict=False):
        (tmp_path / "data" / name).mkdir(parents=True)
        (tmp_path / "data" / name / f"{name}.jpg").symlink_to(picture)
    for arguments in (
        ["eval", str(weights), str(tmp_path / "data"), "--output", str(tmp_path / "out")],
        ["predict", str(weights), str(tmp_path / "data"), "--top-k", "3"],
    ):
        capsys.readouterr()
        assert run(arguments) == 0
        printed = capsys.readouterr().out
        assert "\x1b" not in printed and "\u202e" not in printed
        assert all(shown in printed for shown in (r"red\x1b[31m", r"turn\u202e", r"two\nlines"))


def test_what_does_not_go_together_is_one_line(
    weights: Path, photos: Path, squeezenet: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = squeezenet[2]
    mistakes = {
        f"{weights} --weights {file}": "--weights goes with a name",
        f"{weights} --like {SQUEEZENET}": "--like is for an exported file",
        "timm:mobilenetv3_smal": "timm has no network 'mobilenetv3_smal'; nearest:",
        "torchvision:squeezenet1": "torchvision has no classifier 'squeezenet1'; nearest:",
        "torchvision:fasterrcnn_resnet50_fpn": "is no classifier",
        f"{SQUEEZENET} --weights missing.pth": "no weights at missing.pth",
        f"torchvision:squeezenet1_0 --weights {file}": "does not fit torchvision:squeezenet1_0",
        f"{SQUEEZENET} --weights {file} --calibrate": "--calibrate writes into a run or a weights folder",
        f"{SQUEEZENET} --weights {file}": "the network does not know",
        f"{weights} --max-unreadable 2": "--max-unreadable must be in 0..1, got 2",
    }
    for arguments, expected in mistakes.items():
        source, *options = arguments.split()
        line = one_line(["eval", source, str(photos), *options, "--output", str(tmp_path / "out")], capsys)
        assert expected in line, line
    assert not (tmp_path / "out").exists()
