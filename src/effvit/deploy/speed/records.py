"""What a benchmark leaves: rows, the conditions they were measured under, what could not be measured and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from effvit.errors import RunError
from effvit.files import read_json
from effvit.timing import Spread, Timing

BatchSize = int | Literal["max"]
CONTROL = "control: "
"""Label of the first model measured a second time; how far it is from 1 is the noise of the run."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One model in one runtime, precision and batch size."""

    model: str
    """Name, unique among the rows of one runtime, precision and batch size."""
    form: str
    """What was done to it so that it runs at its best."""
    runtime: str
    """What ran it."""
    precision: str
    """Number format of its arithmetic; `file` for what an exported file says itself."""
    batch_size: int
    """Pictures per call."""
    image_size: tuple[int, int]
    """Height and width in pixels."""
    num_params: int | None
    """Parameters before rewriting; None where a file does not tell."""
    timing: Timing
    """What it took, round by round."""
    relative: Spread
    """Its time per picture over that of the first row of its batch size, round by round; above 1 is slower."""
    is_control: bool
    """Whether this is the first model a second time."""
    top1: float | None = None
    """ImageNet-1k top-1 in percent as published for its weights, see `effvit.deploy.speed.published_accuracy`."""
    tried_ms: dict[str, float] | None = None
    """Milliseconds of each form that was tried before the measurement; None where there was one only."""
    failed: dict[str, str] = field(default_factory=dict)
    """Form that was tried and could not be run -> why not, in one line."""
    peak_memory_mib: float | None = None
    """Memory one call takes above the weights; None where nothing tells it, see `resources.peak_memory`."""

    @property
    def images_per_second(self) -> float:
        """Pictures per second at the latency that stands for all samples."""
        return self.batch_size / self.timing.latency_ms * 1e3

    @property
    def key(self) -> tuple[str, str, str, int]:
        """What names a row in its record and in another: model, runtime, precision, batch size."""
        return self.model, self.runtime, self.precision, self.batch_size

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        values = {key: value for key, value in vars(self).items() if key not in ("timing", "relative")}
        return {
            **values,
            "images_per_second": self.images_per_second,
            "relative": self.relative._asdict(),
            **self.timing.to_dict(),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Row:
        """Read what `to_dict` wrote."""
        own = {field.name: values[field.name] for field in fields(cls) if field.name in values}
        own["image_size"] = tuple(own["image_size"])
        return cls(**{**own, "timing": Timing.from_dict(values), "relative": Spread(**values["relative"])})


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How it was measured."""

    name: Literal["interleaved", "paper"] = "interleaved"
    """`interleaved`: models take turns. `paper`: one after the other, see `effvit.deploy.speed.paper_protocol`."""
    batch_sizes: tuple[BatchSize, ...]
    """Pictures per call; `max` for the batch of each model's highest throughput, found by doubling."""
    image_size: tuple[int, int] | None
    """Height and width for all; None for each model's own."""
    runtimes: tuple[str, ...] = ("torch",)
    """What was asked for: every model in each of them."""
    precisions: tuple[str, ...] = ("fp32",)
    """The same for number formats."""
    form: str = "best"
    """The form of models whose names do not say it, see `effvit.deploy.speed.sources.FORM_NAMES`."""
    device: str
    """Where torch ran."""
    num_threads: int
    """Threads within an operator, in every runtime."""
    rounds: int
    """Samples per model and batch size, taken in turns; 1 in the paper's protocol."""
    min_round_seconds: float
    """About how long one sample is."""
    warmup_seconds: float
    """How long each model ran before the first sample, at least."""
    pinned_cores: tuple[int, ...] | None = None
    """Cores that the threads were held on; None where they were not."""
    weights: str = "random for names, the saved ones for folders and files"
    """What was in the networks."""
    calibration: str | None = None
    """What int8 networks were calibrated with; None where there are none."""
    energy: str = "not told by this machine"
    """Where joules come from."""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Protocol:
        """Read what `dataclasses.asdict` wrote; later fields are passed over."""
        known = {field.name: values[field.name] for field in fields(cls) if field.name in values}
        for name in ("batch_sizes", "image_size", "runtimes", "precisions", "pinned_cores"):
            if known.get(name) is not None:
                known[name] = tuple(known[name])
        return cls(**known)


@dataclass(frozen=True, kw_only=True)
class Missing:
    """Something that was asked for and could not be measured."""

    model: str
    """Name."""
    runtime: str
    """Where it should have run."""
    precision: str
    """In which number format."""
    batch_size: int | None
    """At which batch size; None for all."""
    reason: str
    """Why not, in one line."""


@dataclass(frozen=True, kw_only=True)
class Shares:
    """Where the time of one row goes."""

    model: str
    """As the row's, like the next three."""
    runtime: str
    """See `model`."""
    precision: str
    """See `model`."""
    batch_size: int
    """See `model`."""
    shares: dict[str, float]
    """Class of operators -> share of the time of all operators, 0..1, see `effvit.deploy.speed.shares`."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """One run of a benchmark, with all that is needed to repeat and to judge it."""

    protocol: Protocol
    """How it was measured."""
    environment: dict[str, Any]
    """On what."""
    rows: tuple[Row, ...]
    """What came out, by batch size, the control last."""
    missing: tuple[Missing, ...] = ()
    """What did not."""
    shares: tuple[Shares, ...] = ()
    """Where the time goes, for the rows this was asked of."""
    command: str | None = None
    """The command that made it."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "command": self.command,
            "protocol": asdict(self.protocol),
            "environment": self.environment,
            "rows": [row.to_dict() for row in self.rows],
            "missing": [asdict(missing) for missing in self.missing],
            "shares": [asdict(shares) for shares in self.shares],
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Record:
        """Read what `to_dict` wrote.

        Raises:
            KeyError, TypeError, ValueError: If it is something else; `read_record` makes one line of it.
        """
        return cls(
            protocol=Protocol.from_dict(values["protocol"]),
            environment=values["environment"],
            rows=tuple(map(Row.from_dict, values["rows"])),
            missing=tuple(Missing(**missing) for missing in values.get("missing", ())),
            shares=tuple(Shares(**shares) for shares in values.get("shares", ())),
            command=values.get("command"),
        )


def read_record(path: Path | str) -> Record:
    """Read a record from its JSON file.

    Raises:
        RunError: If it is missing, damaged, or no record of a benchmark.
    """
    values = read_json(path)
    try:
        return Record.from_dict(values)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RunError(f"{path} is not a record of effvit benchmark: {type(error).__name__} {error}") from error
