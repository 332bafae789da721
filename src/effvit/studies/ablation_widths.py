"""How speed is measured in an ablation study, and the widths at which its rows are as fast as the base."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from effvit.analysis.ablations import BASE, Ablation, percents
from effvit.analysis.scaling import Match, match_speed
from effvit.analysis.speed_meter import Clock, SpeedMeter, clock_for
from effvit.deploy.folding import fold_norms
from effvit.errors import ConfigError
from effvit.files import make_output_folder, write_json
from effvit.model.config import EfficientViTConfig
from effvit.model.network import EfficientViT
from effvit.studies.kept import as_json, read_kept

_LABEL = "the row"
_PAPERS_SPREAD = 0.06
"""How far the throughputs of the paper's own rows lie from its M4's (Table 6)."""


@dataclass(frozen=True, kw_only=True)
class SpeedSettings:
    """How speed is measured."""

    batch_size: int = 16
    """Pictures per call; 16 and one thread are the paper's for the CPU."""
    num_threads: int = 1
    """Threads within an operator."""
    device: str = "cpu"
    """Where torch runs; ONNX Runtime runs on the CPU."""
    tolerance: float = 0.03
    """Share by which a rescaled row may miss the base's speed; where no width comes so near, that of the paper's own
    rows, 6 %, will do. The measured speeds are reported."""
    rounds: int = 7
    """Of a trial in the search of a width."""
    confirm_rounds: int = 31
    """Of the measurement that ends it."""
    report_rounds: int = 20
    """Of the measurement that is reported."""
    round_seconds: float = 0.05
    """About how long a sample of the search is."""
    report_seconds: float = 0.2
    """About how long a sample is that is reported."""

    def __post_init__(self) -> None:
        faults = [
            f"{name} must be at least 1, got {value}"
            for name, value in (("batch_size", self.batch_size), ("num_threads", self.num_threads))
            if value < 1
        ]
        if faults:
            raise ConfigError("speed: " + "; ".join(faults))

    def clock_of(self, device: str) -> Clock:
        """Which time counts where this device does the work, see `clock_for`."""
        return clock_for(device, self.num_threads)


def find_widths(
    ablations: Sequence[Ablation],
    base: EfficientViTConfig,
    folder: Path,
    settings: SpeedSettings,
    *,
    on_row: Callable[[Ablation, Match | str], None] | None = None,
) -> dict[str, Match | str]:
    """The widths, in percent of the base's, at which rows are as fast as the base in torch with folded norms.

    Args:
        ablations: The rows; the base itself is passed over.
        base: The network they change.
        folder: Where widths are kept, a file each; made if it is not there.
        settings: How to measure.
        on_row: Told of each row and what was found, kept ones included.

    Returns:
        Key of a row -> its match, or why there is none.

    Raises:
        RunError: If the folder holds widths that were found with other settings.
    """
    folder = make_output_folder(folder)
    channels, (height, width) = base.in_channels, base.image_size
    meter = SpeedMeter(
        input_size=(channels, height, width),
        batch_size=settings.batch_size,
        device=settings.device,
        num_threads=settings.num_threads,
        prepare=fold_norms,
        round_seconds=settings.round_seconds,
    )
    found: dict[str, Match | str] = {}
    for ablation in ablations:
        if ablation.key == BASE.key:
            continue
        path = folder / f"{ablation.key}.json"
        asked = as_json({"row": ablation.config(base).to_dict(), "base": base.to_dict(), "speed": asdict(settings)})
        kept = read_kept(path, asked)
        if kept is not None:
            result: Match | str = Match.from_dict(kept["match"])
        else:
            result = _match(ablation, base, meter, settings)
            if isinstance(result, Match):  # what failed may do the next time: the machine may have been busy
                write_json(path, {"match": result.to_dict(), "settings": asked})
        found[ablation.key] = result
        if on_row is not None:
            on_row(ablation, result)
    return found


def _match(ablation: Ablation, base: EfficientViTConfig, meter: SpeedMeter, settings: SpeedSettings) -> Match | str:
    reason = ""
    for tolerance in (settings.tolerance, max(settings.tolerance, _PAPERS_SPREAD)):
        try:
            return match_speed(
                lambda percent: build(ablation.config(base, percent=percent)),
                percents(base),
                build(base),
                measure=meter,
                tolerance=tolerance,
                start=100,
                rounds=settings.rounds,
                confirm_rounds=settings.confirm_rounds,
                label=_LABEL,
            )
        except ConfigError as error:  # too noisy a machine, or no such width: the other rows have theirs
            reason = str(error).removeprefix(f"{_LABEL}: ")
    return reason


def build(config: EfficientViTConfig) -> EfficientViT:
    """The network with random weights, always the same: an exported file is known by them."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return EfficientViT(config).eval()
