from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from effvit import create_model, load
from effvit.data.datasets import PictureData
from effvit.errors import ConfigError, RunError
from effvit.model.tensors import read_tensors
from effvit.studies.progress import StudyStep
from effvit.studies.training import Entrant, train_all, train_entrant
from effvit.train.config import TrainConfig
from effvit.train.runs import RunFolder

pytestmark = pytest.mark.usefixtures("undrawn")


def tiny(name: str = "tiny", **options: bool) -> Entrant:
    def make() -> nn.Module:
        return create_model("efficientvit_tiny", num_classes=3, image_size=32, **options)  # type: ignore[arg-type]

    return Entrant(name=name, make=make, description={"network": "tiny", **options})


class Linear(nn.Module):
    """Classifies by the mean colour; with a scale of nan its loss is not finite."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = scale
        self.linear = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.mean((2, 3)) * self.scale)  # type: ignore[no-any-return]


def never() -> nn.Module:
    raise AssertionError("what is finished is not made again")


def test_every_network_is_trained_with_every_seed(data: PictureData, config: TrainConfig, tmp_path: Path) -> None:
    begun: list[Tensor] = []

    def linear_network() -> Linear:
        network = Linear()
        begun.append(network.linear.weight.detach().clone())
        return network

    entrants = [tiny(), Entrant(name="linear", make=linear_network, description={"network": "linear"})]
    steps: list[StudyStep] = []
    results = train_all(entrants, data, config, tmp_path, seeds=(0, 5), command="effvit x", on_step=steps.append)
    assert [(result.name, result.seed) for result in results] == [
        ("tiny", 0),
        ("linear", 0),
        ("tiny", 5),
        ("linear", 5),
    ]
    for result in results:
        run = RunFolder.open(tmp_path / f"{result.name}-{result.seed}")
        record = run.read_record()
        assert (record["status"], record["command"]) == ("finished", "effvit x")
        assert (record["config"]["seed"], record["config"]["model"]) == (result.seed, result.name)
        assert len(result.epochs) == config.epochs
        assert result.top1 == run.read_metrics()[-1]["val_top1"]
        assert not run.checkpoint.exists()  # three times the weights, of no more use
    network, info = load(results[0].folder)  # a run of ours is one as any other
    assert network.config.num_classes == 3 and info.class_names == ("ash", "birch", "cedar")
    linear = read_tensors(results[1].folder / "weights-last" / "model.safetensors")
    assert linear["linear.weight"].shape == (3, 3)
    assert not torch.equal(*begun)  # each seed begins elsewhere
    assert (steps[-1].run, steps[-1].num_runs, steps[-1].share_done) == (4, 4, 1.0)
    assert [step.share_done for step in steps] == sorted(step.share_done for step in steps)
    assert steps[-1].seconds_left == 0.0

    again = train_all([replace(entrant, make=never) for entrant in entrants], data, config, tmp_path, seeds=(0, 5))
    assert again == results


def test_what_is_finished_can_be_taken_alone(data: PictureData, config: TrainConfig, tmp_path: Path) -> None:
    linear = Entrant(name="linear", make=Linear, description={})
    other = Entrant(name="other", make=never, description={})
    with pytest.raises(RunError, match=r"^nothing in .* is finished yet$"):
        train_all([other], data, config, tmp_path, only_finished=True)
    (trained,) = train_all([linear], data, config, tmp_path)
    assert train_all([other, linear], data, config, tmp_path, only_finished=True) == [trained]
    assert not (tmp_path / "other-0").exists()


def test_networks_of_one_seed_see_the_same(data: PictureData, config: TrainConfig, tmp_path: Path) -> None:
    same = train_all([tiny("one"), tiny("two")], data, replace(config, epochs=1), tmp_path)
    one, two = (read_tensors(result.folder / "weights-last" / "model.safetensors") for result in same)
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_an_interrupted_study_goes_on_exactly(data: PictureData, config: TrainConfig, tmp_path: Path) -> None:
    def interrupt(after: int) -> Callable[[StudyStep], None]:
        def on_step(at: StudyStep) -> None:
            if at.run == 2 and (at.step.phase, at.step.epoch, at.step.step) == ("train", 2, after):
                raise KeyboardInterrupt

        return on_step

    entrants = [tiny("first"), tiny("second", mask_padding=False)]
    whole = train_all(entrants, data, config, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train_all(entrants, data, config, tmp_path / "cut", on_step=interrupt(1))
    steps: list[StudyStep] = []
    made_again = [replace(entrants[0], make=never), entrants[1]]
    cut = train_all(made_again, data, config, tmp_path / "cut", on_step=steps.append)
    assert (steps[0].run, steps[0].num_runs, steps[0].step.epoch) == (1, 1, 2)  # the first epoch was kept
    assert steps[0].seconds_left is not None
    for before, after in zip(whole, cut, strict=True):
        weights = [read_tensors(result.folder / "weights-last" / "model.safetensors") for result in (before, after)]
        assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
        assert [record.train_loss for record in before.epochs] == [record.train_loss for record in after.epochs]


def test_a_run_killed_before_its_first_step_is_begun_anew(
    data: PictureData, config: TrainConfig, tmp_path: Path
) -> None:
    path = tmp_path / "linear-0"
    RunFolder.create(path, replace(config, model="linear"), data).update_record(entrant={})
    assert train_entrant(Entrant(name="linear", make=Linear), data, config, path).failure is None


def test_other_settings_are_refused_before_anything_is_trained(
    data: PictureData, config: TrainConfig, tmp_path: Path
) -> None:
    config = replace(config, epochs=1)
    train_all([tiny()], data, config, tmp_path)
    fewer = PictureData(data.root, data.class_names, data.train[1:], data.val, data.split, data.skipped)
    new = Entrant(name="new", make=never)
    for entrant, pictures, settings, named in (
        (tiny(), data, replace(config, learning_rate=1e-3), "learning_rate"),
        (tiny(mask_padding=False), data, config, "the network"),
        (tiny(), fewer, config, "the pictures"),
    ):
        message = rf"tiny-0 was made with other settings \({named}\): give another folder, or remove that one"
        with pytest.raises(RunError, match=message):
            train_all([new, entrant], pictures, settings, tmp_path)
    assert not (tmp_path / "new-0").exists()
    faster = replace(config, num_workers=1)  # how fast, not what
    assert train_all([replace(tiny(), make=never)], data, faster, tmp_path)[0].failure is None


def test_a_failing_training_ends_only_itself(data: PictureData, config: TrainConfig, tmp_path: Path) -> None:
    failing = Entrant(name="failing", make=lambda: Linear(scale=float("nan")))
    failed, fine = train_all([failing, Entrant(name="fine", make=Linear)], data, config, tmp_path)
    assert failed.failure is not None and "the loss is nan at epoch 1, step 1" in failed.failure
    assert str(data.root) not in failed.failure
    assert failed.top1 is None and failed.to_dict()["top1"] is None
    assert fine.failure is None and fine.top1 is not None
    assert RunFolder.open(failed.folder).read_record()["status"] == "failed"
    with pytest.raises(RunError, match=r"every training in .* failed, the first so: the loss is nan"):
        train_all([failing], data, config, tmp_path)


def test_the_moving_average_counts_where_there_is_one(data: PictureData, config: TrainConfig, tmp_path: Path) -> None:
    linear = Entrant(name="linear", make=Linear)
    (result,) = train_all([linear], data, replace(config, epochs=1, ema_decay=0.5), tmp_path)
    last = replace(result.epochs[-1], val_top1=0.25, val_top1_ema=0.5)
    assert replace(result, epochs=(*result.epochs[:-1], last)).top1 == 0.5


@pytest.mark.parametrize(
    ("names", "seeds", "message"),
    [
        (("a", "a"), (0,), "networks with different names, got a, a"),
        ((), (0,), "networks with different names, got none"),
        (("a/b",), (0,), "a name must be letters, digits, dots, dashes and underscores, got 'a/b'"),
        ((".",), (0,), "a name must be letters, digits, dots, dashes and underscores, got '.'"),
        (("a",), (), "seeds must be different numbers from 0 up, got none"),
        (("a",), (1, 1), "seeds must be different numbers from 0 up, got 1, 1"),
        (("a",), (-1,), "seeds must be different numbers from 0 up, got -1"),
    ],
)
def test_names_and_seeds_that_are_not_allowed(
    names: tuple[str, ...], seeds: tuple[int, ...], message: str, data: PictureData, config: TrainConfig, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        train_all([Entrant(name=name, make=never) for name in names], data, config, tmp_path / "new", seeds=seeds)
    assert not (tmp_path / "new").exists()
