"""The job behind `effvit export`: from what was typed to the pictures, the file and what is reported of it."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast, get_args

from torch import Tensor

from effvit.cli.render import say, steps
from effvit.data.datasets import find_samples
from effvit.data.loaders import PictureLoader
from effvit.data.pictures import list_pictures
from effvit.data.samples import Sample
from effvit.data.transforms import eval_transform, normalize
from effvit.deploy.export import export
from effvit.deploy.formats.base import Precision
from effvit.deploy.formats.table import ELSEWHERE, FORMATS, find_format
from effvit.deploy.verify import Labelled
from effvit.errors import ConfigError, RunError, unknown_name
from effvit.files import output_folder
from effvit.model.checkpoints import WeightsInfo
from effvit.model.network import EfficientViT
from effvit.preprocessing import Preprocessing
from effvit.train.runs import RunFolder

NUM_CALIBRATION = 256
"""Most pictures that the ranges of int8 are measured on; more take longer and change little."""
_ON_CALIBRATION = "calibration pictures, on which the ranges were chosen"
_UNKNOWN = -1
"""Target of a picture whose class is not known."""


@dataclass(frozen=True, kw_only=True)
class ExportRequest:
    """What kind of file is asked for."""

    file_format: str = "onnx"
    """Key of `FORMATS`."""
    precision: Precision = "fp32"
    """Number format."""
    image_size: tuple[int, int] | None = None
    """Height and width in pixels; None for the network's."""
    batch: int | str | None = None
    """Pictures per call, or `dynamic`; None for dynamic where the format can, else 1."""
    preprocessing: bool = False
    """Whether the file takes uint8 pictures."""
    calibration: Path | None = None
    """Folder of pictures for int8; None for the run's training pictures."""
    data: Path | None = None
    """Folder of pictures to compare on; None for the run's held-out ones."""

    @classmethod
    def checked(cls, *, precision: str, **values: Any) -> ExportRequest:
        """A request as it was typed.

        Raises:
            ConfigError: If there is no such format or precision, or two flags contradict each other.
        """
        if precision not in get_args(Precision):
            raise ConfigError(unknown_name("precision", precision, get_args(Precision)))
        find_format(values["file_format"], cast(Precision, precision))
        request = cls(precision=cast(Precision, precision), **values)
        if request.calibration is not None and precision != "int8":
            raise ConfigError(f"--calibration is for --precision int8, got {precision}")
        if request.batch == "dynamic" and not FORMATS[request.file_format].dynamic_batch:
            raise ConfigError(
                f"format {request.file_format!r} takes a fixed number of pictures per call: give --batch N"
            )
        return request

    @property
    def batch_size(self) -> int | None:
        """Pictures per call; None for any number."""
        if isinstance(self.batch, int):
            return self.batch
        return None if FORMATS[self.file_format].dynamic_batch else 1


def default_path(source: str, run: RunFolder | None, request: ExportRequest) -> Path:
    """Where a file goes if nothing is said: into the run, or here; each precision under its own name."""
    precision = "" if request.precision == "fp32" else f"-{request.precision}"
    ending = precision + FORMATS[request.file_format].suffix
    return run.path / f"model{ending}" if run is not None else Path(f"{Path(source).name}{ending}")


def formats() -> list[dict[str, Any]]:
    """The table of formats as plain values, with what is missing here to write them."""
    rows = [
        {
            "name": name,
            "suffix": row.suffix,
            "precisions": list(row.precisions),
            "dynamic_batch": row.dynamic_batch,
            "verified": row.verified,
            "extra": row.extra,
            "obstacle": row.obstacle(),
        }
        for name, row in FORMATS.items()
    ]
    absent = {"suffix": "", "precisions": [], "dynamic_batch": True, "verified": "not written here", "extra": None}
    return rows + [{"name": name, **absent, "obstacle": text} for name, text in ELSEWHERE.items()]


