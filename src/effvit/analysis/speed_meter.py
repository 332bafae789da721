"""How fast networks are beside a baseline: measured in turns, in many places in memory."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import nn

from effvit.device import find_device
from effvit.errors import ConfigError
from effvit.timing import Spread, Timing, measure, num_threads, spread, synchronizer

CONTROL = "control"
"""Label under which the baseline takes part a second time: its ratio to itself shows the noise."""
_ROUNDS_A_COPY = 4
"""Rounds after which networks are copied: where weights lie in memory was seen to change a speed by 5 to 10 %, and
quartiles of rounds with the same weights do not show it."""
_BASELINE = "\0baseline"
"""The baseline's place among the calls; no label is like it."""

Clock = Literal["processor", "wall"]
RelativeSpeed = Callable[[nn.Module, nn.Module, int], Spread]
"""(network, baseline, rounds) -> how many times as fast as the baseline it is, median and quartiles of the rounds."""


def clock_for(device: str, num_threads: int) -> Clock:
    """Which time is compared.

    On the CPU with one thread the processor's, which stands still while somebody else has the core; else, where several
    threads or a device do the work, wall time.
    """
    is_cpu = (find_device(device) if device == "auto" else torch.device(device)).type == "cpu"
    return "processor" if is_cpu and num_threads == 1 else "wall"


@dataclass(frozen=True, kw_only=True)
class SpeedMeter:
    """Measures networks in turns with a baseline: a `RelativeSpeed`.

    Networks are put into eval mode and, unless another form is prepared, moved to the device. After some rounds all
    are copied, and the copies timed: the ratios are of many places in memory.
    """

    input_size: tuple[int, int, int]
    """Channels, height and width of a picture."""
    batch_size: int = 16
    """Pictures per call."""
    device: str = "cpu"
    """Where it is measured."""
    num_threads: int = 1
    """Threads within an operator, on the CPU."""
    prepare: Callable[[nn.Module], nn.Module] | None = None
    """Makes the form that is timed from a network; None for the network as it is, in eval mode."""
    round_seconds: float = 0.05
    """About how long a sample is: short, so that a pair of samples sees the same machine."""
    warmup_seconds: float = 0.2
    """Time each network runs first."""

    @property
    def clock(self) -> Clock:
        """Which time is compared, see `clock_for`."""
        return clock_for(self.device, self.num_threads)

    def __call__(self, network: nn.Module, baseline: nn.Module, rounds: int) -> Spread:
        """How many times as fast as the baseline the network is."""
        return self._ratios({"network": network}, baseline, rounds)["network"]

    def together(self, networks: Mapping[str, nn.Module], baseline: nn.Module, rounds: int) -> dict[str, Spread]:
        """How many times as fast as the baseline each network is, all in the same rounds, and the control.

        Raises:
            ConfigError: If a network is called like the control.
        """
        if CONTROL in networks:
            raise ConfigError(f"no network may be called {CONTROL!r}: the baseline measured again is")
        return self._ratios({**networks, CONTROL: baseline}, baseline, rounds)

    def _ratios(self, networks: Mapping[str, nn.Module], baseline: nn.Module, rounds: int) -> dict[str, Spread]:
        device = find_device(self.device)
        # Channels, height and width -> (B, C, H, W)
        images = torch.randn(self.batch_size, *self.input_size, generator=torch.Generator().manual_seed(0)).to(device)

        def form_of(network: nn.Module) -> nn.Module:
            return (network.eval() if self.prepare is None else self.prepare(network.eval())).to(device)

        forms = {label: form_of(network) for label, network in {**networks, _BASELINE: baseline}.items()}
        ratios: dict[str, list[float]] = {label: [] for label in networks}
        with num_threads(self.num_threads), torch.inference_mode():
            for index, num_rounds in enumerate(_shared_out(rounds)):
                if index > 0:
                    forms = {label: copy.deepcopy(form) for label, form in forms.items()}
                timings = measure(
                    {label: partial(form, images) for label, form in forms.items()},
                    rounds=num_rounds,
                    min_round_seconds=self.round_seconds,
                    warmup_seconds=self.warmup_seconds,
                    synchronize=synchronizer(device),
                )
                times = self._times(timings[_BASELINE])
                for label, found in ratios.items():
                    found += [b / a for a, b in zip(self._times(timings[label]), times, strict=True)]
        return {label: spread(found) for label, found in ratios.items()}

    def _times(self, timing: Timing) -> tuple[float, ...]:
        return timing.cpu_samples_ms if self.clock == "processor" else timing.samples_ms


def _shared_out(rounds: int) -> list[int]:
    """Rounds of each copy of the networks, all of them together."""
    num_copies = max(1, round(rounds / _ROUNDS_A_COPY))
    return [rounds // num_copies + (index < rounds % num_copies) for index in range(num_copies)]
