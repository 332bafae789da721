"""Detectors timed beside each other, one picture at a time, in turns, each in its best form, with a control."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from effvit import timing
from effvit.deploy.speed.candidates import Candidate
from effvit.deploy.speed.contest import hold_contest
from effvit.deploy.speed.records import Missing, Protocol, Record, Row
from effvit.deploy.speed.sources import Entrant
from effvit.detection.config import TASKS
from effvit.detection.speed_forms import ONNX, RUNTIMES, TORCH, onnx_forms, torch_forms
from effvit.detection.speed_models import SpeedModel, find_speed_model
from effvit.detection.speed_work import observe, part_times, set_num_boxes
from effvit.environment import environment
from effvit.errors import ConfigError, ExportError, unknown_name

NUM_BOXES = 100
"""Boxes in the last suppression of detectors with random weights."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """What one row's detector does with the picture."""

    model: str
    """As the row's, like the runtime."""
    runtime: str
    """See `model`."""
    network_size: tuple[int, int] | None
    """Height and width of what the network was fed; None for a file, which is fed the picture."""
    num_boxes: int | None
    """Boxes that the last suppression compares; None for a file, which does not tell."""
    num_detections: int
    """What is left."""
    parts_ms: dict[str, float] | None
    """Milliseconds of each of `effvit.detection.speed_work.PARTS`, measured by itself; None for a file."""


@dataclass(frozen=True, kw_only=True)
class DetectionRecord:
    """One run of the benchmark."""

    record: Record
    """Times and conditions, as every benchmark here leaves them."""
    work: tuple[Work, ...]
    """One for each row but the control."""
    num_boxes: int
    """Boxes that random detectors were set to."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**self.record.to_dict(), "work": [asdict(work) for work in self.work], "num_boxes": self.num_boxes}

    def work_of(self, row: Row) -> Work | None:
        """What a row's detector does; None for the control."""
        return next((w for w in self.work if (w.model, w.runtime) == (row.model, row.runtime)), None)


def benchmark_detectors(
    models: Sequence[str],
    *,
    image_size: tuple[int, int] = (320, 320),
    task: str = "boxes",
    runtimes: Sequence[str] = (TORCH,),
    num_threads: int | None = None,
    rounds: int = 20,
    min_round_seconds: float = 0.5,
    warmup_seconds: float = 1.0,
    pin: bool = True,
    num_boxes: int = NUM_BOXES,
    picture: Tensor | None = None,
    on_round: Callable[[int, int], None] | None = None,
    on_step: Callable[[str], None] = lambda _: None,
    command: str | None = None,
) -> DetectionRecord:
    """Time detectors on one picture, from pixels to boxes, all at the same size.

    Detectors with random weights are brought to the same number of boxes in the last suppression, see
    `effvit.detection.speed_work.set_num_boxes`; trained ones and files keep their own threshold.

    Args:
        models: See `find_speed_model`; the first is what the others are compared to.
        image_size: Height and width of the picture, and of what each network sees, in pixels.
        task: Of detectors made from a backbone's name.
        runtimes: Some of `RUNTIMES`.
        num_threads: Threads within an operator; None for torch's setting.
        rounds: See `effvit.timing.measure`, as the next two.
        min_round_seconds: See there.
        warmup_seconds: See there.
        pin: Whether to hold the threads on as many cores.
        num_boxes: For detectors with random weights.
        picture: Float in 0..1, (3, H, W), of that size; None for noise.
        on_round: Told (rounds done, rounds in all).
        on_step: Told in a few words what is being prepared.
        command: The command line, for the record.

    Raises:
        ConfigError: If a name or number is not allowed.
        WeightsError: If a folder or file cannot be read.
        ExportError: If nothing could be measured.
    """
    _check(models, runtimes, task, num_boxes)
    picture = torch.rand(3, *image_size, generator=torch.Generator().manual_seed(0)) if picture is None else picture
    if tuple(picture.shape) != (3, *image_size):
        raise ConfigError(f"the picture must be (3, {image_size[0]}, {image_size[1]}), got {tuple(picture.shape)}")
    entrants = [find_speed_model(name, image_size=image_size, task=task) for name in models]
    for entrant in entrants:
        if entrant.is_random and entrant.model is not None:
            set_num_boxes(entrant.model, picture, num_boxes)
    built: dict[tuple[str, str], dict[str, Any]] = {}
    with ExitStack() as stack:
        threads = stack.enter_context(timing.num_threads(num_threads))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="effvit-")))
        candidates = [
            _candidate(entrant, runtime, picture, folder, threads, built.setdefault((entrant.label, runtime), {}))
            for runtime in runtimes
            for entrant in entrants
            if not (entrant.file is not None and runtime == TORCH)
        ]
        protocol = Protocol(
            batch_sizes=(1,),
            image_size=image_size,
            runtimes=tuple(runtimes),
            device="cpu",
            num_threads=threads,
            rounds=rounds,
            min_round_seconds=min_round_seconds,
            warmup_seconds=warmup_seconds,
            pinned_cores=() if pin else None,
        )
        result = hold_contest(candidates, 1, protocol, on_round=on_round, on_step=on_step)
        if not result.rows:
            raise ExportError(f"nothing could be measured; {result.missing[0].model}: {result.missing[0].reason}")
        rows = [row for row in result.rows if not row.is_control]
        work = tuple(_work(row, built[row.model, row.runtime][row.form], picture) for row in rows)
        record = Record(
            protocol=replace(protocol, pinned_cores=result.pinned_cores),
            environment=environment(),
            rows=result.rows,
            missing=(*result.missing, *_files_in_torch(entrants, runtimes)),
            command=command,
        )
    return DetectionRecord(record=record, work=work, num_boxes=num_boxes)


