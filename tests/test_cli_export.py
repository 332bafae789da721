"""`effvit export` as a person and as a program meet it, and its files given to predict and eval."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from command_line import one_line
from helpers import write_photos

import effvit
from effvit.cli.exporting import ExportRequest, _pictures
from effvit.cli.main import run
from effvit.deploy.formats.table import ELSEWHERE, FORMATS
from effvit.deploy.proof import TOLERANCES
from effvit.deploy.runtimes import open_file

pytestmark = pytest.mark.usefixtures("undrawn")

CLASSES = ("gem", "leaf", "ocean", "stone")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photos(tmp_path_factory.mktemp("data") / "photos", classes=CLASSES, count=8)


@pytest.fixture(scope="module")
def trained(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of an epoch, and two files of it, of which one takes pixels in threes."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    arguments = ["--model", "efficientvit_tiny", "--image-size", "32", "--batch-size", "8", "--epochs", "1"]
    assert run(["train", str(photos), *arguments, "--output", str(folder)]) == 0
    assert run(["export", str(folder), "--format", "torch-export"]) == 0
    assert run(["export", str(folder), "--output", str(folder / "pixels.onnx"), *PIXELS_IN_THREES]) == 0
    return folder


PIXELS_IN_THREES = ["--preprocessing", "--batch", "3"]
# The files of ONNX that come without asking are in test_cli.py; those of OpenVINO have quick tests in deploy/formats.
FILES = [
    "model.pt2",
    "pixels.onnx",
    *(pytest.param(f"model-fp16.openvino{part}", marks=pytest.mark.slow) for part in ("", "/model.xml")),
]


@pytest.fixture(params=FILES)
def file(request: pytest.FixtureRequest, trained: Path) -> Path:
    path = trained / request.param
    if "openvino" in request.param and not path.exists():
        if FORMATS["openvino"].obstacle() is not None:
            pytest.skip("openvino is not installed")
        assert run(["export", str(trained), "--format", "openvino", "--precision", "fp16", *PIXELS_IN_THREES]) == 0
    return path


def output_of(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert run(arguments) == 0
    return capsys.readouterr().out


@pytest.fixture(scope="module")
def of_the_run(trained: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What `effvit eval` finds of the run itself."""
    folder = tmp_path_factory.mktemp("of_the_run") / "eval"
    assert run(["eval", str(trained), str(photos), "--batch-size", "10", "--output", str(folder)]) == 0
    summary: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return summary


def test_eval_of_a_file_is_eval_of_the_run(
    file: Path, of_the_run: dict[str, Any], photos: Path, tmp_path: Path, capsys
) -> None:
    """Also of files that take three pictures a call, or pixels, in batches that fit neither."""
    expected = of_the_run
    arguments = [str(photos), "--json", "--batch-size", "10", "--output", str(tmp_path / "eval")]
    actual = json.loads(output_of(["eval", str(file), *arguments], capsys))
    assert actual["num_pictures"] == 32
    assert actual["loss"] == pytest.approx(expected["loss"], rel=1e-2 if "fp16" in str(file) else 1e-5)
    assert actual["top1"] == pytest.approx(expected["top1"], abs=1 / 32)


def test_predict_with_a_file_is_predict_with_the_run(file: Path, trained: Path, photos: Path, capsys) -> None:
    arguments = [str(photos / "leaf"), str(photos / "gem" / "0.png"), "--top-k", "4", "--json"]
    expected = json.loads(output_of(["predict", str(trained), *arguments], capsys))
    actual = json.loads(output_of(["predict", str(file), *arguments], capsys))
    assert [row["path"] for row in actual] == [row["path"] for row in expected] and len(actual) == 9
    tolerance = 2e-3 if "fp16" in str(file) else 1e-5
    for one, other in zip(actual, expected, strict=True):
        by_name = {entry["name"]: entry["probability"] for entry in other["classes"]}
        assert {entry["name"]: entry["probability"] for entry in one["classes"]} == pytest.approx(
            by_name, abs=tolerance
        )


