"""The study of Figure 3 on an invented machine: its networks have their speeds, it resumes, and says what it found."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from helpers import randomise, relative_error
from torch import nn

from effvit.analysis.ratios.families import Subnetwork, find_family, subnetwork
from effvit.analysis.report import as_text, write_report
from effvit.analysis.speed_meter import CONTROL
from effvit.data.datasets import PictureData
from effvit.deploy.network import DeployedEfficientViT
from effvit.errors import ConfigError, RunError
from effvit.preprocessing import Preprocessing
from effvit.studies import attention_share, attention_share_search, attention_share_speed, attention_share_together
from effvit.studies.attention_share import ShareStudy, plan_curves, study_attention_share
from effvit.studies.attention_share_charts import draw_accuracy, draw_memory
from effvit.studies.attention_share_curves import Curve, SpeedSettings, deployed
from effvit.studies.attention_share_memory import Cost, Memory, cost_of, memory_of
from effvit.studies.attention_share_report import share_report
from effvit.studies.attention_share_speed import match_curves
from effvit.studies.budget import Budget
from effvit.studies.listeners import Listeners
from effvit.timing import Spread
from effvit.train.config import TrainConfig

SIZE = (32, 32)
FAMILIES = ("deit_tiny", "swin_tiny")


class Described(nn.Module):
    """A network that is nothing but its description."""

    def __init__(self, network: Subnetwork) -> None:
        super().__init__()
        self.network = network


class InventedMachine:
    """Times a network by its widths and layers; together, some can be slower than alone, as on a real machine."""

    def __init__(self, together: Mapping[str, float] | None = None) -> None:
        self.num_measurements = 0
        self.factors = together or {}

    def milliseconds(self, network: nn.Module) -> float:
        self.num_measurements += 1
        assert isinstance(network, Described)
        like = network.network
        layers = 24 + 0.5 * like.num_attention  # attention takes half as long again
        return layers * like.width * (1 + like.width * (0.5 + 0.5 * like.inner / 100))

    def __call__(self, network: nn.Module, baseline: nn.Module, rounds: int) -> Spread:
        speed = self.milliseconds(baseline) / self.milliseconds(network)
        return Spread(speed, 0.99 * speed, 1.01 * speed)

    def together(self, networks: Mapping[str, nn.Module], baseline: nn.Module, rounds: int) -> dict[str, Spread]:
        found = {name: self(network, baseline, rounds) for name, network in networks.items()}
        found = {name: Spread(*(self.factors.get(name, 1.0) * value for value in s)) for name, s in found.items()}
        return {**found, CONTROL: Spread(1.0, 0.99, 1.01)}


def install(patch: pytest.MonkeyPatch, invented: InventedMachine) -> None:
    """Measure on an invented machine, and invent where time goes; what only it times need not be made."""

    def memory(networks: Mapping[str, Any], path: Path, settings: Any, on_note: Any) -> dict[str, Memory]:
        return {
            name: Memory(share=0.3 + 0.4 * network.share, shares={}, images_per_second=100.0)
            for name, network in networks.items()
        }

    for module in (attention_share_together, attention_share_search):
        patch.setattr(module, "build", Described)
    patch.setattr(attention_share_speed, "meter_for", lambda baseline, settings: invented)
    patch.setattr(attention_share, "memory_of", memory)
    patch.setattr(attention_share, "cost_of", lambda network: Cost(num_params=1000, num_macs=2000))


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> InventedMachine:
    invented = InventedMachine()
    install(monkeypatch, invented)
    return invented


def curves_of(**changes: Any) -> dict[str, list[Curve]]:
    arguments: dict[str, Any] = {"image_size": SIZE, "shares": (0, 0.4, 1), "num_classes": 3}
    arguments = {"families": ["deit_tiny"], **arguments, **changes}
    return plan_curves(**{"widths": [48] * len(arguments["families"]), **arguments})


def test_all_networks_of_a_curve_have_its_speed(machine: InventedMachine, tmp_path: Path) -> None:
    curves = curves_of(families=list(FAMILIES), speeds=(1.25, 1.5))
    study = study_attention_share(curves, tmp_path)
    assert len(study.points) == 2 * 2 * 3
    for point in study.points:
        network = point.member.network
        alone = machine(Described(network), Described(point.member.curve.baseline), 1).median
        assert alone == pytest.approx(point.member.curve.speed, rel=0.03)
        assert network.layers.count("A") == network.num_attention and len(network.layers) == 24
    assert [round(point.share, 2) for point in study.points[:3]] == [0.0, 0.42, 1.0]


def test_what_misses_its_speed_among_the_others_is_corrected(tmp_path: Path) -> None:
    name = "deit_tiny-1.25x-attention-10"
    disturbed = InventedMachine({name: 0.9})
    found = match_curves(curves_of()["deit_tiny"], tmp_path, SpeedSettings(), meter=disturbed)  # type: ignore[arg-type]
    by_name = {member.name: member for member in found.members}
    assert all(abs(member.achieved - 1) <= 0.03 for member in found.members)
    assert by_name[name].network.inner < by_name[name].search.width, "narrower than what is fast enough alone"
    others = [member for member in found.members if member.name != name]
    assert all(member.network.inner == member.search.width for member in others)


def test_a_width_is_changed_where_inner_widths_do_not_help(tmp_path: Path) -> None:
    name = "efficientvit_m0-1.25x-attention-07"

    class DeafToInnerWidths(InventedMachine):
        widths: ClassVar[list[int]] = []

        def together(self, networks: Mapping[str, nn.Module], baseline: nn.Module, rounds: int) -> dict[str, Spread]:
            described = networks[name]
            assert isinstance(described, Described)
            self.widths.append(described.network.width)
            speed = 1.25 if described.network.width < self.widths[0] else 0.93 * 1.25
            return {**super().together(networks, baseline, rounds), name: Spread(speed, speed, speed)}

    curves = curves_of(families=["efficientvit_m0"], widths=[192])["efficientvit_m0"]
    found = match_curves(curves, tmp_path, SpeedSettings(), meter=DeafToInnerWidths())  # type: ignore[arg-type]
    (network,) = (member.network for member in found.members if member.name == name)
    step = find_family("efficientvit_m0").step
    first = DeafToInnerWidths.widths[0]
    assert (network.width, network.inner) == (first - step, 100)
    per_measurement = SpeedSettings().together_builds
    assert DeafToInnerWidths.widths == [*[first] * 2 * per_measurement, *[first - step] * per_measurement]


def test_a_machine_without_rest_is_told_and_nothing_is_lost(tmp_path: Path) -> None:
    class Restless(InventedMachine):
        def together(self, networks: Mapping[str, nn.Module], baseline: nn.Module, rounds: int) -> dict[str, Spread]:
            return {**{name: Spread(2.0, 2.0, 2.0) for name in networks}, CONTROL: Spread(1.07, 1.0, 1.1)}

    with pytest.raises(
        RunError, match=r"deit_tiny: after 9 measurements together .*00 runs at 2.000x.* let nothing else"
    ):
        match_curves(curves_of()["deit_tiny"], tmp_path, SpeedSettings(), meter=Restless())  # type: ignore[arg-type]
    assert (tmp_path / "deit_tiny-1.25x-attention-00.json").is_file()


def test_an_interrupted_search_goes_on_where_it_was(machine: InventedMachine, tmp_path: Path) -> None:
    class Interrupted(InventedMachine):
        def __call__(self, network: nn.Module, baseline: nn.Module, rounds: int) -> Spread:
            if (tmp_path / "deit_tiny-1.25x-attention-10.json").exists():
                raise KeyboardInterrupt
            return super().__call__(network, baseline, rounds)

    curves = curves_of()["deit_tiny"]
    with pytest.raises(KeyboardInterrupt):
        match_curves(curves, tmp_path, SpeedSettings(), meter=Interrupted())  # type: ignore[arg-type]
    kept = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert sorted(kept) == ["deit_tiny-1.25x-attention-00.json", "deit_tiny-1.25x-attention-10.json"]
    first = match_curves(curves, tmp_path, SpeedSettings())
    assert all((tmp_path / name).read_bytes() == content for name, content in kept.items())
    before = machine.num_measurements
    assert match_curves(curves, tmp_path, SpeedSettings()) == first
    assert machine.num_measurements == before, "what is there is not measured again"


def test_other_settings_are_refused_before_anything_is_measured(machine: InventedMachine, tmp_path: Path) -> None:
    match_curves(curves_of()["deit_tiny"], tmp_path, SpeedSettings())
    before = machine.num_measurements
    with pytest.raises(RunError, match=r"attention-00.json was found with other settings: give another folder"):
        match_curves(curves_of()["deit_tiny"], tmp_path, SpeedSettings(batch_size=8))
    with pytest.raises(RunError, match=r"other settings"):
        match_curves(curves_of(widths=[32])["deit_tiny"], tmp_path, SpeedSettings())
    assert machine.num_measurements == before


@pytest.fixture(scope="module")
def budget(data: PictureData) -> Budget:
    config = TrainConfig(epochs=1, batch_size=8, preprocessing=Preprocessing(image_size=SIZE))
    return Budget(data=data, config=config)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("study")


@pytest.fixture(scope="module")
def study(budget: Budget, folder: Path) -> ShareStudy:
    """Trained for real, a network for each share."""
    with pytest.MonkeyPatch.context() as patch:
        install(patch, InventedMachine())
        return study_attention_share(curves_of(), folder, budget=budget, command="effvit analyze ratios deit_tiny")


def with_scores(study: ShareStudy, scores: Mapping[int, Sequence[float | None]]) -> ShareStudy:
    """The study as if its trainings had come to this: attention layers -> top-1 of each seed, None where it failed."""
    points = []
    for point in study.points:
        (like,) = point.trained
        found = [
            replace(
                like,
                seed=seed,
                epochs=(replace(like.epochs[0], val_top1=top1 or 0.0),),
                failure="the loss is nan at epoch 1" if top1 is None else None,
            )
            for seed, top1 in enumerate(scores[point.member.network.num_attention])
        ]
        points.append(replace(point, trained=tuple(found)))
    return replace(study, points=tuple(points))


def test_a_study_from_shares_to_a_page(study: ShareStudy, folder: Path, tmp_path: Path) -> None:
    report = share_report(study)
    record = json.loads(json.dumps(report.record))
    assert [network["num_attention"] for network in record["networks"]] == [0, 10, 24]
    assert all(len(network["trainings"]) == 1 for network in record["networks"])
    assert record["training"]["num_val"] == len(study.budget.data.val)  # type: ignore[union-attr]
    assert str(folder.parent) not in json.dumps(record)
    text = as_text(report)
    for point in study.points:
        assert point.member.network.layers in text
    assert "DeiT-T at 1.25x: best with" in text
    assert "memory-bound operators take 70.0% of the time with 100% attention and 30.0% with 0%" in text
    assert "float32, processor time, eager, attention step by step" in report.conditions
    names = write_report(report, tmp_path)
    assert {"record.json", "page.html", "accuracy.png", "memory.png"} <= set(names)


def test_what_chance_could_do_is_said(study: ShareStudy) -> None:
    assert study.budget is not None
    num_val = len(study.budget.data.val)
    # Best with 100 %; 42 % behind by more than chance, 0 % not: no range, for what lies between is behind.
    found = with_scores(study, {0: [0.88, 0.9], 10: [0.1, 0.12], 24: [0.95, 0.97]})
    text = "\n".join(share_report(found).findings)
    top1 = (0.96 * num_val + 1) / (num_val + 2)
    limit = 196 * math.sqrt(2 * top1 * (1 - top1) / num_val + 2 * 0.0002 / 2)
    assert "best with 100% attention, 96.0%, 7.0 points ahead of 0%." in text
    assert f"Differences up to {limit:.1f} points can be chance, so 0% and 100% cannot be told apart." in text
    assert "the usual share is 50%; the nearest here, 42%, reaches 11.0%" in text
    one_seed = with_scores(study, {0: [0.1], 10: [0.95], 24: [None]})
    text = "\n".join(share_report(one_seed).findings)
    assert "with one seed the spread between trainings is not known); the others are behind by more than that." in text
    assert "The training of deit_tiny-1.25x-attention-24 with seed 0 failed: the loss is nan at epoch 1." in text
    assert share_report(one_seed).tables[0].rows[-1][-1] == "failed"
    assert share_report(found).tables[0].rows[1][-1] == "89.0 ± 1.4"


def test_the_lines_are_the_numbers(study: ShareStudy) -> None:
    found = with_scores(study, {0: [0.5, 0.7], 10: [0.8, 0.8], 24: [0.2, None]})
    (panel,) = draw_accuracy(found).axes
    lines = [line for line in panel.lines if line.get_label() == "1.25x the speed"]
    assert list(lines[0].get_xdata()) == pytest.approx([0, 1000 / 24, 100])
    assert list(lines[0].get_ydata()) == pytest.approx([60, 80, 20])
    (panel,) = draw_memory(found).axes
    lines = [line for line in panel.lines if line.get_label() == "1.25x the speed"]
    assert list(lines[0].get_ydata()) == pytest.approx([30, 30 + 1000 * 0.4 / 24, 70])
    assert list(panel.lines[-1].get_ydata()) == pytest.approx([50, 50]), "the baseline, half attention"


def test_a_second_study_trains_nothing_anew(study: ShareStudy, budget: Budget, folder: Path) -> None:
    steps: list[Any] = []
    listeners = Listeners(on_step=steps.append)
    again = study_attention_share(curves_of(), folder, budget=budget, listeners=listeners)
    assert not steps and [point.top1 for point in again.points] == [point.top1 for point in study.points]
    more = study_attention_share(curves_of(shares=(0, 0.4, 0.6, 1)), folder, budget=budget, listeners=listeners)
    assert {step.name for step in steps} == {"deit_tiny-1.25x-attention-14"}
    assert len(more.points) == 4


def test_without_pictures_it_is_speed_and_memory_alone(machine: InventedMachine, tmp_path: Path) -> None:
    report = share_report(study_attention_share(curves_of(families=["efficientvit_tiny"], widths=None), tmp_path))
    assert [chart.name for chart in report.charts] == ["memory"]
    assert any("Nothing was trained" in finding for finding in report.findings)
    assert "top-1 %" not in as_text(report)


def test_pictures_and_networks_must_fit(budget: Budget, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the pictures have 3 classes, deit_tiny 1000"):
        study_attention_share(curves_of(num_classes=1000), tmp_path, budget=budget)
    with pytest.raises(ConfigError, match=r"trained on at \(32, 32\), deit_tiny is for \(64, 64\)"):
        study_attention_share(curves_of(image_size=(64, 64)), tmp_path, budget=budget)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"families": []}, "name one or more different families of deit_tiny"),
        ({"families": ["deit_tiny", "deit_tiny"]}, "name one or more different families"),
        ({"families": ["resnet50"]}, "unknown family 'resnet50'"),
        ({"shares": ()}, "shares must be one or more different numbers"),
        ({"shares": (0.2, 0.21)}, "two of the shares are the same network, 5 of 24 layers"),
        ({"shares": (0.2, 2)}, "a share of attention must be in 0..1, got 2"),
        ({"speeds": (1.25, 1.25)}, "speeds must be one or more different numbers"),
        ({"speeds": (0,)}, "speeds must be above 0 and at most 10"),
        ({"widths": [25]}, "the width .* must be a multiple of 8, got 25"),
        ({"widths": [24, 24]}, "widths must be as many as families, 1, got"),
        ({"image_size": (100, 100)}, "must be multiples of 8, the side of a patch"),
    ],
)
def test_what_cannot_be_planned_is_one_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        curves_of(**changes)


@torch.no_grad()
@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_what_is_timed_is_the_network(share: float) -> None:
    """Ours in the deploy form, also where blocks have no heads or nothing but heads."""
    model = subnetwork("efficientvit_tiny", share, width=24, image_size=(64, 96), num_classes=3).make()
    model = randomise(model).double().eval()
    form = deployed(model, (64, 96))
    assert isinstance(form, DeployedEfficientViT)
    images = torch.randn(2, 3, 64, 96, dtype=torch.float64)
    assert relative_error(form(images), model(images)) < 1e-12


def test_cost_is_counted_with_the_classes_asked_for() -> None:
    network = subnetwork("deit_tiny", 0.5, width=16, image_size=SIZE, num_classes=3)
    assert cost_of(network).num_params == sum(parameter.numel() for parameter in network.make().parameters())
    assert cost_of(network).num_macs > cost_of(replace(network, inner=50)).num_macs > 0


@pytest.mark.slow
def test_memory_is_profiled_once_and_kept(tmp_path: Path) -> None:
    """The real profiler, on two small networks."""
    networks = {
        name: subnetwork("deit_tiny", share, width=16, image_size=SIZE, num_classes=3)
        for name, share in (("none", 0.0), ("all", 1.0))
    }
    settings = SpeedSettings(batch_size=2, round_seconds=0.01)
    with torch.random.fork_rng():
        found = memory_of(networks, tmp_path / "memory.json", settings)
    for entry in found.values():
        assert 0 < entry.share < 1 and sum(entry.shares.values()) == pytest.approx(1)
    notes: list[str] = []
    assert memory_of(networks, tmp_path / "memory.json", settings, on_note=notes.append) == found and not notes


class Forbidden(InventedMachine):
    """Nothing may be measured."""

    def milliseconds(self, network: nn.Module) -> float:
        raise AssertionError("what is there is not measured again")


class Noisy(InventedMachine):
    """Every build of a network is off by some percent, as where weights lie in memory makes it on a real machine."""

    def __init__(self, noise: float, together: Mapping[str, float] | None = None) -> None:
        super().__init__(together)
        self.noise, self.generator = noise, random.Random(0)

    def together(self, networks: Mapping[str, nn.Module], baseline: nn.Module, rounds: int) -> dict[str, Spread]:
        found = super().together(networks, baseline, rounds)
        factors = {name: math.exp(self.noise * self.generator.gauss(0, 1)) for name in networks}
        return {name: Spread(*(factors.get(name, 1.0) * value for value in found[name])) for name in found}


def test_noise_is_averaged_out_and_not_chased(tmp_path: Path) -> None:
    settings, quiet = SpeedSettings(together_builds=3), InventedMachine()
    curve = curves_of()["deit_tiny"]
    found = match_curves(curve, tmp_path, settings, meter=Noisy(0.06))  # type: ignore[arg-type]
    for member in found.members:
        true = quiet(Described(member.network), Described(curve[0].baseline), 1).median
        assert abs(true / 1.25 - 1) < 0.05 and abs(member.achieved - 1) <= 0.03
        assert member.network.inner == member.search.width, "what is fast enough alone needs no correction"
    assert found.builds > 10, "three builds of six percent of noise show nothing"
    kept = (tmp_path / "together.json").read_bytes()
    again = match_curves(curve, tmp_path, settings, meter=Forbidden())  # type: ignore[arg-type]
    assert again == found and (tmp_path / "together.json").read_bytes() == kept


def test_more_shares_keep_what_was_measured(tmp_path: Path) -> None:
    settings = SpeedSettings(together_builds=3)
    first = match_curves(curves_of()["deit_tiny"], tmp_path, settings, meter=Noisy(0.04))  # type: ignore[arg-type]
    more = curves_of(shares=(0, 0.4, 0.6, 1))["deit_tiny"]
    second = match_curves(more, tmp_path, settings, meter=Noisy(0.04))  # type: ignore[arg-type]
    networks = {member.name: member.network for member in second.members}
    assert all(networks[member.name] == member.network for member in first.members), "trainings rest on them"
    samples = json.loads((tmp_path / "together.json").read_text())["samples"]
    assert len(samples["deit_tiny-1.25x-attention-00"]) > len(samples["deit_tiny-1.25x-attention-14"]) == second.builds


def test_samples_of_another_processor_do_not_count_among_new_ones(machine: InventedMachine, tmp_path: Path) -> None:
    match_curves(curves_of()["deit_tiny"], tmp_path, SpeedSettings())
    path = tmp_path / "together.json"
    kept = json.loads(path.read_text())
    kept["environment"]["cpu"] = "another"
    path.write_text(json.dumps(kept))
    before = machine.num_measurements
    match_curves(curves_of()["deit_tiny"], tmp_path, SpeedSettings())
    assert machine.num_measurements == before, "what was accepted stays"
    found = match_curves(curves_of(shares=(0, 0.4, 0.6, 1))["deit_tiny"], tmp_path, SpeedSettings())
    samples = json.loads(path.read_text())["samples"]
    assert {len(samples[member.name]) for member in found.members} == {SpeedSettings().together_builds}


def test_a_file_of_the_first_version_is_taken(machine: InventedMachine, tmp_path: Path) -> None:
    """Which had the middle, lowest and highest of the builds."""
    curve = curves_of()["deit_tiny"]
    first = match_curves(curve, tmp_path, SpeedSettings())
    path = tmp_path / "together.json"
    kept = json.loads(path.read_text())
    del kept["samples"], kept["settled"]
    for values in kept["speeds"].values():
        values["p25"], values["p75"] = 0.9 * values["median"], 1.1 * values["median"]
    path.write_text(json.dumps(kept))
    before = machine.num_measurements
    again = match_curves(curve, tmp_path, SpeedSettings())
    assert machine.num_measurements == before
    assert [m.speed.median for m in again.members] == [m.speed.median for m in first.members]
    assert [m.network for m in again.members] == [m.network for m in first.members]