def export_network(
    network: EfficientViT, info: WeightsInfo, run: RunFolder | None, path: Path, request: ExportRequest
) -> dict[str, Any]:
    """Export, verified on real pictures where there are some; plain values for JSON."""
    preprocessing = info.preprocessing.at_size(request.image_size)
    samples, name = _pictures(request, run, info)
    calibration = _calibration(request, run) if request.precision == "int8" else None
    with output_folder(path.parent), steps() as on_step:
        exported = export(
            network,
            path,
            info=replace(info, preprocessing=preprocessing),
            batches=_batches(samples, preprocessing, on_step) if samples else None,
            file_format=request.file_format,
            precision=request.precision,
            batch_size=request.batch_size,
            preprocessing=request.preprocessing,
            calibration=None if calibration is None else _images(calibration, preprocessing),
            on_step=on_step,
        )
    verification, metadata = exported.verification, exported.metadata
    return {
        "path": str(exported.path),
        "num_bytes": exported.num_bytes,
        "format": request.file_format,
        "precision": request.precision,
        "batch_size": metadata.batch_size,
        "takes_pixels": metadata.takes_pixels,
        "verified": FORMATS[request.file_format].verified,
        "compared_on": name if verification is None else f"{verification.num_pictures} {name}",
        "verification": None if verification is None else verification.to_dict(),
        "quantization": metadata.quantization,
        "class_names": metadata.class_names,
    }


def _pictures(request: ExportRequest, run: RunFolder | None, info: WeightsInfo) -> tuple[list[Sample], str]:
    """What to compare on, and its name: the folder that was given, or the run's held-out pictures, or nothing.

    Without any, `export` takes noise, and for int8 the calibration pictures.
    """
    if request.data is not None:
        return _of_folder(request.data, info.class_names)
    samples = [] if run is None else _readable(run, "val")
    if samples:
        return samples, "held-out pictures"
    if request.precision == "int8":
        say(f"note: compared on the {_ON_CALIBRATION}; give others with --data DIR")
        return [], _ON_CALIBRATION
    if run is None:
        say("note: compared on noise only; give pictures with --data DIR, or a run")
        return [], "pictures of noise"
    return [], "pictures of noise, having no others"


def _of_folder(folder: Path, class_names: Sequence[str] | None) -> tuple[list[Sample], str]:
    """Pictures of a folder, labelled if its folders are the network's classes."""
    inside = {path.name for path in folder.iterdir() if path.is_dir()} if folder.is_dir() else set()
    if class_names is not None and inside and inside <= set(class_names):
        return list(find_samples(folder, class_names).samples), f"pictures of {folder}"
    return [Sample(path, _UNKNOWN) for path in list_pictures([folder])], f"pictures of {folder}, classes unknown"


def _calibration(request: ExportRequest, run: RunFolder | None) -> list[Sample]:
    """Pictures to measure the ranges of int8 on, drawn evenly; says which."""
    if request.calibration is not None:
        found = [Sample(path, _UNKNOWN) for path in list_pictures([request.calibration])]
    else:
        found = [] if run is None else _readable(run, "train")
    if not found:
        raise ConfigError("--precision int8 measures the ranges of numbers on pictures: give --calibration DIR")
    name = request.calibration or "the run's training set"
    chosen = random.Random(0).sample(found, min(NUM_CALIBRATION, len(found)))
    say(f"calibrating on {len(chosen)} of {len(found)} pictures of {name}")
    return chosen


def _readable(run: RunFolder, part: str) -> list[Sample]:
    """A run's pictures as far as they are still there; says how many are not."""
    try:
        data = run.read_data()
    except RunError as error:
        say(f"note: {error}")
        return []
    samples = data.val if part == "val" else data.train
    found = [sample for sample in samples if sample.path.is_file()]
    if len(found) < len(samples):
        say(f"note: {len(samples) - len(found)} of {len(samples)} pictures of the run are not there any more")
    return found


def _batches(
    samples: Sequence[Sample], preprocessing: Preprocessing, on_step: Callable[[str], None]
) -> Iterator[Tensor | Labelled]:
    """Normalised pictures, batch by batch, with their classes where all are known."""
    loader = PictureLoader(samples, eval_transform(preprocessing), batch_size=32)
    for done, batch in enumerate(loader.batches(), start=1):
        if len(batch.images):
            images = normalize(batch.images, preprocessing)
            yield images if (batch.targets == _UNKNOWN).any() else Labelled(images, batch.targets)
        on_step(f"compare: {done} of {len(loader)} batches")


def _images(samples: Sequence[Sample], preprocessing: Preprocessing) -> Iterator[Tensor]:
    """Normalised pictures without classes."""
    for batch in _batches(samples, preprocessing, lambda _: None):
        yield batch.images if isinstance(batch, Labelled) else batch
