"""Which width to measure next, so that few measurements end at the one whose speed is nearest to a target.

A measurement says how far a width is from the target, its excess: the logarithm of its speed over the target.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

_USUAL_POWER = 1.5
"""How fast speed falls with width before two widths are known: between 1, element-wise work, and 2, products."""
_LEAST_POWER = 0.1
"""The least that is believed: noise between two near widths can make it anything."""


def search(
    excess_of: Callable[[int], float], widths: Sequence[int], start: int | None, *, enough: float
) -> dict[int, float]:
    """Measure widths until two neighbours lie on both sides of the target, or one is near enough.

    Args:
        excess_of: Measures the width of an index.
        widths: In rising order.
        start: The width to begin near; None for the middle.
        enough: Excess, of either sign, that ends the search.

    Returns:
        Index -> excess of all that was measured.
    """
    tried: dict[int, float] = {}
    index = len(widths) // 2 if start is None else min(range(len(widths)), key=lambda i: abs(widths[i] - start))
    while index not in tried:
        tried[index] = excess_of(index)
        if abs(tried[index]) <= enough:
            break
        index = next_index(index, tried, tried, widths)
    return tried


def next_index(index: int, values: Mapping[int, float], known: Mapping[int, float], widths: Sequence[int]) -> int:
    """The width to measure after `index`, or one that was measured already: then there is nothing left to try.

    Speed falls about as a power of the width. The power is taken from what is known, and the next width is where it
    meets the target, inside the bracket of the `values` on both sides of it.
    """
    low = max((i for i, excess in values.items() if excess > 0), default=-1)  # the widest that is fast enough
    high = min((i for i, excess in values.items() if excess <= 0), default=len(widths))  # the narrowest that is not
    if high - low <= 1:
        return index
    first, last = min(known), max(known)
    power = _USUAL_POWER
    if first != last:
        power = max((known[first] - known[last]) / math.log(widths[last] / widths[first]), _LEAST_POWER)
    wanted = widths[index] * math.exp(min(values[index] / power, 30.0))
    nearest = min(range(low + 1, high), key=lambda i: abs(widths[i] - wanted))
    if low >= 0 and high < len(widths) and min(nearest - low, high - nearest) < (high - low) // 4:
        return (low + high) // 2  # the power misleads: an end of the bracket would creep
    return nearest
