"""All candidates at one batch size: made ready, each in its fastest form, and timed in turns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from effvit.deploy.speed.batch_search import search_batch_size
from effvit.deploy.speed.candidates import Candidate
from effvit.deploy.speed.forms import Call, Form, Prepared
from effvit.deploy.speed.paper_protocol import measure_as_paper
from effvit.deploy.speed.published_accuracy import published_accuracy
from effvit.deploy.speed.records import CONTROL, BatchSize, Missing, Protocol, Row, Shares
from effvit.deploy.speed.resources import energy_meter, peak_memory, pinned
from effvit.deploy.speed.shares import onnx_shares, torch_shares
from effvit.errors import ExportError, first_line
from effvit.timing import Spread, Timing, measure, paired_ratio, synchronizer, unpaired_ratio

_TRIAL_ROUNDS = 5
"""Rounds in which the forms of a candidate take turns before the measurement."""
_TRIAL_SHARE = 0.25
"""Length of their rounds and warm-up, over those of the measurement."""

_MEMORY_IS_HELD = ("cuda-graph", "openvino")
"""Have no peak of their own: a graph has its memory since it was recorded, OpenVINO's first call compiles."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """What came out at one batch size."""

    rows: tuple[Row, ...] = ()
    """One per candidate that could be measured, and the control."""
    missing: tuple[Missing, ...] = ()
    """The others."""
    shares: tuple[Shares, ...] = ()
    """Where the time goes, for the first few."""
    pinned_cores: tuple[int, ...] | None = None
    """Cores that the threads were held on."""


@dataclass(frozen=True, kw_only=True)
class _Ready:
    """A candidate in the form that stands for it."""

    label: str
    candidate: Candidate
    form: Form
    prepared: Prepared
    images: torch.Tensor
    peak_memory_mib: float | None
    tried_ms: dict[str, float] | None
    failed: dict[str, str]

    @property
    def key(self) -> str:
        """Names it among the calls of one measurement."""
        return f"{self.label} in {self.candidate.runtime}, {self.candidate.precision}"


def hold_contest(
    candidates: Sequence[Candidate],
    batch_size: BatchSize,
    protocol: Protocol,
    *,
    num_breakdowns: int = 0,
    on_round: Callable[[int, int], None] | None = None,
    on_step: Callable[[str], None] = lambda _: None,
) -> Result:
    """Time all candidates at one batch size, the first that can be measured twice.

    Args:
        candidates: The first is what the others are compared to.
        batch_size: Pictures per call; `max` for the batch of each candidate's highest throughput.
        protocol: How to measure.
        num_breakdowns: Of how many candidates to say where the time goes.
        on_round: Told (rounds done, rounds in all).
        on_step: Told in a few words what is being prepared.
    """
    ready: list[_Ready] = []
    missing: list[Missing] = []
    for label, candidate in zip(_unique(candidates), candidates, strict=True):
        on_step(f"prepare {label} in {candidate.runtime}, {candidate.precision}, batch {batch_size}")
        try:
            ready.append(_make_ready(label, candidate, batch_size, protocol))
        except Exception as error:  # other people's compilers and exporters: their failures share no base class
            size = None if batch_size == "max" else batch_size
            missing.append(_missing(label, candidate, size, first_line(error)))
    if not ready:
        return Result(missing=tuple(missing))
    calls = {entry.key: entry.prepared.call for entry in ready}
    calls[CONTROL] = ready[0].prepared.call
    with pinned(protocol.num_threads, enabled=protocol.pinned_cores is not None) as cores, torch.inference_mode():
        timings = _timed(calls, protocol, on_round)
        breakdowns = list(_breakdowns(ready[:num_breakdowns], protocol))
    return Result(
        rows=tuple(_rows(ready, timings)),
        missing=(*missing, *(item for item in breakdowns if isinstance(item, Missing))),
        shares=tuple(item for item in breakdowns if isinstance(item, Shares)),
        pinned_cores=cores,
    )