def test_the_result_says_what_was_made_and_how_it_was_proved(trained: Path, tmp_path: Path, capsys) -> None:
    output = tmp_path / "net.onnx"
    arguments = ["export", str(trained), "--output", str(output), "--precision", "fp16", "--batch", "2", "--json"]
    result = json.loads(output_of(arguments, capsys))
    assert result["path"] == str(output) and result["num_bytes"] == output.stat().st_size
    assert (result["format"], result["precision"], result["batch_size"]) == ("onnx", "fp16", 2)
    assert result["takes_pixels"] is False and result["class_names"] == list(CLASSES)
    checked = result["verification"]
    assert checked["passed"] and checked["num_pictures"] == 8 and result["compared_on"] == "8 held-out pictures"
    assert checked["top1_reference"] is not None
    assert open_file(output).metadata.verification == checked


@pytest.mark.parametrize("folder", ["gem", pytest.param("", marks=pytest.mark.slow)])
def test_pictures_to_compare_on_may_be_given(folder: str, trained: Path, photos: Path, tmp_path: Path, capsys) -> None:
    """Labelled if their folders are the network's classes; else just pictures."""
    arguments = ["export", str(trained), "--output", str(tmp_path / "net.pt2"), "--format", "torch-export", "--json"]
    result = json.loads(output_of([*arguments, "--data", str(photos / folder)], capsys))
    checked = result["verification"]
    if folder:
        assert checked["num_pictures"] == 8 and checked["top1_reference"] is None
        assert "classes unknown" in result["compared_on"]
    else:
        assert checked["num_pictures"] == 32 and checked["top1_reference"] == checked["top1_candidate"] is not None


def test_a_name_with_weights_is_compared_on_noise_which_is_said(tmp_path: Path, capsys) -> None:
    effvit.save(tmp_path / "w", effvit.create_model("efficientvit_tiny", num_classes=3), effvit.WeightsInfo())
    output = tmp_path / "named.pt2"
    arguments = ["export", "efficientvit_tiny", "--weights", str(tmp_path / "w"), "--output", str(output)]
    capsys.readouterr()
    assert run([*arguments, "--image-size", "48x64", "--format", "torch-export"]) == 0
    captured = capsys.readouterr()
    assert "compared on noise only; give pictures with --data DIR" in captured.err
    assert "pictures of noise" in captured.out and open_file(output).input_shape == (None, 3, 48, 64)


def test_int8_tells_the_accuracy_before_and_after(trained: Path, photos: Path, tmp_path: Path, capsys) -> None:
    output = tmp_path / "net.onnx"
    arguments = ["export", str(trained), "--precision", "int8", "--output", str(output), "--data", str(photos)]
    capsys.readouterr()
    code = run(arguments)
    captured = capsys.readouterr()
    assert "calibrating on 24 of 24 pictures of the run's training set" in captured.err
    if code == 2:  # a network of one epoch may have nothing that eight bits can keep: then no file
        assert "same first class on" in captured.err and not output.exists()
        return
    assert "same first class on" in captured.out and "before," in captured.out
    described = open_file(output).metadata
    assert described.precision == "int8" and described.quantization["num_pictures"] == 24
    assert described.verification["measure"] == "agreement"


def test_int8_without_other_pictures_is_compared_on_those_of_the_calibration(capsys) -> None:
    samples, name = _pictures(ExportRequest(precision="int8"), None, effvit.WeightsInfo())
    assert not samples and name == "calibration pictures, on which the ranges were chosen"
    assert f"note: compared on the {name}; give others with --data DIR" in capsys.readouterr().err


