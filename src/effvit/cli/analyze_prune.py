"""`effvit analyze prune`: what a network could do without, a plan under a limit, and the smaller network."""

from __future__ import annotations

from typing import Annotated

import typer

from effvit.cli.options import (
    BatchSize,
    Device,
    ImageSize,
    Json,
    Output,
    Seed,
    SpacedLists,
    Workers,
    check_positive,
    check_threads,
    command_line,
    parse_size,
)
from effvit.errors import ConfigError

_MODEL_HELP = "Run or weights folder, name of ours, timm:NAME of a ViT, DeiT or Swin, or module.path:factory."
_DATA_HELP = "Labelled pictures as for `effvit train`; scores come from the training part."
_LIMIT_HELP = "What must be met: macs=70%, macs=140M, params=3M, latency=80% or latency=6ms."
_PARTS_HELP = "What may be cut, with commas: qk, value, ffn, width, heads, merge, squeeze, stem."
_EXAMPLES = (
    "\b\nExamples:\n"
    "  effvit analyze prune runs/efficientvit_m2-1 photos --limit macs=70% --output pruned\n"
    "  effvit analyze prune timm:deit_tiny_patch16_224 imagenet --weights pretrained --limit latency=80%"
)


def register(analyze: typer.Typer) -> None:
    """Add this verb to `effvit analyze`."""
    analyze.command("prune", cls=SpacedLists, epilog=_EXAMPLES)(prune)


def prune(
    model: Annotated[str, typer.Argument(help=_MODEL_HELP, metavar="MODEL")],
    data: Annotated[str, typer.Argument(help=_DATA_HELP, metavar="DATA")],
    limit: Annotated[str, typer.Option(help=_LIMIT_HELP, metavar="LIMIT")],
    weights: Annotated[
        str | None, typer.Option(help="For a name: pretrained, a file, or random to try the verb.")
    ] = None,
    batches: Annotated[int, typer.Option(help="Batches to score with.")] = 32,
    batch_size: BatchSize = 32,
    parts: Annotated[str | None, typer.Option(help=_PARTS_HELP, show_default="all that the network has")] = None,
    order: Annotated[
        str, typer.Option(help="per_cost: least importance for what is saved; plain: least importance, as Fig. 5.")
    ] = "per_cost",
    multiple: Annotated[
        int, typer.Option(help="Hidden sizes become multiples of this, V of half, Q/K of a quarter of it.")
    ] = 8,
    min_share: Annotated[float, typer.Option(help="Share of each that stays at least.", metavar="SHARE")] = 0.1,
    image_size: ImageSize = None,
    latency_batch: Annotated[int, typer.Option(help="Pictures in a timed call, for a limit of latency.")] = 1,
    threads: Annotated[int, typer.Option(help="Threads of a timed call.")] = 1,
    seed: Seed = None,
    workers: Workers = 0,
    device: Device = "auto",
    output: Output = None,
    as_json: Json = False,
) -> None:
    """Score channels, heads and widths (Taylor), plan a smaller network, and cut it exactly: Figure 5.

    With --output also the pruned weights, which `effvit train DATA --weights OUTPUT/weights` goes on with.
    """

    from effvit.analysis.pruning.knobs import KIND_NAMES, check_kinds
    from effvit.analysis.pruning.limits import parse_limit
    from effvit.cli.analysis_output import report_folder, show
    from effvit.cli.pruning_jobs import Timed, prune_model
    from effvit.cli.pruning_pictures import Scoring
    from effvit.cli.render import say
    from effvit.device import find_device

    check_positive(batches=batches, batch_size=batch_size, latency_batch=latency_batch, threads=threads)
    check_threads(threads)
    goal = parse_limit(limit)
    kinds = check_kinds(tuple(KIND_NAMES) if parts is None else tuple(p.strip() for p in parts.split(",") if p.strip()))
    if order not in ("per_cost", "plain"):
        raise ConfigError(f"--order must be per_cost or plain, got {order!r}")
    scoring = Scoring(
        num_batches=batches,
        batch_size=batch_size,
        seed=seed or 0,
        num_workers=workers,
        device=str(find_device(device)),
    )
    with report_folder(output, models=[model], data=data):
        report = prune_model(
            model,
            data,
            goal,
            weights=weights,
            image_size=parse_size(image_size),
            kinds=kinds,
            order=order,  # type: ignore[arg-type]  # one of the two
            multiple=multiple,
            min_share=min_share,
            scoring=scoring,
            timed=Timed(batch_size=latency_batch, num_threads=threads),
            output=output,
            command=command_line(),
        )
        show(report, output=output, as_json=as_json)
    if output is None:
        say("nothing was written; --output FOLDER leaves the pruned weights, the plan, plots and a page")
