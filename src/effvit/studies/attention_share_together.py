"""All networks of Figure 3 measured in turns, again and again until the error is small: the proof of equal speed.

Where weights lie in memory changes a network's time by some percent, and each build lays them anew. So a build is a
sample, and the median over builds is what a speed is judged by. A network whose widths are changed begins anew; the
samples of the others stay.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from effvit.analysis.ratios.families import Subnetwork
from effvit.analysis.speed_meter import CONTROL, SpeedMeter
from effvit.environment import environment
from effvit.files import read_json, write_json
from effvit.studies.attention_share_curves import SpeedSettings, build
from effvit.studies.kept import as_json
from effvit.timing import Spread, spread


@dataclass(kw_only=True)
class Together:
    """The samples of all networks of a family, kept in a file after each measurement."""

    path: Path
    """The file."""
    baseline: Subnetwork
    """What speed is relative to."""
    settings: SpeedSettings
    """How it is measured."""
    samples: dict[str, list[float]] = field(default_factory=dict)
    """Name -> how many times as fast as the baseline, a build each; the baseline itself as the control."""
    environment: Mapping[str, Any] = field(default_factory=dict)
    """The machine that measured."""
    is_settled: bool = False
    """Whether the file holds what was accepted before: it is not judged anew, for trainings rest on it."""
    num_measurements: int = 0
    """Made by this object."""

    def take_kept(self, networks: Mapping[str, Subnetwork]) -> None:
        """Begin with what the file holds of these very networks, measured with these settings.

        What was not accepted yet counts only on the processor it was measured on.
        """
        kept: dict[str, Any] = read_json(self.path) if self.path.is_file() else {}
        if not kept:
            return
        before, now = dict(kept["settings"]), self._asked(networks)
        there, wanted = before.pop("networks"), now.pop("networks")
        self.is_settled = before == now and there == wanted and kept.get("settled", True)
        if before != now or (not self.is_settled and kept["environment"]["cpu"] != environment()["cpu"]):
            return
        # Files of the first version have the middle, lowest and highest of the builds, and no word of acceptance.
        samples = kept.get("samples") or {name: list(values.values()) for name, values in kept["speeds"].items()}
        self.samples = {name: samples[name] for name in wanted if there.get(name) == wanted[name]}
        self.samples[CONTROL] = samples[CONTROL]
        self.environment = kept["environment"]

    def measure(self, networks: Mapping[str, Subnetwork], meter: SpeedMeter) -> None:
        """Measure all of them `together_builds` times more, and keep it."""
        for _ in range(self.settings.together_builds):
            made = {name: build(network) for name, network in networks.items()}
            speeds = meter.together(made, build(self.baseline), self.settings.together_rounds)
            for name, speed in speeds.items():
                self.samples.setdefault(name, []).append(speed.median)
        self.num_measurements += 1
        self.environment, self.is_settled = environment(), False
        self._write(networks)

    def settle(self, networks: Mapping[str, Subnetwork]) -> None:
        """Note that these speeds are accepted."""
        if not self.is_settled:
            self.is_settled = True
            self._write(networks)

    def is_within(self, targets: Mapping[str, float], *, unsure: bool = False) -> bool:
        """Whether every network has its speed.

        Args:
            targets: Name -> the speed it should have.
            unsure: Whether this may be said although the error is larger than half of the tolerance.
        """
        if any(name not in self.samples for name in targets):
            return False
        unsure = unsure or self.is_settled
        return all(
            self.off(name, target) <= self.settings.tolerance
            and (unsure or self.error(name) <= self.settings.tolerance / 2)
            for name, target in targets.items()
        )

    def wrong(self, targets: Mapping[str, float]) -> list[str]:
        """Networks that are off by more than noise explains, or that are off and well enough known."""
        tolerance, found = self.settings.tolerance, []
        for name, target in targets.items():
            if name in self.samples and self.off(name, target) > tolerance:
                error = self.error(name)
                if error <= tolerance / 2 or self.off(name, target) - 2 * error > tolerance:
                    found.append(name)
        return found

    def off(self, name: str, target: float) -> float:
        """Share by which a network misses its speed."""
        return abs(self.speed(name).median / target - 1)

    def forget(self, name: str) -> None:
        """Begin anew with a network whose widths have changed."""
        del self.samples[name]

    def speed(self, name: str) -> Spread:
        """Median and quartiles over the builds."""
        return spread(self.samples[name])

    def error(self, name: str) -> float:
        """Standard error of a median, as a share of it; infinite before anything can be said.

        From the scatter of all networks' builds: the machine is the same, and a few builds of one would tell little.
        """
        several = [found for name, found in self.samples.items() if name != CONTROL and len(found) > 1]
        scatter = [statistics.variance([math.log(speed) for speed in found]) for found in several]
        if not scatter:
            return math.inf
        return 1.2533 * math.sqrt(statistics.fmean(scatter) / len(self.samples[name]))

    def _write(self, networks: Mapping[str, Subnetwork]) -> None:
        values = {
            "settings": self._asked(networks),
            "speeds": {name: self.speed(name)._asdict() for name in (*networks, CONTROL)},
            "samples": self.samples,
            "settled": self.is_settled,
            "environment": self.environment,
        }
        write_json(self.path, values)

    def _asked(self, networks: Mapping[str, Subnetwork]) -> Any:
        return as_json({"networks": {name: n.to_dict() for name, n in networks.items()}, **asdict(self.settings)})
