"""How a step's pictures are cut into parts, one for each process and micro-batch, and how small a part may be."""

from __future__ import annotations

from effvit.errors import ConfigError
from effvit.train.distributed import num_processes
from effvit.train.run_config import RunConfig
from effvit.train.task import TaskLoader


def fewest_pictures(config: RunConfig) -> int:
    """Fewest pictures of a part: the statistics of batch normalisation need two, frozen ones none."""
    return 1 if config.freeze_norm else 2


def check_parts(config: RunConfig, loader: TaskLoader) -> None:
    """Refuse batches that no step could take, before anything is read.

    Args:
        config: Batch size, micro-batches, and whether norms are frozen.
        loader: The training pictures.

    Raises:
        ConfigError: If a part would be too small; says what is large enough.
    """
    fewest, parts = fewest_pictures(config), num_processes() * config.accumulation
    if config.batch_size < fewest * parts:
        frozen = "" if config.freeze_norm else " (1 with freeze_norm=true)"
        raise ConfigError(
            f"batch_size must be at least {fewest}{frozen} for each of {num_processes()} processes x"
            f" {config.accumulation} micro-batches, so {fewest * parts}, got {config.batch_size}"
        )
    smallest = len(loader.samples) // len(loader) // num_processes()
    if num_processes() > 1 and smallest < fewest:
        raise ConfigError(
            f"{len(loader.samples)} pictures in batches of at most {config.batch_size} leave one of {num_processes()}"
            f" processes with {smallest} of a batch, and it needs {fewest}: take another batch_size or fewer processes"
        )
