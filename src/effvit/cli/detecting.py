"""The group of verbs around detectors: detect train, eval, predict, export, benchmark."""

from __future__ import annotations

import typer

from effvit.cli import detect_benchmark, detect_eval, detect_export, detect_predict, detect_train


def register(app: typer.Typer) -> None:
    """Add this group of verbs to the command line."""
    group = typer.Typer(
        help="Find things in pictures: boxes (RetinaNet), and masks (Mask R-CNN), on any backbone.",
        no_args_is_help=True,
    )
    for verb in (detect_train, detect_eval, detect_predict, detect_export, detect_benchmark):
        verb.register(group)
    app.add_typer(group, name="detect")
