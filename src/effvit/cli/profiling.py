"""The verb that finds out why a model is slow: profile."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from effvit.cli.options import (
    BatchSize,
    Device,
    ImageSize,
    Json,
    Output,
    SpacedLists,
    check_positive,
    check_threads,
    command_line,
    parse_size,
)

if TYPE_CHECKING:
    from effvit.analysis.report import Report
    from effvit.model.sources import FoundModel


def register(app: typer.Typer) -> None:
    """Add this verb to the command line."""
    app.command(
        "profile",
        cls=SpacedLists,
        epilog="\b\nExamples:\n  effvit profile efficientvit_m0 timm:swin_tiny_patch4_window7_224\n"
        "  effvit profile runs/efficientvit_m0-1 torchvision:mobilenet_v3_large --batch 1 --output why/\n"
        "  effvit profile efficientvit_m4 --rewritten --batch 1 --threads 1\n"
        "  effvit profile mine.networks:small --compile --image-size 256\n"
        "  effvit profile timm:deit_tiny_patch16_224 --cost-only",
    )(profile)


def profile(
    models: Annotated[
        list[str],
        typer.Argument(help="Ours, timm:NAME, torchvision:NAME, runs, module.path:factory.", metavar="MODEL..."),
    ],
    batch: BatchSize = 16,
    image_size: ImageSize = None,
    weights: Annotated[str | None, typer.Option(help="random, pretrained, or a file.", show_default="random")] = None,
    threads: Annotated[int | None, typer.Option(help="Threads within an operator.", show_default="torch's")] = None,
    rewritten: Annotated[
        bool, typer.Option("--rewritten", help="Ours a second time, rewritten for inference, beside it.")
    ] = False,
    compiled: Annotated[bool, typer.Option("--compile", help="Let torch.compile make the models first.")] = False,
    cost_only: Annotated[bool, typer.Option("--cost-only", help="Count MACs and bytes and measure nothing.")] = False,
    rounds: Annotated[
        int | None, typer.Option(help="Samples of the wall time of each model.", show_default="10")
    ] = None,
    device: Device = "auto",
    output: Output = None,
    as_json: Json = False,
) -> None:
    """Where the time of models goes, by class of operators, stage and head, and what would make them faster."""
    from effvit.cli.analysis_output import report_folder, show
    from effvit.errors import ConfigError

    check_positive(batch=batch, threads=threads, rounds=rounds)
    check_threads(threads)
    size = parse_size(image_size)
    measuring = {
        **{"--rewritten": rewritten, "--compile": compiled, "--device": device != "auto"},
        **{"--threads": threads is not None, "--rounds": rounds is not None},
    }
    if cost_only and (flags := [flag for flag, is_given in measuring.items() if is_given]):
        raise ConfigError(f"--cost-only measures nothing: leave out {', '.join(flags)}")
    with report_folder(output, models=models) as folder:
        if cost_only:
            report = _counted(models, size, weights, batch)
        else:
            options = {"num_threads": threads, "compiled": compiled, "rounds": rounds or 10}
            report = _measured(models, size, weights, device, rewritten, batch_size=batch, **options)
        show(report, output=folder, as_json=as_json)


def _counted(models: list[str], size: tuple[int, int] | None, weights: str | None, batch: int) -> Report:
    from effvit.analysis.cost import count_costs
    from effvit.analysis.cost_report import costs_report
    from effvit.cli.render import say
    from effvit.model.side_by_side import find_models

    costs = {}
    for model in find_models(models, image_size=size, weights=weights):
        say(f"counting the costs of {model.label}")
        costs[model.label] = count_costs(model.network, model.input_size, batch_size=batch)
    return costs_report(costs, command=command_line())


def _measured(
    models: list[str], size: tuple[int, int] | None, weights: str | None, device: str, rewritten: bool, **options: Any
) -> Report:
    from effvit.analysis.profiling.profiler import profile as measure
    from effvit.analysis.profiling.report import profile_report
    from effvit.cli.render import progress, say
    from effvit.device import find_device
    from effvit.errors import ConfigError
    from effvit.model.side_by_side import find_models

    where = find_device(device)
    found = find_models(models, image_size=size, weights=weights)
    if rewritten:
        forms = [form for model in found for form in (model, *_rewritten(model))]
        if len(forms) == len(found):
            raise ConfigError(f"--rewritten is for networks of ours, got {', '.join(model.label for model in found)}")
        found = forms
    with progress("measure") as on_round:
        result = measure(found, device=where, on_step=say, on_round=on_round, **options)
    return profile_report(result, command=command_line())


def _rewritten(model: FoundModel) -> list[FoundModel]:
    """The deploy form of a network of ours, for its picture size; nothing for others, which have none."""
    from dataclasses import replace

    from effvit.deploy.rewrite import rewrite
    from effvit.model.network import EfficientViT

    if not isinstance(model.network, EfficientViT):
        return []
    network = rewrite(model.network, image_size=model.input_size[1:])
    return [replace(model, label=f"{model.label} rewritten", network=network)]