def _missing(label: str, candidate: Candidate, batch_size: int | None, reason: str) -> Missing:
    return Missing(
        model=label,
        runtime=candidate.runtime,
        precision=candidate.precision,
        batch_size=batch_size,
        reason=reason,
    )


def _make_ready(label: str, candidate: Candidate, batch_size: BatchSize, protocol: Protocol) -> _Ready:
    """A candidate at a batch size, or in the paper's protocol at the largest power of two below it that fits."""
    size = _best_batch_size(candidate, protocol) if batch_size == "max" else batch_size
    while True:
        try:
            return _in_best_form(label, candidate, size, protocol)
        except torch.OutOfMemoryError:
            if protocol.name != "paper" or size == 1:
                raise
        torch.cuda.empty_cache()  # not in the handler, where the error still holds what the failed batch took
        size //= 2


def _in_best_form(label: str, candidate: Candidate, batch_size: int, protocol: Protocol) -> _Ready:
    """Prepare all forms of a candidate, and keep the fastest.

    Raises:
        OutOfMemoryError: If none can be prepared, and memory is what one of them lacked.
        ExportError: If none can be prepared for other reasons, with the first.
    """
    images = _noise(candidate, batch_size)
    device = torch.device(protocol.device)
    forms: dict[str, tuple[Form, Prepared, float | None]] = {}
    failed: dict[str, str] = {}  # in words: an error would hold the memory of everything it passed through
    memory_ended = False
    for form in candidate.forms:
        try:
            prepared = form.prepare(images)
            with torch.inference_mode():
                if prepared.file is None:
                    prepared.call()  # torch sets up its libraries once; a runtime of files keeps what it takes
                memory = None if candidate.runtime in _MEMORY_IS_HELD else peak_memory(prepared.call, device)
            forms[form.text] = form, prepared, memory
        except Exception as error:  # see `hold_contest`; another form may do
            failed[form.text] = first_line(error)
            memory_ended = memory_ended or isinstance(error, torch.OutOfMemoryError)
    if not forms:
        reason = next(iter(failed.values()))
        raise torch.OutOfMemoryError(reason) if memory_ended else ExportError(reason)
    tried = _trial({text: prepared.call for text, (_, prepared, _) in forms.items()}, protocol)
    form, prepared, memory = forms[min(tried, key=tried.__getitem__) if tried else next(iter(forms))]
    return _Ready(
        label=label,
        candidate=candidate,
        form=form,
        prepared=prepared,
        images=images,
        peak_memory_mib=memory,
        tried_ms=tried,
        failed=failed,
    )


def _trial(calls: Mapping[str, Call], protocol: Protocol) -> dict[str, float] | None:
    """Milliseconds of each form, measured in turns; None where there is no choice."""
    if len(calls) == 1:
        return None
    seconds = 0.2 if protocol.name == "paper" else protocol.min_round_seconds
    with torch.inference_mode():
        timings = measure(
            calls,
            rounds=_TRIAL_ROUNDS,
            min_round_seconds=_TRIAL_SHARE * seconds,
            warmup_seconds=_TRIAL_SHARE * min(protocol.warmup_seconds, 1.0),
            synchronize=synchronizer(protocol.device),
        )
    return {text: timing.latency_ms for text, timing in timings.items()}


def _best_batch_size(candidate: Candidate, protocol: Protocol) -> int:
    """The batch of the highest throughput in the candidate's first form."""
    form = candidate.forms[0]

    def seconds_per_call(batch_size: int) -> float:
        prepared = form.prepare(_noise(candidate, batch_size))
        with torch.inference_mode():
            timing = measure(
                {"": prepared.call},
                rounds=3,
                min_round_seconds=0.05,
                warmup_seconds=0.1,
                synchronize=synchronizer(protocol.device),
            )
        return timing[""].latency_ms / 1e3

    return search_batch_size(seconds_per_call).best


