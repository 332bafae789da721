"""The verb `detect export`: a detector as one file for a runtime, run there and compared."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from effvit.cli.options import Json, SpacedLists, parse_size
from effvit.errors import ConfigError, DataError, RunError, unknown_name

if TYPE_CHECKING:
    from torch import Tensor

NUM_PICTURES = 16
"""Most pictures that a file is compared on; more take longer and tell little."""
_FORMATS = ("onnx",)


def register(group: typer.Typer) -> None:
    """Add `export` to the verbs of `effvit detect`."""
    group.command(
        "export",
        cls=SpacedLists,
        epilog="\b\nExamples:\n  effvit detect export runs/cells --output cells.onnx\n"
        "  effvit detect export runs/cells --images photos/ --image-size 480x640",
    )(export)


def export(
    source: Annotated[str, typer.Argument(help="A detector's run or weights folder.", metavar="RUN")],
    file_format: Annotated[str, typer.Option("--format", help="onnx.", metavar="NAME")] = "onnx",
    output: Annotated[
        Path | None, typer.Option(help="File to write.", metavar="FILE", show_default="detector.onnx in the run")
    ] = None,
    images: Annotated[
        list[Path] | None,
        typer.Option(help="Pictures to compare on.", metavar="PATH", show_default="the run's held-out ones"),
    ] = None,
    image_size: Annotated[
        str | None,
        typer.Option(help="Height and width of all pictures, for a faster file.", metavar="SIZE", show_default="any"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a detector for ONNX Runtime, run the file there and compare what it finds, before anything is reported."""
    from effvit.cli.render import emit, say, steps
    from effvit.detection.export import export_detector
    from effvit.detection.saving import detector_folder, load_detector, read_description

    if file_format not in _FORMATS:
        raise ConfigError(unknown_name("format", file_format, _FORMATS))
    size = parse_size(image_size)
    folder = detector_folder(source)
    path = output or Path(source) / "detector.onnx"
    if not path.parent.is_dir():
        raise RunError(f"cannot write {path}: there is no folder {path.parent}")
    pictures, note = _pictures(Path(source), images, size)
    if note:
        say(f"note: {note}")
    detector = load_detector(folder)
    _, provenance = read_description(folder)
    with steps() as on_step:
        exported = export_detector(
            detector, path, pictures=pictures, picture_size=size, provenance=provenance, on_step=on_step
        )
    values = {
        "path": str(exported.path),
        "num_bytes": exported.num_bytes,
        "on_noise": exported.on_noise.to_dict(),
        "on_pictures": None if exported.on_pictures is None else exported.on_pictures.to_dict(),
    }
    emit(values, lambda _: _text(values, exported), as_json)


def _text(values: dict[str, Any], exported: Any) -> str:
    """What was written, and the proof."""
    lines = [f"{values['path']}: {values['num_bytes'] / 2**20:.1f} MiB, run and compared with the detector"]
    if exported.on_pictures is not None:
        lines.append(f"on pictures: {exported.on_pictures}")
    lines.append(f"on noise, without a score threshold: {exported.on_noise}")
    return "\n".join(lines)


def _pictures(
    source: Path, images: list[Path] | None, size: tuple[int, int] | None
) -> tuple[list[Tensor] | None, str | None]:
    """The pictures to compare on, and what a person should know of them."""
    from torchvision.transforms.v2.functional import pil_to_tensor

    from effvit.data.pictures import list_pictures, read_picture

    paths, why = (list_pictures(images), "") if images else _held_out(source)
    pictures: list[Tensor] = []
    for path in paths:
        try:
            picture = pil_to_tensor(read_picture(path))
        except DataError:
            if images:
                raise
            continue
        if size is None or tuple(picture.shape[1:]) == size:
            pictures.append(picture)
        if len(pictures) == NUM_PICTURES:
            break
    if pictures:
        return pictures, None
    if images and size is not None:
        raise ConfigError(f"none of {len(paths)} pictures is {size[0]} x {size[1]} pixels (height x width)")
    return None, f"there are no pictures to compare on{why}, so noise must do; name some with --images"


def _held_out(source: Path) -> tuple[list[Path], str]:
    """The pictures that a run held out; none for a weights folder, or if they are gone: then also why."""
    from effvit.detection.data import read_detection_data
    from effvit.train.runs import RunFolder

    if not (source / "run.json").is_file():
        return [], ""
    try:
        return [picture.path for picture in read_detection_data(RunFolder.open(source)).val], ""
    except (DataError, RunError) as error:
        return [], f" ({error})"
