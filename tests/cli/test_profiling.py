"""`effvit profile` as people type it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from profiles import PEAKS, model, operator, profile

from effvit.analysis.profiling import profiler
from effvit.analysis.profiling.records import Profile
from effvit.cli import profiling
from effvit.errors import EffvitError
from effvit.model.sources import FoundModel

Asked = list[tuple[list[FoundModel], dict[str, Any]]]


@pytest.fixture
def type_in() -> Callable[[str], object]:
    """Runs a command line of this verb alone, its errors raised."""
    app = typer.Typer()
    profiling.register(app)
    app.callback()(lambda: None)
    return lambda line: app(["profile", *line.split()], standalone_mode=False)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    """What the command asks of the library, which measures nothing."""
    calls: Asked = []

    def answer(models: list[FoundModel], **arguments: Any) -> Profile:
        calls.append((models, arguments))
        return profile(model(operator("linear", 1)))

    monkeypatch.setattr(profiler, "profile", answer)
    return calls


def test_what_is_typed_reaches_the_library(type_in: Callable[[str], object], asked: Asked) -> None:
    line = "efficientvit_tiny timm:mobilenetv3_small_050 --image-size 96 128 --weights random"
    type_in(f"{line} --batch 4 --threads 2 --compile --device cpu --rounds 3")
    ((models, given),) = asked
    assert [(model.label, model.input_size, model.weights) for model in models] == [
        ("efficientvit_tiny", (3, 96, 128), "random"),
        ("timm:mobilenetv3_small_050", (3, 96, 128), "random"),
    ]
    assert (given["batch_size"], given["num_threads"], given["compiled"]) == (4, 2, True)
    assert (given["rounds"], given["device"].type) == (3, "cpu")


def test_what_is_left_out_has_its_default(type_in: Callable[[str], object], asked: Asked) -> None:
    type_in("efficientvit_tiny")
    ((model,), given) = asked[0]
    assert model.input_size == (3, 224, 224)
    assert (given["batch_size"], given["num_threads"], given["compiled"], given["rounds"]) == (16, None, False, 10)


def test_ours_stand_beside_their_deploy_form_and_others_alone(type_in: Callable[[str], object], asked: Asked) -> None:
    type_in("efficientvit_tiny timm:mobilenetv3_small_050 --image-size 64 --rewritten")
    models = asked[0][0]
    assert [(model.label, type(model.network).__name__) for model in models] == [
        ("efficientvit_tiny", "EfficientViT"),
        ("efficientvit_tiny rewritten", "DeployedEfficientViT"),
        ("timm:mobilenetv3_small_050", "MobileNetV3"),
    ]


def test_a_small_network_is_measured_and_written(
    type_in: Callable[[str], object],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(profiler, "measure_peaks", lambda *_: PEAKS)
    monkeypatch.setattr(profiler, "_PASSES", (2, 2))
    folder = tmp_path / "why"
    type_in(f"efficientvit_tiny --batch 1 --image-size 64 --rounds 1 --output {folder} --json")
    captured = capsys.readouterr()
    record = json.loads(captured.out)
    assert sum(record["models"][0]["shares"].values()) == pytest.approx(1)
    assert json.loads((folder / "record.json").read_text()) == record
    assert {"page.html", "report.md", "shares.png"} <= {path.name for path in folder.iterdir()}
    assert "recording efficientvit_tiny" in captured.err and "page.html are in" in captured.err


def test_costs_alone_measure_nothing(
    type_in: Callable[[str], object], asked: Asked, capsys: pytest.CaptureFixture[str]
) -> None:
    type_in("efficientvit_tiny --batch 1 --image-size 64 --cost-only")
    captured = capsys.readouterr()
    assert not asked and "MACs" in captured.out and "efficientvit_tiny" in captured.out
    assert captured.err == "counting the costs of efficientvit_tiny\n"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a --batch 0", "--batch must be at least 1, got 0"),
        ("a --threads 0", "--threads must be at least 1, got 0"),
        ("a --threads 5000", "--threads must be at most 1024, got 5000"),
        ("a --rounds 0", "--rounds must be at least 1, got 0"),
        ("a --image-size big", "--image-size must be a side, or a height and a width, in pixels, got 'big'"),
        ("a --cost-only --compile --rewritten", "--cost-only measures nothing: leave out --rewritten, --compile"),
        ("a --cost-only --device cpu --threads 1", "--cost-only measures nothing: leave out --device, --threads"),
        ("timm:resnet10t --rewritten", "--rewritten is for networks of ours, got timm:resnet10t"),
        ("no_such_model", "unknown model 'no_such_model'"),
        ("no_such_model --cost-only", "unknown model 'no_such_model'"),
        ("efficientvit_tiny efficientvit_tiny --cost-only", "a model can take part once only, got twice"),
        ("efficientvit_tiny --weights none.safetensors --cost-only", "none.safetensors"),
        ("efficientvit_tiny --image-size 8 --cost-only", "32"),
    ],
)
def test_bad_input_is_told_and_nothing_is_left(
    line: str, message: str, type_in: Callable[[str], object], tmp_path: Path
) -> None:
    with pytest.raises(EffvitError, match=re.escape(message)):
        type_in(f"{line} --output {tmp_path / 'out'}")
    assert not (tmp_path / "out").exists()


def test_a_place_that_cannot_be_written_is_told_before_any_work(
    type_in: Callable[[str], object], asked: Asked, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EffvitError, match="it is a file"):
        type_in(f"a --output {tmp_path / 'file'}")
    assert not asked


def test_a_batch_of_several_sizes_is_no_number(type_in: Callable[[str], object], asked: Asked) -> None:
    with pytest.raises(Exception, match="valid integer"):
        type_in("a --batch 1 16")
    assert not asked
