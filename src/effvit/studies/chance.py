"""How much accuracy two networks differ by without any reason: the choice of the pictures that judge them."""

from __future__ import annotations

CERTAINTY = 1.96
"""Standard errors within which 95 % of what chance does lies: one comparison of twenty goes beyond."""


def sampling_variance(top1: float, num_pictures: int) -> float:
    """Variance of the difference of two equally good networks' top-1, for the choice of the validation pictures.

    At most: both see the same pictures and mostly fail on the same ones, which is left out. A few pictures, all
    right or all wrong, are no certainty either: one more of each is assumed.

    Args:
        top1: Share of right predictions, 0..1.
        num_pictures: Validation pictures.

    Returns:
        Square of a share, not of points.
    """
    guarded = (top1 * num_pictures + 1) / (num_pictures + 2)
    return 2 * guarded * (1 - guarded) / num_pictures
