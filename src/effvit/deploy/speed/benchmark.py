"""Measure models beside each other, in one run, in turns: the only way their speeds can be compared."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from effvit import timing
from effvit.deploy.speed import paper_protocol
from effvit.deploy.speed.candidates import Candidate, check_names, find_candidate
from effvit.deploy.speed.contest import Result, hold_contest
from effvit.deploy.speed.exported_forms import CALIBRATION
from effvit.deploy.speed.forms import TRACE
from effvit.deploy.speed.records import CONTROL, BatchSize, Missing, Protocol, Record
from effvit.deploy.speed.resources import energy_meter
from effvit.deploy.speed.sources import Source, find_entrant
from effvit.environment import environment
from effvit.errors import ConfigError, ExportError, first_line

__all__ = ["CONTROL", "Record", "benchmark", "benchmark_as_paper"]

OnRound = Callable[[int, int], None]
OnStep = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class _Work:
    """What has no part in how it is measured."""

    num_breakdowns: int = 0
    folder: Path | None
    on_round: OnRound | None
    on_step: OnStep | None
    command: str | None


def benchmark(
    models: Sequence[Source],
    *,
    batch_sizes: Sequence[BatchSize] = (1, 16),
    image_size: int | tuple[int, int] | None = None,
    num_threads: int | None = None,
    device: torch.device | str = "cpu",
    runtimes: Sequence[str] = ("torch",),
    precisions: Sequence[str] = ("fp32",),
    form: str = "best",
    rounds: int = 20,
    min_round_seconds: float = 0.2,
    warmup_seconds: float = 1.0,
    pin: bool = True,
    num_breakdowns: int = 0,
    folder: Path | None = None,
    on_round: OnRound | None = None,
    on_step: OnStep | None = None,
    command: str | None = None,
) -> Record:
    """Time models in turns, each in its own best form, the first one twice to show the noise.

    What cannot be brought into a runtime is listed with the reason, and the others go on.

    Args:
        models: Names, folders, files or models, see `find_entrant`; the first is what the others are compared to.
        batch_sizes: Pictures per call, each measured on its own; `max`, on CUDA, for the batch of each
            model's highest throughput.
        image_size: Side, or height and width, in pixels; None for each model's own.
        num_threads: Threads within an operator; None for torch's setting.
        device: Where torch runs.
        runtimes: Some of `effvit.deploy.speed.candidates.RUNTIMES`; every model runs in each.
        precisions: Some of `effvit.deploy.speed.candidates.PRECISIONS`; every model runs in each.
        form: Key of `effvit.deploy.speed.sources.FORM_NAMES`, for models that do not say it by `@FORM`.
        rounds: See `effvit.timing.measure`, as the next two.
        min_round_seconds: See there.
        warmup_seconds: See there.
        pin: Whether to hold the threads on as many cores, see `effvit.deploy.speed.resources.pinned`.
        num_breakdowns: Of how many models at each batch size to say where the time goes.
        folder: Where exported files are kept for the next time; None for nowhere.
        on_round: Told (rounds done, rounds in all batch sizes).
        on_step: Told in a few words what is being prepared.
        command: Kept in the record.

    Raises:
        ConfigError: If a name is unknown or a number not allowed.
        WeightsError: If a folder or file cannot be read.
        ExportError: If nothing at all could be measured, with the first reason.
    """
    meter = energy_meter(torch.device(device))
    protocol = Protocol(
        batch_sizes=tuple(batch_sizes),
        image_size=_height_and_width(image_size),
        runtimes=tuple(runtimes),
        precisions=tuple(precisions),
        form=form,
        device=str(device),
        num_threads=torch.get_num_threads() if num_threads is None else num_threads,
        rounds=rounds,
        min_round_seconds=min_round_seconds,
        warmup_seconds=warmup_seconds,
        pinned_cores=() if pin else None,
        calibration=CALIBRATION if "int8" in precisions else None,
        energy="not told by this machine" if meter is None else "of the whole device",
    )
    work = _Work(num_breakdowns=num_breakdowns, folder=folder, on_round=on_round, on_step=on_step, command=command)
    return _run(models, protocol, work)


def benchmark_as_paper(
    models: Sequence[Source],
    *,
    image_size: int | tuple[int, int] | None = None,
    device: torch.device | str = "cpu",
    runtimes: Sequence[str] = ("torch",),
    form: str = "best",
    folder: Path | None = None,
    on_round: OnRound | None = None,
    on_step: OnStep | None = None,
    command: str | None = None,
) -> Record:
    """Time models as the paper did, one after the other, see `effvit.deploy.speed.paper_protocol`.

    On CUDA that is float16 by autocast and a batch of 2048, or the largest power of two below that fits all.

    Args:
        models: See `benchmark`, as all others.
        image_size: See there.
        device: See there.
        runtimes: See there; `torch` stands for `trace`, which is how the authors' script runs it.
        form: See there.
        folder: See there.
        on_round: See there.
        on_step: See there.
        command: See there.

    Raises:
        ConfigError: As `benchmark`.
        WeightsError: As `benchmark`.
        ExportError: As `benchmark`.
    """
    on_cuda = torch.device(device).type == "cuda"
    protocol = Protocol(
        name="paper",
        batch_sizes=(paper_protocol.CUDA_BATCH_SIZE if on_cuda else paper_protocol.BATCH_SIZE,),
        image_size=_height_and_width(image_size),
        runtimes=tuple(TRACE if runtime == "torch" else runtime for runtime in runtimes),
        precisions=("fp16" if on_cuda else "fp32",),
        form=form,
        device=str(device),
        num_threads=paper_protocol.NUM_THREADS,
        energy="not measured",
        rounds=1,
        min_round_seconds=paper_protocol.MEASURED_SECONDS,
        warmup_seconds=paper_protocol.WARMUP_SECONDS,
    )
    return _run(models, protocol, _Work(folder=folder, on_round=on_round, on_step=on_step, command=command))


def _run(models: Sequence[Source], protocol: Protocol, work: _Work) -> Record:
    _check(models, protocol)
    entrants = [find_entrant(source, image_size=protocol.image_size, form=protocol.form) for source in models]
    results: list[Result] = []
    with ExitStack() as stack:
        stack.enter_context(timing.num_threads(protocol.num_threads))
        folder = work.folder or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="effvit-")))
        candidates: list[Candidate] = []
        missing: list[Missing] = []
        for runtime in protocol.runtimes:
            for precision in protocol.precisions:
                for entrant in entrants:
                    try:
                        candidate = find_candidate(
                            entrant,
                            runtime=runtime,
                            precision=precision,
                            device=protocol.device,
                            num_threads=protocol.num_threads,
                            folder=folder,
                        )
                    except ConfigError as error:
                        reason = first_line(error)
                        missing.append(
                            Missing(
                                model=entrant.label,
                                runtime=runtime,
                                precision=precision,
                                batch_size=None,
                                reason=reason,
                            )
                        )
                        continue
                    if not _is_there(candidate, candidates):
                        candidates.append(candidate)
        for index, batch_size in enumerate(protocol.batch_sizes if candidates else ()):
            results.append(
                hold_contest(
                    candidates,
                    batch_size,
                    protocol,
                    num_breakdowns=work.num_breakdowns,
                    on_round=_shifted(work.on_round, index, len(protocol.batch_sizes)),
                    on_step=work.on_step or (lambda _: None),
                )
            )
        return _record(protocol, work, missing, results)  # here, so that it tells the threads measured with


def _record(protocol: Protocol, work: _Work, missing: list[Missing], results: list[Result]) -> Record:
    missing = [*missing, *(item for result in results for item in result.missing)]
    rows = tuple(row for result in results for row in result.rows)
    if not rows:
        first = missing[0]
        raise ExportError(f"nothing could be measured; {first.model} in {first.runtime}: {first.reason}")
    cores = next((result.pinned_cores for result in results if result.rows), None)
    return Record(
        protocol=replace(protocol, pinned_cores=cores),
        environment=environment(),
        rows=rows,
        missing=tuple(missing),
        shares=tuple(shares for result in results for shares in result.shares),
        command=work.command,
    )


def _is_there(candidate: Candidate, candidates: Sequence[Candidate]) -> bool:
    """Whether a file takes part already: it does so once per runtime, whatever precisions were asked for."""
    if candidate.entrant.file is None:
        return False
    return any(other.entrant is candidate.entrant and other.runtime == candidate.runtime for other in candidates)


def _shifted(on_round: OnRound | None, index: int, count: int) -> OnRound | None:
    """Progress over all batch sizes instead of within one."""
    return None if on_round is None else lambda done, total: on_round(index * total + done, count * total)


def _height_and_width(image_size: int | tuple[int, int] | None) -> tuple[int, int] | None:
    return (image_size, image_size) if isinstance(image_size, int) else image_size


def _check(models: Sequence[object], protocol: Protocol) -> None:
    faults = []
    if not models:
        faults.append("no models")
    if not protocol.runtimes:
        faults.append("no runtimes")
    if not protocol.precisions:
        faults.append("no precisions")
    sizes = [size for size in protocol.batch_sizes if size != "max"]
    if not protocol.batch_sizes or min(sizes, default=1) < 1:
        faults.append(f"batch sizes must be at least 1, got {list(protocol.batch_sizes)}")
    if len(sizes) < len(protocol.batch_sizes) and torch.device(protocol.device).type != "cuda":
        faults.append(f"batch size max needs a CUDA device, got {protocol.device}: elsewhere memory ends the process")
    if protocol.image_size is not None and min(protocol.image_size) < 1:
        faults.append(f"image size must be positive, got {protocol.image_size[0]} x {protocol.image_size[1]}")
    faults += timing.faults_of(protocol.rounds, protocol.min_round_seconds, protocol.warmup_seconds)
    if faults:
        raise ConfigError("benchmark: " + "; ".join(faults))
    check_names(protocol.runtimes, protocol.precisions)