def _noise(candidate: Candidate, batch_size: int) -> torch.Tensor:
    return torch.randn(batch_size, *candidate.entrant.input_size, generator=torch.Generator().manual_seed(0))


def _timed(
    calls: Mapping[str, Call], protocol: Protocol, on_round: Callable[[int, int], None] | None
) -> dict[str, Timing]:
    wait = synchronizer(protocol.device)
    if protocol.name == "paper":
        return measure_as_paper(
            calls,
            warmup_seconds=protocol.warmup_seconds,
            measured_seconds=protocol.min_round_seconds,
            synchronize=wait,
            on_round=on_round,
        )
    return measure(
        calls,
        rounds=protocol.rounds,
        min_round_seconds=protocol.min_round_seconds,
        warmup_seconds=protocol.warmup_seconds,
        synchronize=wait,
        energy=energy_meter(torch.device(protocol.device)),
        on_round=on_round,
    )


def _rows(ready: Sequence[_Ready], timings: Mapping[str, Timing]) -> Iterator[Row]:
    first = ready[0]
    for entry, timing in [*((entry, timings[entry.key]) for entry in ready), (first, timings[CONTROL])]:
        is_control = timing is timings[CONTROL]
        entrant = entry.candidate.entrant
        published = published_accuracy(entrant.label, entrant.input_size[1:]) if entrant.is_random else None
        yield Row(
            model=CONTROL + entry.label if is_control else entry.label,
            form=entry.form.text,
            runtime=entry.candidate.runtime,
            precision=entry.candidate.precision,
            batch_size=len(entry.images),
            image_size=entrant.input_size[1:],
            num_params=entrant.num_params,
            timing=timing,
            relative=_per_picture(timing, len(entry.images), timings[first.key], len(first.images)),
            is_control=is_control,
            top1=None if published is None else published.top1,
            tried_ms=entry.tried_ms,
            failed=entry.failed,
            peak_memory_mib=entry.peak_memory_mib,
        )


def _per_picture(timing: Timing, batch_size: int, first: Timing, first_batch_size: int) -> Spread:
    """Time per picture over the first's; round by round where they took turns."""
    paired = timing.statistic == "median"
    ratio = paired_ratio(timing, first) if paired else unpaired_ratio(timing, first)
    return Spread(*(value * first_batch_size / batch_size for value in ratio))


def _breakdowns(ready: Sequence[_Ready], protocol: Protocol) -> Iterator[Shares | Missing]:
    """Where the time goes, in the runtimes that can tell, or why it cannot be told: the times themselves are there."""
    for entry in ready:
        candidate, batch_size = entry.candidate, len(entry.images)
        try:
            shares = _shares(entry, protocol)
        except Exception as error:  # of other people's profilers, see `hold_contest`
            yield _missing(entry.label, candidate, batch_size, f"where its time goes: {first_line(error)}")
            continue
        if shares is not None:
            yield Shares(
                model=entry.label,
                runtime=candidate.runtime,
                precision=candidate.precision,
                batch_size=batch_size,
                shares=shares,
            )


def _shares(entry: _Ready, protocol: Protocol) -> dict[str, float] | None:
    """Shares by class of operators; None elsewhere than in torch's eager mode and ONNX Runtime."""
    runtime, prepared = entry.candidate.runtime, entry.prepared
    if runtime == "torch":
        return torch_shares(prepared.call, torch.device(protocol.device))
    if runtime == "onnxruntime" and prepared.file is not None and prepared.images is not None:
        return onnx_shares(prepared.file, prepared.images, num_threads=protocol.num_threads)
    return None


def _unique(candidates: Sequence[Candidate]) -> list[str]:
    """Labels, with a number where one model stands twice in one runtime and precision: `a`, `a (2)`."""
    keys = [(candidate.label, candidate.runtime, candidate.precision) for candidate in candidates]
    counts = [keys[:index].count(key) for index, key in enumerate(keys)]
    return [f"{key[0]} ({count + 1})" if count else key[0] for key, count in zip(keys, counts, strict=True)]
