"""What the accuracies of an ablation study say beyond chance, and whether they order the rows as the paper does."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from effvit.analysis.ablations import BASE
from effvit.studies.ablation import AblationStudy, Version
from effvit.studies.chance import CERTAINTY, sampling_variance


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A network's top-1 over the base's, in points, trained alike with the same seeds."""

    by_seed: dict[int, float]
    """Points, for each seed that both were trained with."""

    @property
    def mean(self) -> float:
        """Mean over the seeds."""
        return statistics.fmean(self.by_seed.values())


@dataclass(frozen=True, kw_only=True)
class Chance:
    """How large a difference to the base can be without any reason."""

    sampling: float
    """Standard error for the choice of the validation pictures, in points; at most, since both see the same ones."""
    seeds: float | None
    """Standard error for initial weights and order, in points, from the spread between seeds; None with one seed."""

    @property
    def limit(self) -> float:
        """Points that chance goes beyond in one comparison of twenty."""
        return CERTAINTY * math.hypot(self.sampling, self.seeds or 0.0)


def difference(study: AblationStudy, version: Version) -> Difference | None:
    """The difference to the base; None where one of the two was not trained to the end with any seed."""
    base, own = study.top1(study.base_version), study.top1(version)
    by_seed = {seed: 100 * (own[seed] - base[seed]) for seed in own if seed in base}
    return Difference(by_seed=by_seed) if by_seed else None


def compared(study: AblationStudy) -> list[tuple[Version, Difference]]:
    """Every network but the base, with its difference; a row whose scaled widths are the base's stands there twice."""
    found = ((version, difference(study, version)) for version in study.versions if version.ablation.key != BASE.key)
    return [(version, known) for version, known in found if known is not None]


def chance(study: AblationStudy) -> Chance | None:
    """How large differences can be by chance; None where nothing was trained."""
    base = study.top1(study.base_version)
    if not base or study.budget is None:
        return None
    share = statistics.fmean(base.values())
    sampling = 100 * math.sqrt(sampling_variance(share, len(study.budget.data.val)))
    spreads = {  # each network once
        version.entrant.name: list(found.by_seed.values())
        for version, found in compared(study)
        if len(found.by_seed) > 1
    }
    if not spreads:
        return Chance(sampling=sampling, seeds=None)
    squares = [statistics.variance(values) / len(values) for values in spreads.values()]
    return Chance(sampling=sampling, seeds=math.sqrt(statistics.fmean(squares)))


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Spearman's: 1 where both order alike, -1 where opposite; None where one of them orders nothing."""
    ranks = [_ranks(values) for values in (first, second)]
    if len(first) < 3 or any(len(set(values)) == 1 for values in ranks):
        return None
    return statistics.correlation(*ranks)


def _ranks(values: Sequence[float]) -> list[float]:
    """The place of each in order, equal ones sharing the mean of theirs."""
    return [sum(other < value for other in values) + (values.count(value) - 1) / 2 for value in values]