def _candidate(
    entrant: SpeedModel, runtime: str, picture: Tensor, folder: Path, threads: int, built: dict[str, Any]
) -> Candidate:
    if runtime == TORCH:
        forms = torch_forms(entrant, picture, built)
    else:
        forms = onnx_forms(entrant, picture, built, folder, threads)
    num_params = None if entrant.model is None else sum(p.numel() for p in entrant.model.parameters())
    size = (picture.shape[0], picture.shape[1], picture.shape[2])
    described = Entrant(
        label=entrant.label,
        form="best",
        input_size=size,
        num_params=num_params,
        network=entrant.model,
        file=None if entrant.file is None else entrant.file.path,
    )
    return Candidate(entrant=described, runtime=runtime, precision="fp32", forms=tuple(forms))


def _work(row: Row, built: Any, picture: Tensor) -> Work:
    shared: Mapping[str, Any] = {"model": row.model, "runtime": row.runtime}
    if row.runtime == ONNX:
        pixels = (255 * picture).round().to(torch.uint8)
        found = len(built.detect([pixels])[0])
        return Work(**shared, network_size=None, num_boxes=None, num_detections=found, parts_ms=None)
    size, num_boxes, found = observe(built, picture)
    parts = part_times(built, picture)
    return Work(**shared, network_size=size, num_boxes=num_boxes, num_detections=found, parts_ms=parts)


def _files_in_torch(entrants: Sequence[SpeedModel], runtimes: Sequence[str]) -> list[Missing]:
    return [
        Missing(model=entrant.label, runtime=TORCH, precision="fp32", batch_size=1, reason="an exported file")
        for entrant in entrants
        if entrant.file is not None and TORCH in runtimes
    ]


def _check(models: Sequence[str], runtimes: Sequence[str], task: str, num_boxes: int) -> None:
    if not models or not runtimes:
        raise ConfigError(f"there must be models and runtimes, got {len(models)} and {len(runtimes)}")
    if len(set(models)) < len(models):
        raise ConfigError(f"each model takes part once, got {', '.join(models)}")
    for runtime in runtimes:
        if runtime not in RUNTIMES:
            raise ConfigError(unknown_name("runtime", runtime, RUNTIMES))
    if task not in TASKS:
        raise ConfigError(unknown_name("task", task, TASKS))
    if num_boxes < 1:
        raise ConfigError(f"the number of boxes must be at least 1, got {num_boxes}")
