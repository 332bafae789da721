"""Pictures that are in a data set more than once: the same pixels, or nearly the same to look at.

Exact: SHA-256 of the decoded pixels and not of the file, because copies whose metadata were stripped or
whose container changed are the same picture to a network.

Near: difference hashes, which note for each cell of a small grey copy whether it is brighter than its
left neighbour, and so keep what re-encoding, resizing and a change of brightness keep. Two
pictures are near duplicates if at most 6 of 64 bits differ on an 8 x 8 grid, which finds candidates fast,
and at most 32 of 256 on a 16 x 16 grid, which confirms them.

How the limits were chosen, on the 4,731 photos of the Grocery Store data set (many show the same
object on the same shelf): 2,000 altered copies (JPEG quality 30, half, a quarter and twice the size, 1.2 times
as bright) differ from their originals in at most 5 of 64 and 22 of 256 bits. Of all 11 million pairs of
originals 8 are within both limits; looked at, each is the same object photographed twice within
seconds. Up to 44 of 256 bits this stays so. A crop by 3 % on each side moves most pictures beyond the limits:
cropped and turned copies are not found.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

MAX_COARSE_BITS = 6
"""Most bits of 64 in which near duplicates differ."""
MAX_FINE_BITS = 32
"""Most bits of 256 in which near duplicates differ."""


class Fingerprint(NamedTuple):
    """What a picture is recognised by."""

    pixels: str
    """SHA-256 of size and pixels."""
    coarse: int
    """Difference hash of 8 x 8 cells, 64 bits."""
    fine: tuple[int, ...]
    """Difference hash of 16 x 16 cells, four times 64 bits."""


class NearPair(NamedTuple):
    """Two pictures that look alike."""

    first: int
    """Position of the one."""
    second: int
    """Position of the other, later one."""
    num_bits: int
    """Of 256, in which they differ."""


def fingerprint(picture: Image.Image) -> Fingerprint:
    """Recognise an RGB picture by its pixels and by its coarse shape."""
    pixels = hashlib.sha256(f"{picture.size}".encode())
    pixels.update(picture.tobytes())
    grey = picture.convert("L")
    return Fingerprint(pixels.hexdigest(), _difference_hash(grey, 8)[0], _difference_hash(grey, 16))


def exact_groups(pixels: Sequence[str]) -> list[list[int]]:
    """Positions of the same `Fingerprint.pixels`, for those that occur more than once."""
    positions: dict[str, list[int]] = {}
    for position, value in enumerate(pixels):
        positions.setdefault(value, []).append(position)
    return [group for group in positions.values() if len(group) > 1]


def near_pairs(coarse: Sequence[int], fine: Sequence[Sequence[int]]) -> list[NearPair]:
    """All pairs within both limits, sorted; the search grows far slower than the number of pairs.

    Hashes of 64 bits that differ in at most 6 are equal in at least one of 7 stretches of their bits, so
    only pictures that share a stretch are compared.

    Args:
        coarse: `Fingerprint.coarse` of each picture.
        fine: `Fingerprint.fine` of each.
    """
    hashes = np.array(coarse, dtype=np.uint64)
    found = set()
    for shift, width in _stretches():
        keys = (hashes >> np.uint64(shift)) & np.uint64((1 << width) - 1)
        order = np.argsort(keys, kind="stable")
        for group in np.split(order, np.flatnonzero(np.diff(keys[order])) + 1):
            found |= _close_pairs(group, hashes)
    if not found:
        return []
    pairs = np.array(sorted(found))  # (P, 2)
    words = np.array(fine, dtype=np.uint64)  # (N, 4)
    num_bits = np.bitwise_count(words[pairs[:, 0]] ^ words[pairs[:, 1]]).sum(axis=1)  # (P,)
    return [
        NearPair(int(first), int(second), int(bits))
        for (first, second), bits in zip(pairs, num_bits, strict=True)
        if bits <= MAX_FINE_BITS
    ]


def connected(pairs: Sequence[NearPair]) -> list[list[int]]:
    """Pictures that are linked by pairs, directly or through others: a burst of shots is one group."""
    group_of: dict[int, list[int]] = {}
    for first, second, _ in pairs:
        one, other = group_of.get(first, [first]), group_of.get(second, [second])
        if one is not other:
            one = one + other
        for position in one:
            group_of[position] = one
    groups = {id(group): sorted(group) for group in group_of.values()}
    return sorted(groups.values())


def _difference_hash(grey: Image.Image, side: int) -> tuple[int, ...]:
    """Whether each of side x side cells is brighter than the one to its left, as whole numbers of 64 bits."""
    cells = np.asarray(grey.resize((side + 1, side), Image.Resampling.BILINEAR))
    bits = np.packbits(cells[:, 1:] > cells[:, :-1])
    return tuple(bits.view(np.uint64).tolist())


def _stretches() -> list[tuple[int, int]]:
    """Where to cut 64 bits into one stretch more than may differ: (first bit, number of bits)."""
    edges = np.linspace(0, 64, MAX_COARSE_BITS + 2).astype(int).tolist()
    return [(start, end - start) for start, end in itertools.pairwise(edges)]


def _close_pairs(group: NDArray[np.int64], hashes: NDArray[np.uint64]) -> set[tuple[int, int]]:
    """Pairs of a group within `MAX_COARSE_BITS`, the smaller position first."""
    members = np.sort(group)
    found = set()
    for index, position in enumerate(members[:-1]):
        later = members[index + 1 :]
        close = later[np.bitwise_count(hashes[position] ^ hashes[later]) <= MAX_COARSE_BITS]
        found |= {(int(position), int(other)) for other in close}
    return found
