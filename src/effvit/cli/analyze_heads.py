"""`effvit analyze heads`: how alike attention heads are, and what they look at."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from effvit.cli.options import (
    BatchSize,
    Device,
    ImageSize,
    Json,
    Output,
    SpacedLists,
    Workers,
    check_positive,
    command_line,
    parse_numbers,
    parse_size,
)
from effvit.errors import ConfigError, DataError

if TYPE_CHECKING:
    from effvit.analysis.heads.study import Study
    from effvit.data.samples import Sample

_MODELS_HELP = "Run or weights folders, names of ours, timm:NAME, torchvision:NAME, or module.path:factory."
_DATA_HELP = "Pictures: a folder, with classes or without, a file, or another source that `effvit data` takes."
_EXAMPLES = (
    "\b\nExamples:\n"
    "  effvit analyze heads timm:deit_tiny_patch16_224 timm:swin_tiny_patch4_window7_224 --weights pretrained"
    " --data photos --splits --output heads\n"
    "  effvit analyze heads runs/efficientvit_m0-1 --data photos --maps --blocks 1,6 --output heads"
)


def register(analyze: typer.Typer) -> None:
    """Add this verb to `effvit analyze`."""
    analyze.command("heads", cls=SpacedLists, epilog=_EXAMPLES)(heads)


def heads(
    models: Annotated[list[str], typer.Argument(help=_MODELS_HELP, metavar="MODEL")],
    data: Annotated[str, typer.Option(help=_DATA_HELP, metavar="PICTURES")],
    weights: Annotated[
        str | None, typer.Option(help="For names: pretrained, a file, or random to see untrained maps.")
    ] = None,
    num_pictures: Annotated[int, typer.Option(help="Pictures to look at, spread evenly over the data.")] = 64,
    splits: Annotated[
        bool, typer.Option("--splits", help="Each model also with head splits; ours, which has them, without cascade.")
    ] = False,
    maps: Annotated[bool, typer.Option("--maps", help="Draw the maps as a picture grid; goes with --output.")] = False,
    blocks: Annotated[
        str | None, typer.Option(help="Blocks to draw maps of, such as 1,6,12.", show_default="first, middle, last")
    ] = None,
    picture: Annotated[int, typer.Option(help="Which of the pictures to draw maps of, from 1.")] = 1,
    image_size: ImageSize = None,
    batch_size: BatchSize = 16,
    workers: Workers = 0,
    device: Device = "auto",
    output: Output = None,
    as_json: Json = False,
) -> None:
    """How alike attention heads are, per block, on pictures: Figure 4, for any model with attention."""
    from contextlib import ExitStack
    from dataclasses import replace

    import torch

    from effvit.analysis.heads.report import heads_report
    from effvit.analysis.heads.study import MapChoice, Pictures, study_heads
    from effvit.cli.analysis_output import report_folder, show
    from effvit.cli.render import progress, say
    from effvit.device import find_device
    from effvit.model.sources import find_model

    check_positive(num_pictures=num_pictures, batch_size=batch_size, picture=picture)
    choice = MapChoice(picture=picture, blocks=tuple(parse_numbers(blocks, "--blocks")) if blocks else ())
    if maps and output is None:
        raise ConfigError("--maps draws pictures: say where to with --output")
    if blocks and not maps:
        raise ConfigError("--blocks says of which blocks --maps draws maps; add --maps")
    where, size = find_device(device), parse_size(image_size)
    samples = find_pictures(data, num_pictures)
    pictures = Pictures(samples=samples, batch_size=batch_size, num_workers=workers)
    studies: list[Study] = []
    with ExitStack() as stack:
        stack.enter_context(report_folder(output, models=models, data=data))
        for source in models:
            torch.manual_seed(0)  # random weights are the same each time
            found = find_model(source, image_size=size, weights=weights_for(source, weights, models))
            if found.is_random and weights != "random":
                raise ConfigError(
                    f"{source} is a name without weights: add --weights pretrained or a file, or --weights random to"
                    " see untrained maps"
                )
            if same := sum(study.entries[0].label.partition(" (")[0] == found.label for study in studies):
                found = replace(found, label=f"{found.label} ({same + 1})")  # two runs may have the same name
            with progress(f"heads of {found.label}") as on_batch:
                study = study_heads(
                    found,
                    pictures,
                    splits=splits,
                    maps=choice if maps else None,
                    device=str(where),
                    on_picture=lambda _, done, total: on_batch(done, total),
                )
            studies.append(study)
    unreadable = studies[0].unreadable
    for reason in unreadable:
        say(f"unreadable: {reason}")
    report = heads_report(
        [entry for study in studies for entry in study.entries],
        data=data,
        command=command_line(),
        grids=[grid for study in studies for grid in study.grids],
        notes=[f"{len(unreadable)} of {len(samples)} pictures could not be read and were left out."]
        if unreadable
        else [],
    )
    show(report, output=output, as_json=as_json)


def find_pictures(source: str, count: int) -> tuple[Sample, ...]:
    """Some pictures of a source, evenly spread over it: of labelled ones the validation part, else all there are.

    Raises:
        DataError: If there is none.
    """
    from effvit.data.datasets import find_samples
    from effvit.data.pictures import list_pictures
    from effvit.data.samples import Sample

    try:
        found: Sequence[Sample] = find_samples(source).samples
    except DataError:
        if not Path(source).exists():
            raise
        found = [Sample(path, target=0) for path in list_pictures([source])]
    number = min(count, len(found))
    return tuple(found[index * len(found) // number] for index in range(number))


def weights_for(source: str, weights: str | None, models: Sequence[str]) -> str | None:
    """Beside names, what has weights keeps them; alone, `find_model` says that none can be given for it."""
    return None if _has_weights(source) and not all(map(_has_weights, models)) else weights


def _has_weights(source: str) -> bool:
    """Whether a source is a folder or somebody's function, which bring their weights, and not a name."""
    from effvit.model.functions import names_function
    from effvit.model.variants import TIMM_PREFIX, TORCHVISION_PREFIX

    is_name = source.startswith((TIMM_PREFIX, TORCHVISION_PREFIX)) or not names_function(source)
    return Path(source).is_dir() or not is_name
