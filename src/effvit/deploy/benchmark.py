"""Measure models beside each other, in one run, in turns: the only way their speeds can be compared."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from effvit import timing
from effvit.deploy.candidates import Candidate, Source, find_candidate
from effvit.environment import environment
from effvit.errors import ConfigError
from effvit.timing import Spread, Timing, measure, paired_ratio, synchronizer

CONTROL = "control: "
"""Label of the first model measured a second time; how far it is from 1 is the noise of the run."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One model at one batch size."""

    model: str
    """Name, unique in the record."""
    form: str
    """What was done to it so that it runs at its best."""
    runtime: str
    """What ran it."""
    batch_size: int
    """Pictures per call."""
    image_size: tuple[int, int]
    """Height and width in pixels."""
    num_params: int | None
    """Parameters before rewriting."""
    timing: Timing
    """What it took, round by round."""
    relative: Spread
    """Its time over that of the first model, round by round; above 1 is slower."""
    is_control: bool
    """Whether this is the first model a second time."""

    @property
    def images_per_second(self) -> float:
        """Pictures per second at the median latency."""
        return self.batch_size / self.timing.latency_ms * 1e3

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        values = {key: value for key, value in vars(self).items() if key not in ("timing", "relative")}
        return {
            **values,
            "images_per_second": self.images_per_second,
            "relative": self.relative._asdict(),
            **self.timing.to_dict(),
        }


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How it was measured."""

    batch_sizes: tuple[int, ...]
    """Pictures per call."""
    image_size: tuple[int, int] | None
    """Height and width for all; None for each model's own."""
    device: str
    """Where torch ran."""
    num_threads: int
    """Threads within an operator, in every runtime."""
    rounds: int
    """Samples per model and batch size, taken in turns."""
    min_round_seconds: float
    """About how long one sample is."""
    warmup_seconds: float
    """How long each model ran before the first sample, at least."""
    dtype: str = "float32"
    """Number format."""
    weights: str = "random for names, the saved ones for folders and files"
    """What was in the networks."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """One run of a benchmark, with all that is needed to repeat and to judge it."""

    protocol: Protocol
    """How it was measured."""
    environment: dict[str, Any]
    """On what."""
    rows: tuple[Row, ...]
    """What came out, by batch size, the control last."""
    command: str | None = None
    """The command that made it."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "command": self.command,
            "protocol": asdict(self.protocol),
            "environment": self.environment,
            "rows": [row.to_dict() for row in self.rows],
        }


def benchmark(
    models: Sequence[Source],
    *,
    batch_sizes: Sequence[int] = (1, 16),
    image_size: int | tuple[int, int] | None = None,
    num_threads: int | None = None,
    device: torch.device | str = "cpu",
    runtimes: Sequence[str] = ("torch",),
    rounds: int = 20,
    min_round_seconds: float = 0.2,
    warmup_seconds: float = 1.0,
    on_round: Callable[[int, int], None] | None = None,
    command: str | None = None,
) -> Record:
    """Time models in turns, each in its own best form, the first one twice to show the noise.

    Args:
        models: Names, folders, files or models, see `find_candidate`; the first is what the others are compared to.
        batch_sizes: Pictures per call, each measured on its own.
        image_size: Side, or height and width, in pixels; None for each model's own.
        num_threads: Threads within an operator; None for torch's setting.
        device: Where torch runs.
        runtimes: Keys of `effvit.deploy.candidates.RUNTIMES`; every model runs in each.
        rounds: See `effvit.timing.measure`, as the next two.
        min_round_seconds: See there.
        warmup_seconds: See there.
        on_round: Told (rounds done, rounds in all batch sizes).
        command: Kept in the record.

    Raises:
        ConfigError: If a name is unknown or a number not allowed.
        WeightsError: If a folder or file cannot be read.
        ExportError: If a model cannot be brought into a runtime.
    """
    size = (image_size, image_size) if isinstance(image_size, int) else image_size
    _check(models, batch_sizes, runtimes, size)
    with timing.num_threads(num_threads) as in_force:
        protocol = Protocol(
            batch_sizes=tuple(batch_sizes),
            image_size=size,
            device=str(device),
            num_threads=in_force,
            rounds=rounds,
            min_round_seconds=min_round_seconds,
            warmup_seconds=warmup_seconds,
        )
        candidates = [
            find_candidate(source, runtime=runtime, image_size=size, device=device, num_threads=in_force)
            for runtime in runtimes
            for source in models
        ]
        rows: list[Row] = []
        for index, batch_size in enumerate(batch_sizes):
            progress = _shifted(on_round, index * rounds, rounds * len(batch_sizes))
            rows += _measure(candidates, batch_size, protocol, progress)
        return Record(protocol=protocol, environment=environment(), rows=tuple(rows), command=command)


