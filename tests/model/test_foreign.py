"""Weights of a file in networks of timm and torchvision; the teachers' tests try damaged files."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from helpers import randomise

from effvit.cli.published import describe
from effvit.errors import ConfigError, WeightsError
from effvit.model.foreign import fill_from_file, timm_network
from effvit.model.published import open_published
from effvit.preprocessing import Preprocessing
from effvit.train.distillation_config import Distillation
from effvit.train.teachers import open_teacher

NAME = "resnet10t"


def test_teachers_and_evaluation_read_the_same_weights_of_a_training_checkpoint(tmp_path: Path) -> None:
    """As timm's training script writes it: trained weights, their moving average, and the command line."""
    trained, average = (randomise(timm.create_model(NAME), seed=seed) for seed in (1, 2))
    path = tmp_path / "checkpoint.pth"
    states = {"state_dict": trained.state_dict(), "state_dict_ema": average.state_dict()}
    torch.save({**states, "args": argparse.Namespace(lr=1)}, path)
    images = torch.randn(2, 3, 64, 64)
    expected = average.eval()(images)
    evaluated = open_published(f"timm:{NAME}", str(path)).eval()
    distillation = Distillation(teacher=f"timm:{NAME}", weights=str(path))
    teacher = open_teacher(distillation, 1000, "cpu", preprocessing=Preprocessing(image_size=(64, 64)))
    torch.testing.assert_close(evaluated(images), expected)
    torch.testing.assert_close(teacher(images), expected)


def test_half_precision_is_widened(tmp_path: Path) -> None:
    path = tmp_path / "half.pth"
    for network, name in (
        (timm.create_model(NAME, num_classes=3), "timm"),
        (torchvision.models.get_model("squeezenet1_1", weights=None, num_classes=3), "torchvision"),
    ):
        state = randomise(network).state_dict()
        torch.save({key: value.half() if value.is_floating_point() else value for key, value in state.items()}, path)
        if name == "timm":
            found = timm_network(NAME, path, 3)
        else:
            found = torchvision.models.get_model("squeezenet1_1", weights=None, num_classes=3)
            fill_from_file(found, path, name)
        for key, value in found.state_dict().items():
            assert value.dtype == state[key].dtype
            torch.testing.assert_close(value, state[key], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("source", [f"timm:{NAME}", "torchvision:squeezenet1_1"])
def test_weights_of_another_network_are_one_line(source: str, tmp_path: Path) -> None:
    path = tmp_path / "other.pth"
    torch.save({"fc.weight": torch.zeros(3, 3)}, path)
    with pytest.raises(WeightsError, match=rf"^[^\n]*other.pth does not [^\n]*{source}[^\n]*$"):
        open_published(source, str(path))


def test_an_unknown_tag_is_one_line_before_anything_is_fetched() -> None:
    with pytest.raises(ConfigError, match=r"timm has no weights 'resnet18.nonsense'; known: .*resnet18.a1_in1k"):
        describe("timm:resnet18.nonsense")
