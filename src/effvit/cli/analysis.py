"""The verb `analyze`: the paper's analysis of any model, a sub-verb for each figure."""

from __future__ import annotations

import typer

from effvit.cli import analyze_ablations, analyze_heads, analyze_prune, analyze_ratios


def register(app: typer.Typer) -> None:
    """Add `analyze` and its sub-verbs to the command line."""
    analyze = typer.Typer(
        help="The paper's analysis: redundant heads, pruning, how much attention, ablations.",
        rich_markup_mode=None,
        no_args_is_help=True,
    )
    for verb in (analyze_heads, analyze_prune, analyze_ratios, analyze_ablations):
        verb.register(analyze)
    app.add_typer(analyze, name="analyze")