def _measure(
    candidates: Sequence[Candidate],
    batch_size: int,
    protocol: Protocol,
    on_round: Callable[[int, int], None] | None,
) -> list[Row]:
    """All candidates and the control at one batch size."""
    entrants = [*zip(_unique(candidates), candidates, strict=True)]
    first_label, first = entrants[0]
    entrants.append((CONTROL + first_label, first))
    generator = torch.Generator().manual_seed(0)
    calls = {}
    for label, candidate in entrants:
        images = torch.randn(batch_size, *candidate.input_size, generator=generator)
        calls[_key(label, candidate)] = _bound(candidate, images.to(protocol.device))
    with torch.inference_mode():
        timings = measure(
            calls,
            rounds=protocol.rounds,
            min_round_seconds=protocol.min_round_seconds,
            warmup_seconds=protocol.warmup_seconds,
            synchronize=synchronizer(protocol.device),
            on_round=on_round,
        )
    reference = timings[_key(first_label, first)]
    return [
        Row(
            model=label,
            form=candidate.form,
            runtime=candidate.runtime,
            batch_size=batch_size,
            image_size=candidate.input_size[1:],
            num_params=candidate.num_params,
            timing=timings[_key(label, candidate)],
            relative=paired_ratio(timings[_key(label, candidate)], reference),
            is_control=label.startswith(CONTROL),
        )
        for label, candidate in entrants
    ]


def _key(label: str, candidate: Candidate) -> str:
    return f"{label} in {candidate.runtime}"


def _bound(candidate: Candidate, images: torch.Tensor) -> Callable[[], object]:
    call = candidate.call
    return lambda: call(images)


def _unique(candidates: Sequence[Candidate]) -> list[str]:
    """Labels, with a number where one model stands twice in one runtime: `a`, `a (2)`."""
    keys = [_key(candidate.label, candidate) for candidate in candidates]
    labels = []
    for index, candidate in enumerate(candidates):
        before = keys[:index].count(keys[index])
        labels.append(f"{candidate.label} ({before + 1})" if before else candidate.label)
    return labels


def _shifted(on_round: Callable[[int, int], None] | None, offset: int, total: int) -> Callable[[int, int], None] | None:
    """Progress over all batch sizes instead of within one."""
    return None if on_round is None else lambda done, _: on_round(offset + done, total)


def _check(
    models: Sequence[object],
    batch_sizes: Sequence[int],
    runtimes: Sequence[str],
    image_size: tuple[int, int] | None,
) -> None:
    faults = []
    if not models:
        faults.append("no models")
    if not runtimes:
        faults.append("no runtimes")
    if not batch_sizes or min(batch_sizes) < 1:
        faults.append(f"batch sizes must be at least 1, got {list(batch_sizes)}")
    if image_size is not None and min(image_size) < 1:
        faults.append(f"image size must be positive, got {image_size[0]} x {image_size[1]}")
    if faults:
        raise ConfigError("benchmark: " + "; ".join(faults))
