"""How small a pruned network shall be: a limit as people write it, and as a number."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from effvit.errors import ConfigError

LimitKind = Literal["macs", "params", "latency"]
_ALLOWED = "macs=70%, macs=140M, params=3M, latency=80% or latency=6ms"
_UNITS = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9}
_WRITTEN = (("M", 1e6), ("k", 1e3), ("", 1.0))
"""Unit and from which amount on it is written; the last for all below."""
_FEWEST_IN_MILLIONS = 1000
"""Amount from which on it is told in millions."""
_LIMIT = re.compile(r"(macs|params|latency)\s*=\s*(\d+(?:\.\d+)?)\s*(%|ms|k|m|g|)", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Limit:
    """What a pruned network may take at most."""

    kind: LimitKind
    """Of what: multiply-adds, parameters, or measured time of one call."""
    amount: float
    """How much, if `is_share` of the full network's, in (0, 1); else a number, or milliseconds."""
    is_share: bool = True
    """Whether the amount is a share."""

    def __post_init__(self) -> None:
        if self.kind not in ("macs", "params", "latency"):
            raise ConfigError(f"limit must be one of {_ALLOWED}, got kind {self.kind!r}")
        if self.is_share and not 0 < self.amount < 1:
            raise ConfigError(f"a limit in percent must be above 0% and below 100%, got {self}")
        if not self.amount > 0:
            raise ConfigError(f"a limit must be above 0, got {self}")

    def absolute(self, full: float) -> float:
        """The largest amount allowed, of a network that takes `full`.

        Raises:
            ConfigError: If the full network is within the limit already.
        """
        allowed = self.amount * full if self.is_share else self.amount
        if full <= allowed:
            raise ConfigError(
                f"nothing to prune: the network takes {self.text(full)} already, and the limit is {self.text(allowed)}"
            )
        return allowed

    def text(self, amount: float) -> str:
        """An amount for people, with its unit."""
        if self.kind == "latency":
            return f"{amount:.3g} ms"
        unit = "MACs" if self.kind == "macs" else "parameters"
        return f"{amount / 1e6:.4g} M {unit}" if amount >= _FEWEST_IN_MILLIONS else f"{amount:g} {unit}"

    def __str__(self) -> str:
        if self.is_share:
            return f"{self.kind}={self.amount * 100:.10g}%"
        if self.kind == "latency":
            return f"latency={self.amount:g}ms"
        unit, size = next((unit, size) for unit, size in _WRITTEN if self.amount >= size or size == 1)
        return f"{self.kind}={self.amount / size:.10g}{unit}"


def parse_limit(text: str) -> Limit:
    """Read a limit such as `macs=70%`, `params=3M` or `latency=6ms`.

    Raises:
        ConfigError: If it is none.
    """
    match = _LIMIT.fullmatch(text.strip())
    if match is None:
        raise ConfigError(f"limit must be like {_ALLOWED}, got {text!r}")
    kind, number, unit = match[1].lower(), float(match[2]), match[3].lower()
    if unit == "%":
        return Limit(kind=kind, amount=number / 100)  # type: ignore[arg-type]  # the pattern allows no other
    if (kind == "latency") != (unit == "ms"):
        raise ConfigError(f"limit must be like {_ALLOWED}, got {text!r}")
    return Limit(kind=kind, amount=number * _UNITS.get(unit, 1.0), is_share=False)  # type: ignore[arg-type]
