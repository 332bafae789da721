"""Two records beside each other: what became faster, what slower, and what is noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from effvit.deploy.speed.records import Record, Row
from effvit.errors import ConfigError
from effvit.timing import Spread, unpaired_ratio


@dataclass(frozen=True, kw_only=True)
class RowChange:
    """One row that both records have."""

    model: str
    """Name, as the next three in both records."""
    runtime: str
    """What ran it."""
    precision: str
    """Number format."""
    batch_size: int
    """Pictures per call."""
    before_ms: float
    """Its time in the first record."""
    after_ms: float
    """Its time in the second."""
    ratio: Spread
    """After over before, between what the quartiles allow; above 1 became slower."""
    is_beyond_noise: bool
    """Whether the quartiles exclude 1, and the change is larger than what the controls of both records differ."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What two records have in common, and what they have not."""

    changes: tuple[RowChange, ...]
    """Rows of both."""
    only_before: tuple[str, ...]
    """Rows of the first alone."""
    only_after: tuple[str, ...]
    """Rows of the second alone."""
    warnings: tuple[str, ...]
    """What differs between the two runs beside what was measured."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        changes = [{**asdict(change), "ratio": change.ratio._asdict()} for change in self.changes]
        return {**asdict(self), "changes": changes}


def compare(before: Record, after: Record) -> Comparison:
    """Match the rows of two records by model, runtime, precision, batch and picture size.

    Args:
        before: The first record.
        after: The second.

    Raises:
        ConfigError: If they were measured on different devices, with different numbers of threads, or by different
            protocols, so that equal names mean different things; or if they share no row.
    """
    for name in ("device", "num_threads", "name"):
        values = [getattr(record.protocol, name) for record in (before, after)]
        if values[0] != values[1]:
            what = "protocol" if name == "name" else name.replace("_", " ").replace("num", "number of")
            raise ConfigError(f"these records cannot be compared: {what} {values[0]} and {values[1]}")
    first, second = ({_identity(row): row for row in record.rows if not row.is_control} for record in (before, after))
    common = [key for key in first if key in second]
    if not common:
        raise ConfigError("these records share no row: nothing has the same model, runtime, precision, batch and size")
    noise = max(_noise(before.rows), _noise(after.rows))
    return Comparison(
        changes=tuple(_change(first[key], second[key], noise) for key in common),
        only_before=tuple(_name(row) for key, row in first.items() if key not in second),
        only_after=tuple(_name(row) for key, row in second.items() if key not in first),
        warnings=tuple(_warnings(before, after)),
    )


def _change(before: Row, after: Row, noise: float) -> RowChange:
    ratio = unpaired_ratio(after.timing, before.timing)
    excludes_one = ratio.p25 > 1 or ratio.p75 < 1
    return RowChange(
        model=before.model,
        runtime=before.runtime,
        precision=before.precision,
        batch_size=before.batch_size,
        before_ms=before.timing.latency_ms,
        after_ms=after.timing.latency_ms,
        ratio=ratio,
        is_beyond_noise=excludes_one and abs(ratio.median - 1) > noise,
    )


def _identity(row: Row) -> tuple[object, ...]:
    return *row.key, row.image_size


def _name(row: Row) -> str:
    return f"{row.model}, {row.runtime}, {row.precision}, batch {row.batch_size}, {'x'.join(map(str, row.image_size))}"


def _noise(rows: Sequence[Row]) -> float:
    """By how much a model differs from itself at most."""
    return max((abs(row.relative.median - 1) for row in rows if row.is_control), default=0.0)


def _warnings(before: Record, after: Record) -> list[str]:
    found = ["the two were measured apart: what the machine did meanwhile is in the ratios"]
    for name in ("cpu", "accelerator", "cores_usable", "os"):
        values = [record.environment.get(name) for record in (before, after)]
        if values[0] != values[1]:
            found.append(f"different {name.replace('_', ' ')}: {values[0]} and {values[1]}")
    versions = [record.environment.get("versions", {}) for record in (before, after)]
    for package in sorted(versions[0].keys() & versions[1].keys()):
        if versions[0][package] != versions[1][package]:
            found.append(f"different {package}: {versions[0][package]} and {versions[1][package]}")
    if bool(before.protocol.pinned_cores) != bool(after.protocol.pinned_cores):
        found.append("only one of the two was pinned to cores")
    return found
