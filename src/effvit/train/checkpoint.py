"""Where a run stands, between any two steps, as a file from which it goes on exactly.

Everything random is derived from (seed, epoch, step, process), so the state of a run is what its steps
have changed (weights, optimiser, loss scaler, moving average), the position, and the epochs so far.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

import torch

from effvit.errors import ConfigError, RunError
from effvit.train.distributed import is_main, sum_over_processes
from effvit.train.learner import Learner
from effvit.train.records import EpochFacts
from effvit.train.run_config import RunConfig
from effvit.train.runs import RunFolder

FREE_ON_RESUME = ("device", "num_workers", "checkpoint_minutes", "tensorboard")
"""Settings that say where and how fast, not what is computed."""


@dataclass
class Position:
    """Where a run stands within an epoch, and what the epoch has come to so far, over all processes."""

    step: int = 0
    """Steps of this epoch that are done."""
    loss_sum: float = 0.0
    num_pictures: int = 0
    num_unreadable: int = 0
    seconds: float = 0.0
    """Time that was spent on them."""
    seconds_waited: float = 0.0
    """Part of it that went into waiting for pictures."""

    def add_up(self, *, everywhere: bool) -> None:
        """Replace losses and counts by their sums over all processes.

        Args:
            everywhere: Whether every process gets the sums. In the middle of an epoch only the main one does and
                the others begin anew, so that nothing is counted twice in the end.
        """
        counts = torch.tensor([self.loss_sum, self.num_pictures, self.num_unreadable], dtype=torch.float64)
        loss_sum, num_pictures, num_unreadable = sum_over_processes(counts).tolist()
        self.loss_sum, self.num_pictures, self.num_unreadable = loss_sum, int(num_pictures), int(num_unreadable)
        if not everywhere:
            self.leave_to_main()

    def leave_to_main(self) -> None:
        """Forget losses and counts in all processes but the main one, where they are those of all."""
        if not is_main():
            self.loss_sum, self.num_pictures, self.num_unreadable = 0.0, 0, 0


@dataclass
class RunState:
    """A run between two steps."""

    history: list[EpochFacts] = field(default_factory=list)
    """The finished epochs."""
    position: Position = field(default_factory=Position)
    """Within the epoch after them."""


def save_state(run: RunFolder, learner: Learner, state: RunState) -> None:
    """Replace the run's checkpoint.

    Raises:
        RunError: If it cannot be written; the one before it is still there.
    """
    run.save_checkpoint(
        {
            **learner.state_dict(),
            "history": [dataclasses.asdict(record) for record in state.history],
            "position": dataclasses.asdict(state.position),
            "config": learner.config.to_dict(),
        }
    )


def load_state(run: RunFolder, learner: Learner, epoch_type: type[EpochFacts]) -> RunState:
    """Put the run's checkpoint into a learner, and give where the run stands.

    Args:
        run: The run.
        learner: With the network that it trains.
        epoch_type: What its epochs are written down as.

    Raises:
        ConfigError: If the learner has another configuration than the run was started with.
        RunError: If there is no checkpoint, it is damaged, or of another network.
    """
    state: dict[str, Any] = run.load_checkpoint()
    if not state.keys() >= {"model", "optimizer", "scaler", "average", "history", "position", "config"}:
        raise RunError(f"{run.checkpoint} is damaged: it is not a checkpoint of a run")
    _check_same(state["config"], learner.config)
    try:
        learner.load_state_dict(state)
    except (RuntimeError, ValueError, KeyError, AttributeError) as error:  # another network than the run's
        raise RunError(f"{run.checkpoint} does not fit the network: {' '.join(str(error).split())[:300]}") from error
    position = Position(**state["position"])
    position.leave_to_main()
    return RunState([epoch_type(**record) for record in state["history"]], position)


def _check_same(before: dict[str, Any], config: RunConfig) -> None:
    now = config.to_dict()
    changed = [name for name in now if name not in FREE_ON_RESUME and before.get(name) != now[name]]
    if changed:
        differences = ", ".join(f"{name} was {before.get(name)}, is {now[name]}" for name in changed)
        raise ConfigError(f"a resumed run keeps its configuration, but {differences}")
