"""What of an ablation study is measured: the widths at which rows are as fast as the base, and everybody's speed.

Both are kept in the study's folder, each row's width as soon as it is found, and taken from there the next time.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from effvit.analysis.ablations import BASE, Ablation, percents
from effvit.analysis.scaling import Match, SpeedMeter, match_speed
from effvit.deploy.folding import fold_norms
from effvit.deploy.network import DeployedEfficientViT
from effvit.deploy.rewrite import rewrite
from effvit.deploy.speed.benchmark import Record, benchmark
from effvit.deploy.speed.records import Row
from effvit.errors import ConfigError, RunError
from effvit.files import make_output_folder, read_json, write_json
from effvit.model.config import EfficientViTConfig
from effvit.model.network import EfficientViT
from effvit.timing import Spread, paired_ratio

FOLDED_BASE = "base, norms folded only"
"""The base in the form of rows that the deploy form does not know, so that like is compared with like."""


@dataclass(frozen=True, kw_only=True)
class SpeedSettings:
    """How speed is measured."""

    batch_size: int = 16
    """Pictures per call; 16 and one thread are the paper's for the CPU."""
    num_threads: int = 1
    """Threads within an operator."""
    device: str = "cpu"
    """Where torch runs; ONNX Runtime runs on the CPU."""
    tolerance: float = 0.03
    """Share by which a rescaled row may miss the base's speed."""
    rounds: int = 7
    """Of a trial in the search of a width."""
    confirm_rounds: int = 31
    """Of the measurement that ends it."""
    report_rounds: int = 20
    """Of the measurement that is reported."""
    round_seconds: float = 0.05
    """About how long a sample of the search is."""
    report_seconds: float = 0.2
    """About how long a sample is that is reported."""


@dataclass(frozen=True, kw_only=True)
class Speed:
    """How fast one network is in one runtime."""

    images_per_second: float
    """In wall time, batch and threads as set."""
    over_base: Spread
    """How many times as fast as the base in the same form, round by round; above 1 is faster."""
    is_deploy_form: bool
    """Whether it is our deploy form; else the network with its norms folded, as far as they can be."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**vars(self), "over_base": self.over_base._asdict()}


@dataclass(frozen=True, kw_only=True)
class Speeds:
    """Everybody's speed, by the names of the networks' configurations."""

    eager: dict[str, Speed]
    """In torch, norms folded, nothing else: the networks as the paper writes them down."""
    onnx: dict[str, Speed]
    """In ONNX Runtime, exported as `effvit export` does it."""
    missing: dict[str, str]
    """What could not be measured -> why, in one line."""


def find_widths(
    ablations: Sequence[Ablation],
    base: EfficientViTConfig,
    folder: Path,
    settings: SpeedSettings,
    *,
    on_row: Callable[[Ablation, Match | str], None] | None = None,
) -> dict[str, Match | str]:
    """The widths, in percent of the base's, at which rows are as fast as the base in torch with folded norms.

    Args:
        ablations: The rows; the base itself is passed over.
        base: The network they change.
        folder: Where widths are kept, a file each; made if it is not there.
        settings: How to measure.
        on_row: Told of each row and what was found, kept ones included.

    Returns:
        Key of a row -> its match, or why there is none.

    Raises:
        RunError: If the folder holds widths that were found with other settings.
    """
    folder = make_output_folder(folder)
    channels, (height, width) = base.in_channels, base.image_size
    meter = SpeedMeter(
        input_size=(channels, height, width),
        batch_size=settings.batch_size,
        device=settings.device,
        num_threads=settings.num_threads,
        prepare=fold_norms,
        round_seconds=settings.round_seconds,
    )
    found: dict[str, Match | str] = {}
    for ablation in ablations:
        if ablation.key == BASE.key:
            continue
        path = folder / f"{ablation.key}.json"
        asked = _as_json({"row": ablation.config(base).to_dict(), "base": base.to_dict(), "speed": asdict(settings)})
        if path.is_file():
            kept = read_json(path)
            if kept.get("settings") != asked:
                raise RunError(f"{path} was found with other settings: give another folder, or remove that file")
            result: Match | str = Match.from_dict(kept["match"])
        else:
            result = _match(ablation, base, meter, settings)
            if isinstance(result, Match):  # what failed may do the next time: the machine may have been busy
                write_json(path, {"match": result.to_dict(), "settings": asked})
        found[ablation.key] = result
        if on_row is not None:
            on_row(ablation, result)
    return found


def _match(ablation: Ablation, base: EfficientViTConfig, meter: SpeedMeter, settings: SpeedSettings) -> Match | str:
    try:
        return match_speed(
            lambda percent: build(ablation.config(base, percent=percent)),
            percents(base),
            build(base),
            measure=meter,
            tolerance=settings.tolerance,
            start=100,
            rounds=settings.rounds,
            confirm_rounds=settings.confirm_rounds,
            label=f"row {ablation.key}",
        )
    except ConfigError as error:  # too noisy a machine, or no such width: the other rows have theirs
        return str(error)


def build(config: EfficientViTConfig) -> EfficientViT:
    """The network with random weights, always the same: an exported file is known by them."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return EfficientViT(config).eval()


