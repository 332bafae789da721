"""The verb recipes, and what `effvit train --dry-run` shows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from effvit.cli.options import Json

if TYPE_CHECKING:
    from rich.table import Table

    from effvit.data.datasets import PictureData
    from effvit.model.network import EfficientViT
    from effvit.timing import Spread
    from effvit.train.config import TrainConfig
    from effvit.train.dry_run import DryRun
    from effvit.train.pace import Pace
    from effvit.train.recipes import RecipeFacts

_PLOT_COLUMNS = 60
_PLOT_ROWS = 6
_EIGHTHS = " ▁▂▃▄▅▆▇█"


def register(app: typer.Typer) -> None:
    """Add the verb to the command line."""
    app.command(
        "recipes",
        epilog="\b\nExamples:\n  effvit recipes\n  effvit recipes finetune\n"
        "  effvit train photos/ --recipe scratch_small --dry-run",
    )(recipes)


def recipes(
    name: Annotated[str | None, typer.Argument(help="One recipe, with all that is known.", metavar="NAME")] = None,
    as_json: Json = False,
) -> None:
    """List the recipes of `effvit train --recipe`: for what, from where, at what cost."""
    from dataclasses import asdict

    from effvit.cli.render import emit
    from effvit.train.recipes import all_recipes, find_recipe

    if name is None:
        emit([asdict(facts) for facts in all_recipes()], lambda _: recipes_table(all_recipes()), as_json)
    else:
        facts = find_recipe(name)
        emit({**asdict(facts), "settings": facts.config().to_dict()}, lambda _: recipe_text(facts), as_json)


def recipes_table(rows: Sequence[RecipeFacts]) -> Table:
    """One line for each recipe."""
    from rich.table import Table

    table = Table("recipe", "for", "weights", "result", caption_justify="left")
    table.caption = "effvit recipes NAME tells where a recipe comes from, what it costs and how it is run"
    for facts in rows:
        table.add_row(facts.name, facts.summary, "needed" if facts.needs_weights else "none", facts.expected)
    return table


def recipe_text(facts: RecipeFacts) -> str:
    """All that is known about a recipe."""
    parts = {"source": facts.source, "cost": facts.cost, "expected": facts.expected, "command": facts.command}
    return "\n".join([f"{facts.name}: {facts.summary}", *(f"\n{label}: {text}" for label, text in parts.items())])


def show_dry_run(
    config: TrainConfig,
    data: PictureData | None,
    network: EfficientViT,
    *,
    output: Path | None,
    as_json: bool,
) -> None:
    """Print what a training run would do; write nothing but the drawing that was asked for.

    Args:
        config: The settings.
        data: The pictures; None to go without steps and times.
        network: What would be trained.
        output: Where to draw the schedule; None for nowhere.
        as_json: Whether to print JSON.
    """
    from effvit.cli.render import emit, out, say
    from effvit.train.dry_run import STEPS_WITHOUT_DATA, dry_run
    from effvit.train.schedule import check_drawing_path, write_schedule

    if output is not None:
        check_drawing_path(output)
    if data is not None:
        say("measuring a few steps with a copy of the network")
    result = dry_run(config, data, network)
    if output is not None:
        write_schedule(output, config, result.steps_per_epoch or STEPS_WITHOUT_DATA)
        say(f"the schedule is drawn in {output}")
    emit(result.to_dict(), lambda _: settings_table(result), as_json)
    if not as_json:
        for line in (*schedule_plot(config, result), "", *facts(config, result)):
            out().print(line, markup=False)


def settings_table(result: DryRun) -> Table:
    """Every resolved value; those that differ from the defaults are marked."""
    from rich.markup import escape
    from rich.table import Table

    from effvit.train.config import TrainConfig
    from effvit.train.run_config import flat_settings

    defaults = flat_settings(TrainConfig())
    table = Table("setting", "value", "default", caption_justify="left")
    for name, value in result.settings.items():
        changed = value != defaults[name]
        table.add_row(name, escape(_written(value)), escape(_written(defaults[name])) if changed else "")
    return table


def schedule_plot(config: TrainConfig, result: DryRun) -> Iterator[str]:
    """The learning rate over the epochs in block characters."""
    from effvit.train.dry_run import STEPS_WITHOUT_DATA
    from effvit.train.schedule import learning_rates

    steps = result.steps_per_epoch or STEPS_WITHOUT_DATA
    epochs, rates = learning_rates(config, steps, num_points=_PLOT_COLUMNS)
    top = result.peak_learning_rate
    heights = [round(rate / top * 8 * _PLOT_ROWS) for rate in rates]
    yield f"learning rate, highest {top:.3g}, last {result.last_learning_rate:.3g}"
    for row in reversed(range(_PLOT_ROWS)):
        yield "  |" + "".join(_EIGHTHS[min(max(height - 8 * row, 0), 8)] for height in heights)
    yield "  +" + "-" * len(epochs)
    yield "   0" + f"{config.epochs} epochs".rjust(len(epochs) - 1)


def facts(config: TrainConfig, result: DryRun) -> Iterator[str]:
    """Size, steps and time, a sentence each."""
    size = " x ".join(map(str, config.preprocessing.image_size))
    yield (
        f"{config.model}: {result.num_params:,} parameters, {result.num_macs / 1e6:.1f} M multiply-adds for a picture"
        f" of {size} pixels, {result.num_classes} classes"
    )
    if result.pace is None:
        yield "steps and time are not known without pictures: name the data to have a few steps measured"
        return
    yield (
        f"{result.num_train} pictures to train on, {result.num_val} held out; {result.steps_per_epoch} steps an epoch,"
        f" {result.num_steps} in all"
    )
    yield from _pace_lines(config, result.pace)


def _pace_lines(config: TrainConfig, pace: Pace) -> Iterator[str]:
    memory = "" if pace.memory_bytes is None else f"; {pace.memory_bytes / 2**30:.1f} GiB of GPU memory"
    yield (
        f"measured on {config.device} with {pace.num_batches} batches of {pace.num_pictures}: a step takes"
        f" {_range(pace.step_ms)} ms, which is {1000 / pace.train_ms.median:.0f} pictures/s{memory}"
    )
    yield (
        f"one process decodes {1000 / pace.load_ms.median:.0f} pictures/s; {config.num_workers} decode beside the"
        " training (num_workers)" + ("" if config.num_workers else ", so the training waits for each batch")
    )
    yield (
        f"an epoch would take {_duration(pace.epoch_seconds)}, the run {_duration(pace.run_seconds)} in one process on"
        " this machine, if it stays as fast as in the measured batches"
    )


def _range(values: Spread) -> str:
    return f"{values.median:.0f} ({values.p25:.0f} to {values.p75:.0f})"


def _duration(seconds: Spread) -> str:
    """In the unit in which a person would say it, with the quartiles of what was measured."""
    units = {"days": 86400, "hours": 3600, "minutes": 60, "seconds": 0}
    unit = next(name for name, length in units.items() if seconds.median >= 2 * length)
    length = units[unit] or 1
    median, low, high = (f"{value / length:.3g}" for value in seconds)
    return f"{median} {unit} ({low} to {high})"


def _written(value: Any) -> str:
    """As `--set` takes it."""
    if isinstance(value, tuple | list):
        return ",".join(map(_written, value))
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.6g}" if isinstance(value, float) else str(value)
