"""How fast the networks of an ablation study are, measured in turns: in torch and in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from torch import Tensor, nn

from effvit.deploy.folding import fold_norms
from effvit.deploy.network import DeployedEfficientViT
from effvit.deploy.rewrite import rewrite
from effvit.deploy.speed.benchmark import Record, benchmark
from effvit.deploy.speed.records import Row
from effvit.files import make_output_folder, write_json
from effvit.model.config import EfficientViTConfig
from effvit.model.network import EfficientViT
from effvit.studies.ablation_widths import SpeedSettings, build
from effvit.studies.kept import as_json, read_same
from effvit.timing import Spread, paired_ratio, spread

FOLDED_BASE = "base, norms folded only"
"""The base in the form of rows that the deploy form does not know, so that like is compared with like."""
_BUILDS = 4
"""How often networks are made anew while they are measured."""


@dataclass(frozen=True, kw_only=True)
class Speed:
    """How fast one network is in one runtime."""

    images_per_second: float
    """Batch, threads and clock as set."""
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
    asked = as_json({"networks": [config.to_dict() for config in configs], "speed": asdict(settings)})
    kept = read_same(path, asked)
    if kept is None:
        kept = as_json({"settings": asked, **_measure(configs, folder, settings, command, on_round, on_step)})
        write_json(path, kept)
    deployed = kept["deployed"]
    records = {runtime: Record.from_dict(kept[runtime]) for runtime in ("eager", "onnx")}
    first = configs[0].name
    missing = {f"{entry.model} in {entry.runtime}": entry.reason for r in records.values() for entry in r.missing}
    speeds = Speeds(
        eager=_speeds(records["eager"], first, {}, clock=settings.clock_of(settings.device)),
        onnx=_speeds(records["onnx"], first, deployed, clock=settings.clock_of("cpu")),
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
        "rounds": max(1, settings.report_rounds // _BUILDS),
        "min_round_seconds": settings.report_seconds,
        "warmup_seconds": settings.report_seconds,
        "command": command,
        "on_round": on_round,
        "on_step": on_step,
    }
    eager = _in_builds(
        lambda: benchmark(
            [fold_norms(build(config)) for config in configs], device=settings.device, form="plain", **common
        )
    )
    files = make_output_folder(folder / "exported")

    def onnx() -> Record:
        made = [build(config) for config in configs]
        exported: list[nn.Module] = [*made]
        if not all(deployed.values()):
            exported.append(_NormsFolded(made[0]))
        return benchmark(exported, runtimes=("onnxruntime",), form="dynamo", folder=files, **common)

    return {"deployed": deployed, "eager": eager.to_dict(), "onnx": _in_builds(onnx).to_dict()}


def _in_builds(measured: Callable[[], Record]) -> Record:
    """A measurement repeated with networks made anew, as one record: where memory lies moves a time by some percent."""
    records = [measured() for _ in range(_BUILDS)]
    rows: list[Row] = []
    for row in records[0].rows:
        timings = [same.timing for record in records for same in record.rows if same.model == row.model]
        timing = replace(
            row.timing,
            samples_ms=tuple(sample for timing in timings for sample in timing.samples_ms),
            cpu_samples_ms=tuple(sample for timing in timings for sample in timing.cpu_samples_ms),
            samples_joules=None,
            stable=all(timing.stable for timing in timings),
        )
        rows.append(
            replace(row, timing=timing, relative=paired_ratio(timing, rows[0].timing) if rows else row.relative)
        )
    protocol = replace(records[0].protocol, rounds=rows[0].timing.num_rounds)
    return replace(records[0], rows=tuple(rows), protocol=protocol)


class _NormsFolded(nn.Module):
    """A network that the exporter does not rewrite: no `EfficientViT` by type, the same by content."""

    def __init__(self, network: EfficientViT) -> None:
        super().__init__()
        self.network = fold_norms(network)
        self.config = SimpleNamespace(name=FOLDED_BASE)

    def forward(self, x: Tensor) -> Any:
        return self.network(x)


def _speeds(record: Record, first: str, deployed: Mapping[str, bool], *, clock: str) -> dict[str, Speed]:
    """Each network's speed, relative to the base in the same form."""
    rows: dict[str, Row] = {row.model: row for row in record.rows if not row.is_control}
    found = {}
    for name, row in rows.items():
        is_deployed = deployed.get(name, False)
        reference = rows.get(FOLDED_BASE if deployed and not is_deployed else first)
        if name != FOLDED_BASE and reference is not None:
            own, base = _samples(row, clock), _samples(reference, clock)
            found[name] = Speed(
                images_per_second=1000 * row.batch_size / spread(own).median,
                over_base=spread([b / a for a, b in zip(own, base, strict=True)]),
                is_deploy_form=is_deployed,
            )
    return found


def _samples(row: Row, clock: str) -> tuple[float, ...]:
    """Milliseconds of each round."""
    return row.timing.cpu_samples_ms if clock == "processor" else row.timing.samples_ms


def control(values: Mapping[str, Any], clock: str) -> Spread | None:
    """How many times as fast as itself the base was: its distance from 1 is the noise.

    Args:
        values: The plain record of a runtime, see `measure_speeds`.
        clock: `processor` or `wall`.
    """
    rows = Record.from_dict(values).rows
    again = next((row for row in rows if row.is_control), None)
    if again is None:
        return None
    pairs = zip(_samples(rows[0], clock), _samples(again, clock), strict=True)
    return spread([first / second for first, second in pairs])