@pytest.mark.slow
def test_int8_without_other_pictures_says_what_it_was_compared_on(
    photos: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    effvit.save(tmp_path / "w", effvit.create_model("efficientvit_tiny", num_classes=3), effvit.WeightsInfo())
    monkeypatch.setitem(TOLERANCES, "int8", 1.0)  # random weights have nothing that eight bits can keep
    arguments = ["export", "efficientvit_tiny", "--weights", str(tmp_path / "w"), "--output", str(tmp_path / "a.onnx")]
    arguments += ["--image-size", "32", "--precision", "int8", "--calibration", str(photos), "--json"]
    capsys.readouterr()
    assert run(arguments) == 0
    captured = capsys.readouterr()
    compared_on = json.loads(captured.out)["compared_on"]
    assert compared_on == "32 calibration pictures, on which the ranges were chosen" and "noise" not in captured.err


def test_the_table_of_formats(capsys) -> None:
    text = output_of(["export", "--list"], capsys)
    for name, row in FORMATS.items():
        assert name in text and row.suffix in text
    assert all(name in text for name in ELSEWHERE)


class TestMistakes:
    @pytest.fixture
    def here(self, tmp_path: Path, trained: Path, photos: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        (tmp_path / "run").symlink_to(trained)
        (tmp_path / "photos").symlink_to(photos)
        (tmp_path / "empty").mkdir()
        for row in FORMATS.values():
            (tmp_path / f"noise{row.suffix}").write_bytes(b"noise")
        shutil.copy(trained / "model.pt2", tmp_path / "wrong.aoti.pt2")
        monkeypatch.chdir(tmp_path)
        return tmp_path

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ("run --format onyx", "unknown format 'onyx' (did you mean 'onnx'?)"),
            ("run --format tensorrt", "no format 'tensorrt': TensorRT reads the ONNX file"),
            ("run --format litert", "no format 'litert': litert-torch does not install beside this torch"),
            ("run --precision fp8", "unknown precision 'fp8'"),
            ("run --precision int8 --format torch-export", "format 'torch-export' can be fp32, fp16; got precision"),
            ("run --precision int8 --calibration empty", "no pictures in empty"),
            ("run --precision int8 --calibration missing", "no such file or folder: missing"),
            ("run --calibration photos", "--calibration is for --precision int8, got fp32"),
            ("run --batch 0", "--batch must be a positive whole number or dynamic, got '0'"),
            ("run --batch many", "--batch must be a positive whole number or dynamic, got 'many'"),
            ("run --batch dynamic --format coreml", "'coreml' takes a fixed number of pictures per call: give --batch"),
            ("run --data missing", "no such file or folder: missing"),
            ("run --format openvino --output net.onnx", "must end in .openvino, got 'net.onnx'"),
            ("run --image-size 16", "height and width from 32 up"),
            ("", "Missing argument"),
        ],
    )
    def test_export(self, arguments: str, message: str, here: Path, capsys) -> None:
        before = {str(path) for path in here.rglob("*")}
        assert message in one_line(["export", *arguments.split()], capsys)
        assert {str(path) for path in here.rglob("*")} == before

    @pytest.mark.parametrize("name", ["noise.onnx", "noise.openvino", "noise.pt2", "noise.aoti.pt2"])
    @pytest.mark.parametrize("verb", ["predict", "eval"])
    def test_a_damaged_file(self, verb: str, name: str, here: Path, capsys) -> None:
        """Those of devices have their own tests: their runtimes write to the terminal's own streams."""
        line = one_line([verb, name, "photos"], capsys)
        assert name in line or "is not installed; pip install" in line

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ("predict missing.openvino photos", "no such file: missing.openvino"),
            ("predict wrong.aoti.pt2 photos", "is not a package of aot-inductor: it holds no machine code"),
            ("predict run/model.pt2 photos --device cuda", "runs on the CPU here; leave out --device cuda"),
            (
                "predict run/pixels.onnx photos --image-size 64",
                "takes pictures of shape (3, 32, 32, 3), got (3, 64, 64",
            ),
            ("predict model.tflite photos", "model.tflite"),
        ],
    )
    def test_use(self, arguments: str, message: str, here: Path, capsys) -> None:
        assert message in one_line(arguments.split(), capsys)