def measure_speeds(
    configs: Sequence[EfficientViTConfig],
    folder: Path,
    settings: SpeedSettings,
    *,
    command: str = "",
    on_round: Callable[[int, int], None] | None = None,
    on_step: Callable[[str], None] | None = None,
) -> tuple[Speeds, dict[str, Any]]:
    """Time all networks in turns, in torch and in ONNX Runtime, or read what was measured before.

    Args:
        configs: The networks, of different names, the base first.
        folder: Where the measurement (`speed.json`) and the exported files are kept.
        settings: How to measure.
        command: For the records.
        on_round: Told (rounds done, rounds in all) of the runtime that is being measured.
        on_step: Told in a few words what is being prepared.

    Returns:
        The speeds, and the plain records of both measurements.
    """
    path = folder / "speed.json"
    asked = _as_json({"networks": [config.to_dict() for config in configs], "speed": asdict(settings)})
    kept = read_json(path) if path.is_file() else {}
    if kept.get("settings") != asked:
        kept = {"settings": asked, **_measure(configs, folder, settings, command, on_round, on_step)}
        write_json(path, kept)
    deployed = kept["deployed"]
    records = {runtime: Record.from_dict(kept[runtime]) for runtime in ("eager", "onnx")}
    first = configs[0].name
    missing = {f"{entry.model} in {entry.runtime}": entry.reason for r in records.values() for entry in r.missing}
    speeds = Speeds(
        eager=_speeds(records["eager"], first, {}),
        onnx=_speeds(records["onnx"], first, deployed),
        missing=missing,
    )
    return speeds, {runtime: kept[runtime] for runtime in records}


def _measure(
    configs: Sequence[EfficientViTConfig],
    folder: Path,
    settings: SpeedSettings,
    command: str,
    on_round: Callable[[int, int], None] | None,
    on_step: Callable[[str], None] | None,
) -> dict[str, Any]:
    networks = [build(config) for config in configs]
    height, width = configs[0].image_size
    deployed = {network.config.name: isinstance(rewrite(network), DeployedEfficientViT) for network in networks}
    common: dict[str, Any] = {
        "batch_sizes": (settings.batch_size,),
        "image_size": (height, width),
        "num_threads": settings.num_threads,
        "rounds": settings.report_rounds,
        "min_round_seconds": settings.report_seconds,
        "warmup_seconds": settings.report_seconds,
        "command": command,
        "on_round": on_round,
        "on_step": on_step,
    }
    folded = [fold_norms(network) for network in networks]
    eager = benchmark(folded, device=settings.device, form="plain", **common)
    exported: list[nn.Module] = list(networks)
    if not all(deployed.values()):
        exported.append(_NormsFolded(networks[0]))
    files = make_output_folder(folder / "exported")
    onnx = benchmark(exported, runtimes=("onnxruntime",), form="dynamo", folder=files, **common)
    return {"deployed": deployed, "eager": eager.to_dict(), "onnx": onnx.to_dict()}


class _NormsFolded(nn.Module):
    """A network that the exporter does not rewrite: no `EfficientViT` by type, the same by content."""

    def __init__(self, network: EfficientViT) -> None:
        super().__init__()
        self.network = fold_norms(network)
        self.config = SimpleNamespace(name=FOLDED_BASE)

    def forward(self, x: Tensor) -> Any:
        return self.network(x)


def _speeds(record: Record, first: str, deployed: Mapping[str, bool]) -> dict[str, Speed]:
    """Each network's speed, relative to the base in the same form."""
    rows: dict[str, Row] = {row.model: row for row in record.rows if not row.is_control}
    found = {}
    for name, row in rows.items():
        is_deployed = deployed.get(name, False)
        plain = bool(deployed) and not is_deployed
        reference = rows.get(FOLDED_BASE if plain else first)
        if name != FOLDED_BASE and reference is not None:
            found[name] = Speed(
                images_per_second=row.images_per_second,
                over_base=paired_ratio(reference.timing, row.timing),
                is_deploy_form=is_deployed,
            )
    return found


def _as_json(value: Any) -> Any:
    """As it would be read back."""
    return json.loads(json.dumps(value))
