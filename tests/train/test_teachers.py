from __future__ import annotations

import os
from pathlib import Path

import pytest
import timm
import torch
from helpers import randomise
from safetensors.torch import save_file
from torch import nn

import effvit
from effvit.errors import ConfigError, WeightsError
from effvit.model.checkpoints import WeightsInfo, save
from effvit.preprocessing import Preprocessing
from effvit.train.distillation_config import Distillation
from effvit.train.teachers import Teacher, open_teacher, with_absolute_paths

GIVEN = Preprocessing(image_size=(64, 64))
OTHER = Preprocessing(image_size=(64, 64), mean=(0.5, 0.4, 0.3), std=(0.5, 0.2, 0.1))
NAMES = ("gem", "leaf", "ocean")


@pytest.fixture(scope="module")
def network() -> nn.Module:
    return randomise(timm.create_model("resnet10t", num_classes=3)).eval()


def teach(source: str, weights: Path | str = "", num_classes: int = 3, given: Preprocessing = GIVEN) -> Teacher:
    return open_teacher(Distillation(teacher=source, weights=str(weights)), num_classes, "cpu", preprocessing=given)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", "wrapped.pth"])
def test_timm_teacher_with_weights_of_a_file(suffix: str, network: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / f"teacher{suffix}"
    state = network.state_dict()
    if suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save({"model": state} if "wrapped" in suffix else state, path)
    teacher = teach("timm:resnet10t", path)
    images = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(teacher(images), network(images).detach())
    assert teacher.class_names is None


def test_teacher_neither_changes_nor_learns(network: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "teacher.pth"
    torch.save(network.state_dict(), path)
    teacher = teach("timm:resnet10t", path)
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    images = torch.randn(4, 3, 64, 64, requires_grad=True)
    assert not teacher(images).requires_grad
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())


def test_our_own_teacher_sees_pictures_as_it_was_trained(tmp_path: Path) -> None:
    network = randomise(effvit.create_model("efficientvit_tiny", num_classes=3, image_size=64)).eval()
    save(tmp_path / "weights", network, WeightsInfo(class_names=NAMES, preprocessing=OTHER))
    teacher = teach(str(tmp_path / "weights"))
    assert teacher.class_names == NAMES
    pixels = torch.rand(2, 3, 64, 64)
    own, given = (
        (pixels - torch.tensor(record.mean).view(3, 1, 1)) / torch.tensor(record.std).view(3, 1, 1)
        for record in (OTHER, GIVEN)
    )
    torch.testing.assert_close(teacher(given), network(own).detach(), rtol=1e-4, atol=1e-4)


def test_a_teacher_of_the_same_normalisation_gets_the_same_numbers(network: nn.Module) -> None:
    images = torch.randn(2, 3, 64, 64)
    assert torch.equal(Teacher(network, own=GIVEN, given=GIVEN)(images), network(images))


class Trap:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("sprung",)


def test_weights_are_never_run_as_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"model": Trap()}, tmp_path / "teacher.pth")
    with pytest.raises(WeightsError, match="does not hold weights of timm:resnet10t"):
        teach("timm:resnet10t", tmp_path / "teacher.pth")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_damaged_file_is_one_line(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"teacher{suffix}"
    path.write_bytes(b"these are no weights")
    with pytest.raises(WeightsError, match=r"^[^\n]*does not hold weights of timm:resnet10t[^\n]*$"):
        teach("timm:resnet10t", path)


def test_other_classes(network: nn.Module, tmp_path: Path) -> None:
    torch.save(network.state_dict(), tmp_path / "teacher.pth")
    with pytest.raises(WeightsError, match="with 5 classes: "):
        teach("timm:resnet10t", tmp_path / "teacher.pth", num_classes=5)
    ours = effvit.create_model("efficientvit_tiny", num_classes=3, image_size=64)
    save(tmp_path / "weights", ours, WeightsInfo(class_names=NAMES, preprocessing=GIVEN))
    with pytest.raises(ConfigError, match="knows 3 classes, the pictures have 5"):
        teach(str(tmp_path / "weights"), num_classes=5)


def test_a_size_it_does_not_take(tmp_path: Path) -> None:
    vit = timm.create_model("vit_tiny_patch16_224", num_classes=3)
    torch.save(vit.state_dict(), tmp_path / "teacher.pth")
    with pytest.raises(ConfigError, match="does not take the student's pictures, 64 x 64: "):
        teach("timm:vit_tiny_patch16_224", tmp_path / "teacher.pth")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("timm:resnet19", "timm has no network 'resnet19'; nearest: resnet18"),
        ("timm:resnet18.nonsense", "timm has no weights 'resnet18.nonsense'; known: .*resnet18.a1_in1k"),
        ("timm:", "timm has no network ''$"),
    ],
)
def test_unknown_names(source: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        teach(source)


def test_missing_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(WeightsError, match="no weights at .*nowhere.pth: no such file$"):
        teach("timm:resnet10t", tmp_path / "nowhere.pth")
    with pytest.raises(WeightsError, match=f"the teacher is gone: there is no {tmp_path / 'nowhere'}$"):
        teach(str(tmp_path / "nowhere"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WeightsError, match=f"no weights at nowhere.pth: no such file in {tmp_path}"):
        teach("timm:resnet10t", "nowhere.pth")
    # Looks like a Hub id; a teacher is none, so nothing is asked of the internet.
    with pytest.raises(WeightsError, match=f"no {tmp_path}/some/folder; 'some/folder' is relative: begin where"):
        teach("some/folder")


@pytest.mark.parametrize("kind", ["own", "timm"])
def test_a_teacher_with_absolute_paths_is_found_from_anywhere(
    kind: str, network: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    if kind == "own":
        ours = effvit.create_model("efficientvit_tiny", num_classes=3, image_size=64)
        save(Path("weights"), ours, WeightsInfo(class_names=NAMES, preprocessing=GIVEN))
        given = Distillation(teacher="weights")
    else:
        torch.save(network.state_dict(), "teacher.pth")
        given = Distillation(teacher="timm:resnet10t", weights="teacher.pth")
    kept = with_absolute_paths(given)
    images = torch.randn(1, 3, 64, 64)
    expected = open_teacher(given, 3, "cpu", preprocessing=GIVEN)(images)
    monkeypatch.chdir("elsewhere")
    assert torch.equal(open_teacher(kept, 3, "cpu", preprocessing=GIVEN)(images), expected)
    with pytest.raises(WeightsError, match=f"{tmp_path / 'elsewhere'}"):
        open_teacher(given, 3, "cpu", preprocessing=GIVEN)


def test_only_paths_that_are_there_are_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for given in (Distillation(), Distillation(teacher="timm:resnet10t"), Distillation(teacher="not/there")):
        assert with_absolute_paths(given) == given
