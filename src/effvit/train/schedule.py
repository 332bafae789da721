"""The learning rate of a run before it is run: as numbers and as a drawing."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from effvit.errors import ConfigError
from effvit.files import atomic_path
from effvit.train.optimizer import learning_rate_at
from effvit.train.run_config import RunConfig

_SUFFIXES = (".png", ".svg", ".pdf")


def learning_rates(
    config: RunConfig, steps_per_epoch: int, *, num_points: int = 2000
) -> tuple[list[float], list[float]]:
    """The learning rate at evenly spaced steps, the first and the last among them.

    Args:
        config: The schedule.
        steps_per_epoch: Steps in a pass over the training pictures, at least 1.
        num_points: Most steps to look at, at least 2.

    Returns:
        Epochs that have gone by at each step, and the rates.
    """
    num_steps = config.epochs * steps_per_epoch
    gaps = max(min(num_points, num_steps) - 1, 1)
    steps = sorted({round(index * (num_steps - 1) / gaps) for index in range(gaps + 1)})
    rates = [learning_rate_at(step, num_steps, config, steps_per_epoch=steps_per_epoch) for step in steps]
    return [step / steps_per_epoch for step in steps], rates


def check_drawing_path(path: Path) -> None:
    """Refuse a path that no drawing can be written to, before any work.

    Raises:
        ConfigError: If its suffix is no picture's, or its folder is not there.
    """
    if path.suffix.lower() not in _SUFFIXES:
        raise ConfigError(
            f"the schedule's drawing must be a file ending in {', '.join(_SUFFIXES)}, such as schedule.png, got {path}"
        )
    if not path.parent.is_dir():
        raise ConfigError(f"there is no folder {path.parent} for the schedule's drawing")


def write_schedule(path: Path, config: RunConfig, steps_per_epoch: int) -> None:
    """Draw the learning rate over the epochs, with warm-up and frozen epochs marked.

    Args:
        path: The picture to write.
        config: The schedule.
        steps_per_epoch: Steps in a pass over the training pictures, at least 1.

    Raises:
        ConfigError: If the path cannot be a picture's.
        RunError: If it cannot be written.
    """
    check_drawing_path(path)
    epochs, rates = learning_rates(config, steps_per_epoch)
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    axes = figure.subplots()
    axes.plot(epochs, rates, color="tab:blue", drawstyle="steps-post" if config.schedule_unit == "epoch" else None)
    warmup = config.warmup_share * config.epochs
    if warmup:
        axes.axvspan(0, warmup, color="tab:orange", alpha=0.15, label=f"warm-up, {warmup:g} epochs")
    if config.freeze_backbone_epochs:
        frozen = min(config.freeze_backbone_epochs, config.epochs)
        axes.axvspan(0, frozen, fill=False, hatch="//", edgecolor="0.6", label=f"head only, {frozen} epochs")
    if axes.get_legend_handles_labels()[0]:
        axes.legend()
    axes.set(
        title=f"Learning rate, highest {max(rates):.3g}, last {rates[-1]:.3g}; changes every {config.schedule_unit}",
        xlabel="epoch",
        xlim=(0, config.epochs),
    )
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110)
