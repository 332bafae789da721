"""Ablation studies that nobody trained: every number is the test's choice."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from effvit.analysis.ablations import ABLATIONS
from effvit.analysis.scaling import Match, Trial
from effvit.data.datasets import PictureData
from effvit.data.samples import Sample
from effvit.environment import environment
from effvit.model.resizing import with_windows
from effvit.model.variants import VARIANTS
from effvit.preprocessing import Preprocessing
from effvit.studies.ablation import AblationStudy, Version
from effvit.studies.ablation_speed import Speed, Speeds
from effvit.studies.ablation_widths import SpeedSettings
from effvit.studies.budget import Budget
from effvit.studies.training import Trained
from effvit.timing import Spread
from effvit.train.config import TrainConfig
from effvit.train.records import EpochRecord

BASE_CONFIG = replace(with_windows(VARIANTS["efficientvit_m4"], image_size=64), num_classes=2)

Scores = Mapping[int, float | None]
"""Seed -> top-1, 0..1; None for a training that failed."""


def a_match(percent: int, speed: float = 1.01) -> Match:
    trial = Trial(width=percent, speed=Spread(speed, speed, speed), rounds=31)
    return Match(width=percent, target=1.0, confirmed=trial, trials=(trial,))


def a_study(
    plain: Mapping[str, Scores],
    rescaled: Mapping[str, tuple[int, Scores]] | None = None,
    *,
    num_val: int = 200,
    speeds: Mapping[str, tuple[float, float, bool]] | None = None,
    refused: Mapping[str, str] | None = None,
) -> AblationStudy:
    """A study with these scores.

    Args:
        plain: Key of a row -> its scores.
        rescaled: Key of a row -> percent of the widths, scores.
        num_val: Validation pictures.
        speeds: Name of a configuration -> its speed over the base's in torch and in ONNX, whether it has a deploy form.
        refused: Key of a row -> why it has no scaled widths.
    """
    versions, trained = [], []
    for key, ablation in ABLATIONS.items():
        both = [(False, 100, plain.get(key)), (True, *(rescaled or {}).get(key, (0, None)))]
        for is_rescaled, percent, scores in both:
            if scores is None:
                continue
            config = ablation.config(BASE_CONFIG, percent=percent)
            version = Version(
                ablation=ablation,
                rescaled=is_rescaled,
                percent=percent,
                config=config,
                num_params=1_000_000 * percent,
                num_macs=10_000_000 * percent,
            )
            versions.append(version)
            if not (is_rescaled and percent == 100):  # trained once
                trained += [_trained(version.entrant.name, seed, top1) for seed, top1 in scores.items()]
    samples = tuple(Sample(Path("photos/a.jpg"), target=0) for _ in range(num_val))
    data = PictureData(Path("photos"), ("a", "b"), samples[:50], samples, "given", ())
    seeds = tuple(next(iter(plain.values())))
    config = TrainConfig(epochs=3, preprocessing=Preprocessing(image_size=(64, 64)))
    return AblationStudy(
        base=BASE_CONFIG,
        versions=tuple(versions),
        matches={**{key: a_match(percent) for key, (percent, _) in (rescaled or {}).items()}, **(refused or {})},
        speed_settings=SpeedSettings(),
        speeds=None if speeds is None else _speeds(speeds),
        budget=Budget(data=data, config=config, seeds=seeds) if any(plain.values()) else None,
        trained=tuple(trained),
        command="effvit analyze ablations",
        environment=environment(),
    )


def _trained(name: str, seed: int, top1: float | None) -> Trained:
    record = EpochRecord(
        epoch=1,
        learning_rate=1e-3,
        train_loss=1.0,
        val_loss=1.0,
        val_top1=top1 or 0.0,
        num_unreadable=0,
        pictures_per_second=1.0,
        seconds=2.0,
    )
    failure = "the loss is nan at epoch 1" if top1 is None else None
    return Trained(name=name, seed=seed, folder=Path("runs") / name, epochs=(record,), failure=failure)


def _speeds(values: Mapping[str, tuple[float, float, bool]]) -> Speeds:
    def one(over_base: float, is_deploy_form: bool) -> Speed:
        spread = Spread(over_base, over_base - 0.01, over_base + 0.01)
        return Speed(images_per_second=100 * over_base, over_base=spread, is_deploy_form=is_deploy_form)

    return Speeds(
        eager={name: one(eager, False) for name, (eager, _, _) in values.items()},
        onnx={name: one(onnx, deployed) for name, (_, onnx, deployed) in values.items()},
        missing={},
    )
