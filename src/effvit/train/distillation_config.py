"""Which network a training run learns from, beside the labels: one record, checked when it is made. No torch here."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from effvit.errors import ConfigError
from effvit.model.variants import TIMM_PREFIX
from effvit.sections import Limit, limit_faults, read_section

KINDS = ("soft", "hard")


@dataclass(frozen=True, kw_only=True)
class Distillation:
    """Knowledge distillation (Touvron et al., arXiv:2012.12877, Sec. 4), as the paper's Table 7 uses it."""

    teacher: str = ""
    """The network to learn from: timm:NAME, a run folder or a weights folder; empty for none."""
    weights: str = ""
    """File of a timm teacher's weights; empty takes timm's pretrained ones."""
    kind: str = "soft"
    """What is learnt: soft (the teacher's probabilities) or hard (its first class)."""
    alpha: float = 0.5
    """Share of the teacher's part in the loss, 0..1."""
    temperature: float = 1.0
    """What both networks' logits are divided by for the soft kind, above 0."""

    def __post_init__(self) -> None:
        faults = limit_faults(self, _LIMITS)
        if self.weights and not self.teacher.startswith(TIMM_PREFIX):
            faults.append(f"weights go with a teacher timm:NAME, got teacher {self.teacher!r}")
        if faults:
            raise ConfigError("distillation: " + "; ".join(faults))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Distillation:
        """Rebuild from `to_dict`; an unknown key is an error."""
        return read_section(cls, values, "distillation")


_LIMITS: tuple[Limit, ...] = (
    ("kind", f"one of {', '.join(KINDS)}", lambda value: value in KINDS),
    ("alpha", "in 0..1", lambda value: 0 <= value <= 1),
    ("temperature", "above 0", lambda value: value > 0),
)
