"""Which layers of a network are attention, if a given number of them is, and how wide each is inside."""

from __future__ import annotations

from collections.abc import Iterable

from effvit.errors import ConfigError


def spread_evenly(num_layers: int, num_attention: int) -> tuple[bool, ...]:
    """Spread attention evenly over the layers: layer -> whether it is attention, else it is feed-forward.

    The layers are cut into as many equal stretches as there are attentions, and each attention stands in the middle of
    its stretch. So half of the layers give what a vision transformer is, attention first, and a third the sandwich.

    Raises:
        ConfigError: If there are not that many layers.
    """
    if not 0 <= num_attention <= num_layers:
        raise ConfigError(f"of {num_layers} layers 0 to {num_layers} can be attention, got {num_attention}")

    def before(layer: int) -> int:
        """Attentions before a layer: whole numbers, so that no rounding decides."""
        return (2 * layer * num_attention + num_layers) // (2 * num_layers)

    return tuple(before(layer + 1) > before(layer) for layer in range(num_layers))


def count_for(share: float, num_layers: int) -> int:
    """How many of the layers come nearest to a share, in 0..1.

    Raises:
        ConfigError: If the share is not in 0..1.
    """
    if not 0 <= share <= 1:
        raise ConfigError(f"a share of attention must be in 0..1, got {share}")
    return int(share * num_layers + 0.5)


def multiples(exact: Iterable[float], step: int) -> list[int]:
    """Numbers rounded to multiples of a step, at least one step, so that their running sums stay nearest to the exact.

    Layers that should all be 163 wide become 160, 168, 160, 168, ...: together they are what they should be, and each
    is a width that processors like.
    """
    rounded: list[int] = []
    total = owed = 0.0
    for number in exact:
        total += number
        rounded.append(max(step, int((total - owed) / step + 0.5) * step))
        owed += rounded[-1]
    return rounded
